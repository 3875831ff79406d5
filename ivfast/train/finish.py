"""What a finished run leaves: the chosen centers and network, with all that is fitted for them."""

from typing import Any

import numpy as np

from ivfast.choose.facts import fit_facts
from ivfast.choose.judgement import value
from ivfast.choose.verdict import WAYS, Candidate, Verdict, decide, over_kmeans, part_of_the_way
from ivfast.network.backend import load_ranker
from ivfast.route.routers import centers_router
from ivfast.runtime.files import save_array
from ivfast.runtime.versions import versions
from ivfast.store.dcnet_file import Model, model_router, save_model
from ivfast.store.records import Facts
from ivfast.train.point import WHERE, Point
from ivfast.train.run import Run, centers_of, judge_router, params_of, weights_of

LOST = 0.05  # where a part of the way is worse than all of it by so much, no shorter part is tried


def export(run: Run, point: Point) -> None:
    """Choose among all epochs, say what was chosen, and write kmeans.npy, ivfast.npy and dcnet.safetensors.

    raises: RunError where a file cannot be written
    """
    config, progress = run.config, run.progress
    folder, space = config.save_path, run.learn.points.space
    with progress.stage("choosing"):
        verdicts = {router: _decide(run, router, point) for router in point.choices}
    for router, verdict in verdicts.items():
        progress.note(f"{router}: {verdict.text}")
    chosen = verdicts["centers"].chosen
    if chosen.is_kmeans:
        progress.note("no gain on held-out vectors: ivfast.npy is k-means")
    files = {"kmeans.npy": space.outside(run.kmeans), "ivfast.npy": space.outside(centers_of(run, chosen))}
    for name, centers in files.items():
        save_array(folder / name, centers)
    setup = run.backend.setup
    model = Model(
        facts={},
        net=_net(run, verdicts["net"].chosen) if config.deep else {},
        mean=setup.mean,
        scale=setup.scale,
        space=space,
        delta_floor=setup.delta_floor,
        param_list=config.param_list,
        asking=run.held.asking,
        about=_about(run, verdicts),
        log=run.log,
    )
    with progress.stage("fitting facts"):
        model = model._replace(facts=_fit_all(run, point, verdicts, model, files))
    for name, facts in model.facts.items():
        progress.note(f"{name}: {_expectation(facts)}")
    with progress.stage("writing the model"):
        save_model(folder / "dcnet.safetensors", model, folder / "ivfast.npy")
    names = ("ivfast.npy", "kmeans.npy", "dcnet.safetensors")
    progress.note(f"written: {', '.join(str(folder / name) for name in names)}")


def _net(run: Run, chosen: Candidate) -> dict[str, np.ndarray]:
    net = run.backend.export(params_of(run, chosen))
    if chosen.is_kmeans and run.started_at:  # the backend's weights move the start
        net["centers"] = run.kmeans
    return net


def _decide(run: Run, router: str, point: Point) -> Verdict:
    """Beside the best epoch, try parts of the last one's way: it has settled, however good the others were."""
    choice = point.choices[router]
    if choice.given and point.epoch == 0:  # there is no way: nothing was trained
        return decide(choice, [], run.kmeans_curves, run.config.seed)
    start = choice.given or choice.start
    arrays = weights_of(run, router, point.state.params)
    last = choice.start._replace(epoch=point.epoch, k=point.goal.k, arrays=arrays)
    shorter, values = [], []
    for way in WAYS:
        candidate = part_of_the_way(last, start.k, way)
        judgement = judge_router(run, router, params_of(run, candidate), candidate.k)
        shorter.append(candidate._replace(judgement=judgement))
        values.append(over_kmeans(value(judgement, run.kmeans_curves), choice, run.kmeans_curves))
        whole = over_kmeans(choice.values[-1], choice, run.kmeans_curves) if choice.values else np.inf
        if values[-1] > (1 + LOST) * whole:
            break  # shorter ways lie nearer k-means still
    shown = ", ".join(f"{candidate.way:g} {found:.3f}" for candidate, found in zip(shorter, values, strict=True))
    origin = "the given start" if choice.given else "k-means"
    run.progress.note(f"{router}: the same at parts of the last epoch's way from {origin}: {shown}")
    return decide(choice, shorter, run.kmeans_curves, run.config.seed)


def _expectation(facts: Facts) -> str:
    """What is known before any base is."""
    level = f"{facts.recall:.2f}"
    best = min(facts.storings, key=lambda storing: storing.predicted[level].scanned)
    predicted = best.predicted[level]
    return (
        f"{100 * facts.recall:.0f} % recall is expected at nprobe {predicted.nprobe:.1f}, "
        f"{100 * predicted.scanned:.2f} % scanned (percent {best.copies:g}); "
        f"memberships at T {facts.probing_t:.2f} are {100 * facts.calibration_error:.1f} % off as chances"
    )


def _fit_all(
    run: Run, point: Point, verdicts: dict[str, Verdict], model: Model, files: dict[str, np.ndarray]
) -> dict[str, Facts]:
    """Facts of the routers as a reader of the files will see them. files: centers as they are written"""
    space, copies = model.space, run.config.percents
    facts = {}
    start = point.choices["centers"].start
    ranker = load_ranker(run.config.backend, run.config.gpu)
    for name, file, k in (("kmeans", "kmeans.npy", start.k), ("centers", "ivfast.npy", verdicts["centers"].chosen.k)):
        router = centers_router(name, space.inside(files[file]), space.metric, model.delta_floor, k, ranker)
        facts[name] = fit_facts(run.held, router, k, copies)
    if "net" in verdicts:
        k = verdicts["net"].chosen.k
        facts["net"] = fit_facts(run.held, model_router(model, k, run.config.backend, run.config.gpu), k, copies)
    return facts


def _about(run: Run, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    settings = {name: value for name, value in run.config.as_dict().items() if name not in WHERE}
    learn = run.learn.points.vectors
    started_at = {"start": run.started_at} if run.started_at else {}
    return started_at | {
        "settings": settings,
        "learn": {"shape": [len(learn), learn.dim], "hash": learn.digest},
        "chosen_epochs": {router: verdict.chosen.epoch for router, verdict in verdicts.items()},
        "chosen_ways": {router: verdict.chosen.way for router, verdict in verdicts.items()},
        "held_out_gain": {router: [verdict.gain, verdict.error] for router, verdict in verdicts.items()},
        "versions": versions(),
    }
