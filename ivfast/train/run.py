"""What a run is made of: prepared data and a loaded backend; and how its states are judged."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ivfast.choose.goal import fit_goal, pair_logits
from ivfast.choose.held_out import JUDGED, HeldOut, fewer, make_held_out
from ivfast.choose.judgement import Curves, Judgement, judge, judge_kmeans
from ivfast.choose.verdict import Candidate
from ivfast.data.centers import n_in_one_place
from ivfast.data.mapped import map_points
from ivfast.data.vectors import (
    EvaluationSet,
    moments,
)
from ivfast.method import LEAST_SHARE, LEAST_USE, USE_MEMORY
from ivfast.network.backend import (
    Backend,
    Goal,
    Setup,
    blocks_of,
    load_backend,
    load_ranker,
    load_search,
    starting_weights,
)
from ivfast.network.hosts import Group
from ivfast.network.precision import advice, growth_interval, precision_name
from ivfast.route.routers import ROUTERS, Router, centers_router, net_router, trained_routers
from ivfast.runtime.checkpoint import Saved
from ivfast.runtime.config import Config
from ivfast.runtime.progress import Progress
from ivfast.start.cells import Cells
from ivfast.start.descent import Means
from ivfast.start.kmeans import Buckets, measure_buckets
from ivfast.start.logged import with_log
from ivfast.start.neighbors import LIMITS, LearnSet
from ivfast.start.prepare import Cache, find_kmeans, find_learn_cells, find_learn_neighbors
from ivfast.train.admit import Admitted, admit_training, with_epochs
from ivfast.train.baseline import better_kmeans, note_forms
from ivfast.train.disk import check_disk
from ivfast.train.given import digest_of, open_start
from ivfast.train.logged import Plain, find_log, is_worth_it
from ivfast.train.pairs import PairSource
from ivfast.train.point import refuse_other_search, refuse_other_start, refuse_others
from ivfast.train.schedule import learning_rates
from ivfast.train.together import with_own_rows


class Run(NamedTuple):
    """What stays the same from the first epoch to the last. Points and centers are inside (see Space)."""

    config: Config
    progress: Progress
    learn: LearnSet
    log: np.ndarray | None  # (n, dim) float32, the logged queries; None: no log, or it is not used
    kmeans: np.ndarray  # (nlist, dim) float32
    start: np.ndarray  # (nlist, dim) float32, where training starts: kmeans itself, or what was given
    started_at: str | None  # digest of what was given, as stored
    buckets: Buckets  # of the start
    backend: Backend
    held: HeldOut  # all held-out vectors, on which facts are fitted
    judged: HeldOut  # those among them that states are judged by
    source: PairSource
    kmeans_curves: list[Curves]  # k-means under its own rule, which values are relative to
    data: EvaluationSet
    digest: str  # of learn, and of the log
    near_by: dict[str, object] | None  # how near vectors were found, where that can differ (see Cache)
    group: Group  # the processes that train

    @property
    def routers(self) -> tuple[str, ...]:
        """Those that are trained."""
        return trained_routers(deep=self.config.deep)


def start_run(config: Config, progress: Progress, saved: Saved | None = None, group: Group | None = None) -> Run:
    """Open the data, cluster, search neighbours, load the backend.

    saved: the checkpoint to continue from
    group: the processes that train; None: this one alone
    raises: UserError where it is of other data
    """
    with progress.stage("checking files"):
        admitted = admit_training(config, progress)
    points = admitted.points
    config = with_epochs(config, len(points), progress)
    given = open_start(config)
    started_at = None if given is None else digest_of(given)
    if saved is not None:
        refuse_others(saved, config, admitted.digest)
        refuse_other_start(saved, started_at)
    check_disk(config, len(points), len(admitted.data.base), progress)
    progress.note(advice(config))
    folder = config.save_path / "cache"
    group = group or Group()
    if len(points) > LIMITS.exact_learn or group.n > 1:
        points = map_points(points, folder, progress)
    means = Means(folder, load_search(config.backend, config.gpu))
    cache = Cache(folder, points, config.seed, progress, means)
    if saved is not None:
        refuse_other_search(saved, cache.near_by)
    start = None if given is None else points.space.inside(given)
    found = _prepare(config, admitted, cache, start, progress)
    backend = load_backend(config.backend, found.setup, config.gpu, precision_name(config))
    return Run(
        config=config,
        progress=progress,
        learn=found.learn,
        log=found.log,
        kmeans=found.kmeans,
        start=found.start,
        started_at=started_at,
        buckets=found.buckets,
        backend=backend,
        held=found.held,
        judged=found.judged,
        source=with_own_rows(found.source, backend),
        kmeans_curves=found.kmeans_curves,
        data=admitted.data,
        digest=admitted.digest,
        near_by=cache.near_by,
        group=group,
    )


class _Prepared(NamedTuple):
    """What comes of the data before a backend is loaded; fields as in Run."""

    learn: LearnSet
    log: np.ndarray | None
    kmeans: np.ndarray
    start: np.ndarray
    buckets: Buckets
    setup: Setup
    held: HeldOut
    judged: HeldOut
    source: PairSource
    kmeans_curves: list[Curves]


def _prepare(
    config: Config, admitted: Admitted, cache: Cache, start: np.ndarray | None, progress: Progress
) -> _Prepared:
    """start: (nlist, dim) float32, inside, where one was given"""
    points = cache.learn
    odd = note_forms(admitted.learn, points, cache)
    kmeans = find_kmeans(cache, config.nlist, config.niter)
    learn = LearnSet(points, find_learn_neighbors(cache, config.ftopk))
    width = min(config.ftopk, config.nlist)
    ranker = load_ranker(config.backend, config.gpu)
    log, held, judged = None, *_held_out(config, learn, width, progress)
    if config.metric == "L2" and (odd or n_in_one_place(kmeans)):
        kmeans = better_kmeans(kmeans, judged, cache, config.niter)
    start = kmeans if start is None else start
    cells, buckets = _measure(config, cache, start)
    if admitted.log is not None:
        queries, parted = find_log(admitted.log, learn, cache)
        plain = Plain(kmeans, buckets if start is kmeans else _measure(config, cache, kmeans)[1], ranker, config.recall)
        if is_worth_it(parted, learn, plain, config.percents, width, config.seed, progress):
            log, learn = queries, with_log(learn, *parted)
            held, judged = _held_out(config, learn, width, progress)
            asked = np.concatenate([part.queries for part in parted])
            cells = cells and cells.with_queries(asked, start, config.metric)
    setup = make_setup(config, learn, start, buckets)
    source = PairSource(learn, config.batch_size, config.drop_prop if config.use_drop else 0.0, config.seed)
    if setup.blocks is not None:
        source = source._replace(cells=cells, block_pairs=setup.blocks.pairs)
    router = centers_router("kmeans", kmeans, config.metric, buckets.delta_floor, 1.0, ranker)
    with progress.stage("first judgement"):
        curves = judge_kmeans(judged, router, config.percents)
    return _Prepared(learn, log, kmeans, start, buckets, setup, held, judged, source, curves)


def _held_out(config: Config, learn: LearnSet, width: int, progress: Progress) -> tuple[HeldOut, HeldOut]:
    """All held-out vectors, and those among them that states are judged by."""
    held = make_held_out(learn, config.nlist, width, config.seed, progress, recall=config.recall)
    if len(held.rows) <= JUDGED:
        return held, held
    few = fewer(learn, JUDGED)
    return held, make_held_out(few, config.nlist, width, config.seed, progress, recall=config.recall)


def _measure(config: Config, cache: Cache, start: np.ndarray) -> tuple[Cells | None, Buckets]:
    """What the buckets of a start measure, and where learn lies among them where steps go in blocks."""
    with cache.progress.stage("measuring buckets"):
        if blocks_of(config.nlist, config.batch_size) is None:
            return None, measure_buckets(cache.learn, start, config.seed, cache.progress)
        return find_learn_cells(cache, start, config.niter)


def make_setup(config: Config, learn: LearnSet, start: np.ndarray, buckets: Buckets) -> Setup:
    """The shapes, statistics and rates that a backend is made from."""
    points = learn.points
    if points.metric == "IP":
        mean, scale = moments(points.x, len(points), points.dim)
    else:  # inside they are standardised already
        mean, scale = np.zeros(points.dim, np.float32), np.float32(1)
    n_steps = -(-learn.n_pairs // config.batch_size)
    return Setup(
        param_list=config.param_list,
        metric=config.metric,
        start=start,
        radius=buckets.radius,
        mean=mean,
        scale=np.float32(scale or 1),
        delta_floor=buckets.delta_floor,
        learning_rates=learning_rates(config.lr, config.epochs, config.warmup, n_steps),
        use_rate=min(1.0, config.batch_size / (USE_MEMORY * config.nlist)),
        loss_scale=config.scale,
        blocks=blocks_of(config.nlist, config.batch_size),
        growth_interval=growth_interval(config.epochs * n_steps),
    )


def router_of_centers(run: Run, centers: np.ndarray, k: float) -> Router:
    """A matrix of centers as a router. centers: (nlist, dim) float32, inside"""
    ranker = load_ranker(run.config.backend, run.config.gpu)
    return centers_router("centers", centers, run.config.metric, run.buckets.delta_floor, k, ranker)


def refit_goal(run: Run, centers: np.ndarray, m: np.ndarray) -> Goal:
    """k, nprobe and slope on the held-out pairs, m held as it is. m: (nlist,) use of the buckets"""
    x, x_pair = run.judged.pair_points()
    least_m = LEAST_SHARE / len(m) if run.backend.setup.blocks else LEAST_USE  # as the loss has it
    z = pair_logits(x, x_pair, centers, run.config.metric, run.buckets.delta_floor)
    return fit_goal(z, m, least_m, run.judged.aim)


def judge_all(run: Run, params: Any, centers: np.ndarray, k: float) -> dict[str, Judgement]:
    """Every trained router with weights on the device, by its name. centers: those of the weights"""
    return {
        name: judge(run.judged, _router(run, name, params, centers, k), run.config.percents) for name in run.routers
    }


def judge_router(run: Run, name: str, params: Any, k: float) -> Judgement:
    """One router with weights on the device, on held-out vectors."""
    return judge(run.judged, _router(run, name, params, run.backend.centers(params), k), run.config.percents)


def _router(run: Run, name: str, params: Any, centers: np.ndarray, k: float) -> Router:
    linear = router_of_centers(run, centers, k)
    if ROUTERS[name].linear:
        return linear
    return net_router(lambda x: run.backend.logits(params, x, k), linear, partial(run.backend.rank, params, k))


def weights_of(run: Run, router: str, params: Any) -> dict[str, np.ndarray]:
    """What a candidate keeps of weights on the device."""
    return run.backend.weights({"u": params["u"]} if ROUTERS[router].linear else params)


def params_of(run: Run, candidate: Candidate) -> Any:
    """A candidate's weights on the device."""
    return run.backend.put(candidate.arrays or starting_weights(run.config.param_list, run.config.seed))


def centers_of(run: Run, candidate: Candidate) -> np.ndarray:
    """A candidate's centers, (nlist, dim) float32, inside."""
    if candidate.epoch == 0:  # not through the backend: under IP it would renormalise what k-means found
        return run.kmeans if candidate.is_kmeans else run.start
    return run.backend.centers(params_of(run, candidate))
