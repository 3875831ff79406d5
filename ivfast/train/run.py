"""What a run is made of: checked input, prepared data, a loaded backend; and how its states are judged."""

import os
from typing import Any, NamedTuple

import numpy as np

from ivfast.choose.goal import fit_goal, pair_logits
from ivfast.choose.held_out import HeldOut, make_held_out
from ivfast.choose.judgement import Curves, Judgement, judge, kmeans_share
from ivfast.choose.verdict import Candidate
from ivfast.data.cleaning import scan
from ivfast.data.intake import check_distinct, cleaning, scan_set
from ivfast.data.npy import missing
from ivfast.data.vectors import EvaluationSet, Vectors, learn_path, moments, open_evaluation_set, open_vectors
from ivfast.method import USE_MEMORY
from ivfast.network.backend import Backend, Goal, Setup, check_device, load_backend, starting_weights
from ivfast.network.precision import advice, precision_name
from ivfast.route.routers import Router, centers_router, net_router
from ivfast.runtime.checkpoint import Saved
from ivfast.runtime.config import Config
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress
from ivfast.start.neighbors import check_split
from ivfast.start.prepare import Prepared, prepare
from ivfast.train.disk import check_space
from ivfast.train.pairs import PairSource
from ivfast.train.point import refuse_others
from ivfast.train.schedule import learning_rates

RECOMMENDED = 39  # learn vectors a bucket, as FAISS has it


class Run(NamedTuple):
    """What stays the same from the first epoch to the last."""

    config: Config
    progress: Progress
    prepared: Prepared
    backend: Backend
    held: HeldOut
    source: PairSource
    kmeans: list[Curves]  # k-means under ratio, which values are relative to
    data: EvaluationSet

    @property
    def routers(self) -> tuple[str, ...]:
        """Those that are trained."""
        return ("centers", "net") if self.config.deep else ("centers",)


def start_run(config: Config, progress: Progress, saved: Saved | None = None) -> Run:
    """Open the data, cluster, search neighbours, load the backend.

    saved: the checkpoint to continue from
    raises: UserError where it is of other data
    """
    learn, data = admit_training(config, progress)
    if saved is not None:
        refuse_others(saved, config, learn.digest)
    check_space(config, len(learn), len(data.base))
    progress.note(advice(config))
    prepared = prepare(config, learn, progress)
    backend = load_backend(config.backend, make_setup(config, prepared), config.gpu, precision_name(config))
    width = min(config.ftopk, config.nlist)
    held = make_held_out(learn, prepared.space, prepared.neighbors, config.nlist, width, config.seed)
    source = PairSource(
        learn, prepared.space, prepared.neighbors, config.batch_size,
        config.drop_prop if config.use_drop else 0.0, config.seed,
    )  # fmt: skip
    floor = prepared.buckets.delta_floor
    kmeans = kmeans_share(held, centers_router("kmeans", prepared.kmeans, config.metric, floor, 1.0), config.percents)
    return Run(config, progress, prepared, backend, held, source, kmeans, data)


def admit_training(config: Config, progress: Progress) -> tuple[Vectors, EvaluationSet]:
    """Open and check everything that training and its evaluation will need.

    returns: learn and the evaluation set, both scanned
    raises: UserError on whatever would stop the run later
    """
    assert config.learn_name is not None
    check_device(config.backend, config.gpu)
    path = learn_path(config.data_path, config.learn_name)
    folder = config.data_path / config.data_name
    four = {"learn": path} | {name: folder / f"{name}.npy" for name in ("base", "query", "gt")}
    if absent := {name: file for name, file in four.items() if not os.path.isfile(file)}:
        raise missing(absent)
    learn = open_vectors(path, "learn", config.dim)
    check_learn_size(learn, config)
    data = open_evaluation_set(config.data_path, config.data_name, config.dim)
    learn = scan(learn, config.metric, progress, cleaning(config))
    check_learn_size(learn, config)
    check_distinct(learn, config.nlist)
    if len(learn) < RECOMMENDED * config.nlist:
        progress.note(
            f"warning: learn has {len(learn) / config.nlist:.1f} vectors a bucket, {RECOMMENDED} or more are "
            "recommended: use more vectors or a smaller --nlist"
        )
    return learn, scan_set(data, config.metric, progress, cleaning(config))


def check_learn_size(learn: Vectors, config: Config) -> None:
    """Refuse a learn that is too small for nlist or for ftopk neighbours of each training vector."""
    if len(learn) < config.nlist:
        raise UserError(
            f"learn: {learn.path} has {len(learn)} vectors, fewer than --nlist {config.nlist}; "
            "use more vectors or fewer buckets"
        )
    if config.ftopk >= len(learn):
        raise UserError(
            f"--ftopk {config.ftopk}: learn has only {len(learn)} vectors, expected more; choose a smaller --ftopk"
        )
    check_split(learn, config)
    if config.batch_size > max(len(learn), Config.batch_size):  # the rest of it would be padding
        raise UserError(
            f"--batch_size {config.batch_size}: learn has only {len(learn)} vectors, expected no more pairs than that; "
            "choose a smaller --batch_size"
        )


def make_setup(config: Config, prepared: Prepared) -> Setup:
    """What the backend is told."""
    learn, space = prepared.learn, prepared.space
    if space.metric == "IP":
        mean, scale = moments(learn, space)
    else:
        mean, scale = np.zeros(learn.dim, np.float32), np.float32(1)
    n_steps = -(-len(prepared.neighbors.train) // config.batch_size)
    return Setup(
        config.param_list, config.metric, prepared.kmeans, prepared.buckets.radius, mean,
        np.float32(scale or 1), prepared.buckets.delta_floor,
        learning_rates(config.lr, config.epochs, config.warmup, n_steps),
        min(1.0, config.batch_size / (USE_MEMORY * config.nlist)), config.scale,
    )  # fmt: skip


def router_of_centers(run: Run, centers: np.ndarray, k: float) -> Router:
    """The linear path as a router."""
    return centers_router("centers", centers, run.config.metric, run.prepared.buckets.delta_floor, k)


def refit_goal(run: Run, centers: np.ndarray, m: np.ndarray) -> Goal:
    """k, nprobe and slope on the held-out pairs, m held as it is."""
    held = run.held
    x, x_pair = (held.learn.take(held.space, rows) for rows in held.pairs)
    return fit_goal(pair_logits(x, x_pair, centers, run.config.metric, run.prepared.buckets.delta_floor), m)


def judge_all(run: Run, state: Any, centers: np.ndarray, k: float) -> dict[str, Judgement]:
    """Every trained router at one state. centers: those of the state"""
    judged = {"centers": judge(run.held, router_of_centers(run, centers, k), run.config.percents, by_nearest=True)}
    if run.config.deep:
        judged["net"] = judge_router(run, "net", state, k)
    return judged


def judge_router(run: Run, name: str, state: Any, k: float) -> Judgement:
    """One router at one state."""
    if name == "centers":
        router = router_of_centers(run, run.backend.export(state)["centers"], k)
    else:
        linear = router_of_centers(run, run.backend.export(state)["centers"], k)
        router = net_router(lambda x: run.backend.logits(state, "net", x, k), linear)
    return judge(run.held, router, run.config.percents, by_nearest=name == "centers")


def weights_of(run: Run, router: str, state: Any) -> dict[str, np.ndarray]:
    """What a candidate keeps of a state."""
    weights = run.backend.weights(state)
    return weights if router == "net" else {"u": weights["u"]}


def state_of(run: Run, candidate: Candidate) -> Any:
    """A state that holds a candidate's weights, for logits and export alone."""
    nlist = run.config.nlist
    weights = starting_weights(run.config.param_list, run.config.seed) | candidate.arrays
    return run.backend.init_state(weights, np.full(nlist, 1 / nlist))


def centers_of(run: Run, candidate: Candidate) -> np.ndarray:
    """A candidate's centers, (nlist, dim) float32, inside."""
    if candidate.epoch == 0:  # not through the backend: under IP it would renormalise what k-means found
        return run.prepared.kmeans
    return run.backend.export(state_of(run, candidate))["centers"]
