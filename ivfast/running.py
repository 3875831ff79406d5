"""What a run is made of, and how its states are judged."""

from typing import Any, NamedTuple

import numpy as np

from ivfast.backends import Backend, Goal, load_backend, starting_weights
from ivfast.batches import PairSource
from ivfast.calibration import fit_goal, pair_logits
from ivfast.checkpoint import Saved
from ivfast.choosing import Candidate
from ivfast.config import Config
from ivfast.data import EvaluationSet
from ivfast.intake import admit_training
from ivfast.precision import advice, precision_name
from ivfast.preparation import Prepared, make_setup, prepare
from ivfast.progress import Progress
from ivfast.resuming import refuse_others
from ivfast.routers import Router, centers_router, net_router
from ivfast.space import check_space
from ivfast.validation import Curves, HeldOut, Judgement, judge, kmeans_share, make_held_out


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
