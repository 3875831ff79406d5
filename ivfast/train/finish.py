"""What a finished run leaves: the chosen centers and network, with all that is fitted for them."""

from typing import Any

from ivfast.choose.facts import fit_facts
from ivfast.choose.judgement import value
from ivfast.choose.verdict import WAYS, Verdict, decide, over_kmeans, part_of_the_way
from ivfast.data.centers import open_centers
from ivfast.route.routers import centers_router
from ivfast.runtime.files import save_array
from ivfast.runtime.versions import versions
from ivfast.store.dcnet_file import Facts, Model, model_router, save_model
from ivfast.train.point import WHERE, Point
from ivfast.train.run import Run, centers_of, judge_router, state_of, weights_of


def export(run: Run, point: Point) -> None:
    """Choose among all epochs, say what was chosen, and write kmeans.npy, ivfast.npy and dcnet.safetensors."""
    config, prepared, progress = run.config, run.prepared, run.progress
    folder, space = config.save_path, prepared.space
    verdicts = {router: _decide(run, router, point) for router in point.choices}
    for router, verdict in verdicts.items():
        progress.note(f"{router}: {verdict.text}")
    chosen = verdicts["centers"].chosen
    if chosen.epoch == 0:
        progress.note("no gain on held-out vectors: ivfast.npy is k-means")
    save_array(folder / "kmeans.npy", space.outside(prepared.kmeans))
    save_array(folder / "ivfast.npy", space.outside(centers_of(run, chosen)))
    setup = run.backend.setup
    model = Model(
        {}, run.backend.export(state_of(run, verdicts["net"].chosen)) if config.deep else {}, setup.mean,
        setup.scale, space,
        setup.delta_floor, config.param_list, run.held.asking, _about(run, verdicts),
    )  # fmt: skip
    model = model._replace(facts=_fit_all(run, point.choices["centers"].start.k, verdicts, model))
    for name, found in model.facts.items():
        progress.note(f"{name}: {_expectation(found)}")
    save_model(folder / "dcnet.safetensors", model, folder / "ivfast.npy")
    names = ("ivfast.npy", "kmeans.npy", "dcnet.safetensors")
    progress.note(f"written: {', '.join(str(folder / name) for name in names)}")


def _decide(run: Run, router: str, point: Point) -> Verdict:
    """Beside the best epoch, try parts of the last one's way: it has settled, however good the others were."""
    choice = point.choices[router]
    last = choice.start._replace(epoch=point.epoch, k=point.goal.k, arrays=weights_of(run, router, point.state))
    shorter = []
    for way in WAYS:
        candidate = part_of_the_way(last, choice.start.k, way)
        state = state_of(run, candidate)
        shorter.append(candidate._replace(judgement=judge_router(run, router, state, candidate.k)))
    values = [over_kmeans(value(c.judgement, run.kmeans), choice, run.kmeans) for c in shorter]
    told = ", ".join(f"{candidate.way:g} {found:.3f}" for candidate, found in zip(shorter, values, strict=True))
    run.progress.note(f"{router}: the same at parts of the last epoch's way from k-means: {told}")
    return decide(choice, shorter, run.kmeans, run.config.seed)


def _expectation(facts: Facts) -> str:
    """What is known before any base is."""
    percent = min(facts.predicted, key=lambda p: facts.predicted[p]["0.90"].scanned)
    told = facts.predicted[percent]["0.90"]
    return (
        f"90 % recall is expected at nprobe {told.nprobe:.1f}, {100 * told.scanned:.2f} % scanned "
        f"(percent {percent:g}); "
        f"memberships at T {facts.temperature:.2f} are {100 * facts.calibration_error:.1f} % off as chances"
    )


def _fit_all(run: Run, kmeans_k: float, verdicts: dict[str, Verdict], model: Model) -> dict[str, Facts]:
    """Facts of the routers as a reader of the files will see them."""
    folder, space = run.config.save_path, run.prepared.space
    facts = {}
    for name, file, k in (("kmeans", "kmeans.npy", kmeans_k), ("centers", "ivfast.npy", verdicts["centers"].chosen.k)):
        centers = space.inside(open_centers(folder / file))
        router = centers_router(name, centers, space.metric, model.delta_floor, k)
        facts[name] = fit_facts(run.held, router, k, run.config.percents)
    if "net" in verdicts:
        k = verdicts["net"].chosen.k
        router = model_router(model, k, run.config.backend, run.config.gpu)
        facts["net"] = fit_facts(run.held, router, k, run.config.percents)
    return facts


def _about(run: Run, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    settings = {name: value for name, value in run.config.as_dict().items() if name not in WHERE}
    return {
        "settings": settings,
        "learn": {"shape": [len(run.prepared.learn), run.prepared.learn.dim], "hash": run.prepared.learn.digest},
        "chosen_epochs": {router: verdict.chosen.epoch for router, verdict in verdicts.items()},
        "chosen_ways": {router: verdict.chosen.way for router, verdict in verdicts.items()},
        "held_out_gain": {router: [verdict.gain, verdict.error] for router, verdict in verdicts.items()},
        "versions": versions(),
    }
