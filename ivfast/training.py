"""The training's story: prepare, train epoch by epoch, judge, choose, export, evaluate."""

import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ivfast.assignment import mean_membership
from ivfast.backends import Backend, load_backend, starting_weights
from ivfast.batches import PairSource, chunk_steps, epoch_chunks
from ivfast.calibration import fit_k, pair_logits
from ivfast.choosing import Candidate, Choice, Verdict, decide, first_choice, seen
from ivfast.config import Config, check_percents
from ivfast.data import learn_path, open_evaluation_set, open_vectors, scan
from ivfast.errors import UserError
from ivfast.evaluating import evaluate, find_model, net_router
from ivfast.export import Model, save_model
from ivfast.facts import Facts, fit_facts
from ivfast.files import save_array
from ivfast.preparation import Prepared, make_setup, prepare
from ivfast.progress import Progress
from ivfast.report import versions
from ivfast.routers import LogitTiles, Router, centers_router
from ivfast.validation import Curves, HeldOut, judge, kmeans_share, make_held_out


class Run(NamedTuple):
    """What stays the same from the first epoch to the last."""

    config: Config
    progress: Progress
    prepared: Prepared
    backend: Backend
    held: HeldOut
    source: PairSource
    kmeans: list[Curves]  # k-means under ratio, which values are relative to

    @property
    def routers(self) -> tuple[str, ...]:
        """Those that are trained."""
        return ("centers", "net") if self.config.deep else ("centers",)


class Position(NamedTuple):
    """Where a run stands between two epochs."""

    epoch: int  # finished
    state: Any  # of the backend
    k: float
    choices: dict[str, Choice]  # by router


def train(config: Config, progress: Progress) -> None:
    """Train on LEARN_NAME, write ivfast.npy and dcnet.safetensors, evaluate on DATA_NAME.

    raises: UserError on input that cannot be right, before anything but the log is written
    """
    check_percents(config, config.nlist)
    started = time.monotonic()
    run = start_run(config, progress)
    position = start_position(run)
    for _ in range(config.epochs):
        position = train_epoch(run, position)
    export(run, position.choices)
    found = find_model(_for_evaluation(config), set())
    evaluate(config, found, progress, run.prepared.learn)
    progress.note(f"done in {time.monotonic() - started:.0f} s; centers: {config.save_path / 'ivfast.npy'}")


def start_run(config: Config, progress: Progress) -> Run:
    """Open the data, cluster, search neighbours, load the backend."""
    assert config.learn_name is not None
    learn = open_vectors(learn_path(config.data_path, config.learn_name), "learn", config.dim)
    open_evaluation_set(config.data_path, config.data_name, config.dim)  # refused now, not after training
    if config.ftopk >= len(learn):
        raise UserError(f"--ftopk {config.ftopk}: learn has only {len(learn)} vectors")
    learn = scan(learn, config.metric, progress)
    prepared = prepare(config, learn, progress)
    backend = load_backend(config.backend, make_setup(config, prepared), config.gpu)
    width = min(config.ftopk, config.nlist)
    held = make_held_out(learn, prepared.space, prepared.neighbors, config.nlist, width, config.seed)
    source = PairSource(
        learn, prepared.space, prepared.neighbors, config.batch_size,
        config.drop_prop if config.use_drop else 0.0, config.seed,
    )  # fmt: skip
    floor = prepared.buckets.delta_floor
    kmeans = kmeans_share(held, centers_router("kmeans", prepared.kmeans, config.metric, floor, 1.0), config.percents)
    return Run(config, progress, prepared, backend, held, source, kmeans)


def start_position(run: Run) -> Position:
    """k-means: k fitted with the buckets' shares as m, then m as the mean membership at that k."""
    config, prepared = run.config, run.prepared
    k = _fit_k(run, prepared.kmeans, prepared.buckets.share)
    router = _centers_router(run, prepared.kmeans, k)
    tiles = LogitTiles(router, prepared.learn, prepared.space, run.held.pool[run.held.sample])
    use = mean_membership(tiles, (1.0,))[1.0]
    state = run.backend.init_state(starting_weights(config.param_list, config.seed), use)
    choices = {
        name: first_choice(Candidate(0, k, judgement, run.backend.export(state)))
        for name, judgement in _judge(run, state, prepared.kmeans, k).items()
    }
    # not through the backend: under IP it would renormalise what k-means found
    choices["centers"].start.arrays["centers"] = prepared.kmeans
    return Position(0, state, k, choices)


def train_epoch(run: Run, position: Position) -> Position:
    """All pairs once, then k, then the judgement on held-out vectors."""
    epoch = position.epoch + 1
    began = time.monotonic()
    state, text = _train_steps(run, position.state, epoch, position.k)
    trained = time.monotonic()
    arrays = run.backend.export(state)
    k = _fit_k(run, arrays["centers"], run.backend.use(state)["centers"])
    choices = dict(position.choices)
    for name, judgement in _judge(run, state, arrays["centers"], k).items():
        choices[name] = seen(choices[name], Candidate(epoch, k, judgement, arrays), run.kmeans)
    values = {name: choice.values[-1] for name, choice in choices.items()}
    shown = ", ".join(f"{name} {found:.3f}" for name, found in values.items())
    run.progress.note(
        f"epoch {epoch}/{run.config.epochs}: {text}, k {k:.2f}; held-out scanned over k-means: {shown} "
        f"({trained - began:.1f} s training, {time.monotonic() - trained:.1f} s judging)"
    )
    run.progress.metrics(epoch=epoch, k=k, held_out=values)
    return Position(epoch, state, k, choices)


def _train_steps(run: Run, state: Any, epoch: int, k: float) -> tuple[Any, str]:
    """One pass over the pairs. Returns the next state and the epoch's losses in words."""
    source, interval = run.source, run.config.log_interval
    steps = chunk_steps(source.n_steps, source.batch_size, source.learn.dim)
    waiting, totals, done = [], np.zeros(4), 0
    with run.progress.bar(f"epoch {epoch}", source.n_steps, "steps") as bar:
        for chunk in epoch_chunks(source, epoch, steps):
            state, metrics = run.backend.train_chunk(state, chunk, k)
            waiting.append(metrics)
            before, done = done, min(done + steps, source.n_steps)
            if done // interval > before // interval or done == source.n_steps:
                sums = np.sum([[float(value) for value in m] for m in waiting], axis=0)
                totals, waiting = totals + sums, []
                run.progress.metrics(epoch=epoch, step=done, k=k, **_losses(sums, run.config.deep))
                if done < source.n_steps:
                    run.progress.note(
                        f"epoch {epoch}, step {done}/{source.n_steps}: {_in_words(sums, run.config.deep)}"
                    )
            bar.advance(done - before)
    return state, _in_words(totals, run.config.deep)


def _losses(sums: np.ndarray, deep: bool) -> dict[str, float]:
    pairs = max(sums[2], 1)
    losses = {"loss_centers": sums[0] / pairs, "n_pairs": sums[2], "n_skipped": sums[3]}
    return losses | ({"loss_net": sums[1] / pairs} if deep else {})


def _in_words(sums: np.ndarray, deep: bool) -> str:
    losses = _losses(sums, deep)
    text = f"loss {losses['loss_centers']:.4f}" + (f", net {losses['loss_net']:.4f}" if deep else "")
    return text + (f", {sums[3]:.0f} steps skipped" if sums[3] else "")


def _centers_router(run: Run, centers: np.ndarray, k: float) -> Router:
    return centers_router("centers", centers, run.config.metric, run.prepared.buckets.delta_floor, k)


def _fit_k(run: Run, centers: np.ndarray, m: np.ndarray) -> float:
    held = run.held
    x, x_pair = (held.learn.take(held.space, rows) for rows in held.pairs)
    return fit_k(pair_logits(x, x_pair, centers, run.config.metric, run.prepared.buckets.delta_floor), m)


def _judge(run: Run, state: Any, centers: np.ndarray, k: float) -> dict[str, Any]:
    percents = run.config.percents
    judged = {"centers": judge(run.held, _centers_router(run, centers, k), percents, by_nearest=True)}
    if run.config.deep:
        net = Router("net", run.config.nlist, lambda x: run.backend.logits(state, "net", x, k))
        judged["net"] = judge(run.held, net, percents, by_nearest=False)
    return judged


def export(run: Run, choices: dict[str, Choice]) -> None:
    """Choose, say what was chosen, and write kmeans.npy, ivfast.npy and dcnet.safetensors."""
    config, prepared, progress = run.config, run.prepared, run.progress
    folder, space = config.save_path, prepared.space
    verdicts = {router: decide(choice, run.kmeans, config.seed) for router, choice in choices.items()}
    for router, verdict in verdicts.items():
        progress.note(f"{router}: {verdict.text}")
    chosen = verdicts["centers"].chosen
    if chosen.epoch == 0:
        progress.note("no gain on held-out vectors: ivfast.npy is k-means")
    save_array(folder / "kmeans.npy", space.outside(prepared.kmeans))
    save_array(folder / "ivfast.npy", space.outside(chosen.arrays["centers"]))
    setup = run.backend.setup
    model = Model(
        {}, verdicts["net"].chosen.arrays if config.deep else {}, setup.mean, setup.scale, space,
        setup.delta_floor, config.param_list, _about(run, verdicts),
    )  # fmt: skip
    model = model._replace(facts=_fit_all(run, choices["centers"].start.k, verdicts, model))
    save_model(folder / "dcnet.safetensors", model, folder / "ivfast.npy")
    names = ("ivfast.npy", "kmeans.npy", "dcnet.safetensors")
    progress.note(f"written: {', '.join(str(folder / name) for name in names)}")


def _fit_all(run: Run, kmeans_k: float, verdicts: dict[str, Verdict], model: Model) -> dict[str, Facts]:
    """Facts of the routers as a reader of the files will see them."""
    folder, space = run.config.save_path, run.prepared.space
    facts = {}
    for name, file, k in (("kmeans", "kmeans.npy", kmeans_k), ("centers", "ivfast.npy", verdicts["centers"].chosen.k)):
        centers = space.inside(np.load(folder / file))
        router = centers_router(name, centers, space.metric, model.delta_floor, k)
        facts[name] = fit_facts(run.held, router, k, run.config.percents)
    if "net" in verdicts:
        k = verdicts["net"].chosen.k
        router = net_router(model, k, run.config.backend, run.config.gpu)
        facts["net"] = fit_facts(run.held, router, k, run.config.percents)
    return facts


def _about(run: Run, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    settings = run.config.as_dict()
    for name in ("save_path", "data_path", "log_interval", "valid_batch_size", "gpu"):
        del settings[name]  # where and how fast, not what
    return {
        "settings": settings,
        "learn": {"shape": list(run.prepared.learn.rows.shape), "hash": run.prepared.learn.digest},
        "chosen_epochs": {router: verdict.chosen.epoch for router, verdict in verdicts.items()},
        "held_out_gain": {router: [verdict.gain, verdict.error] for router, verdict in verdicts.items()},
        "versions": versions(),
    }


def _for_evaluation(config: Config) -> Config:
    return replace(config, eval=True, ai_center=config.save_path / "ivfast.npy")
