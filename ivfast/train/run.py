"""What a run is made of: checked input, prepared data, a loaded backend; and how its states are judged."""

import os
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ivfast.choose.goal import fit_goal, pair_logits
from ivfast.choose.held_out import JUDGED, HeldOut, fewer, make_held_out
from ivfast.choose.judgement import Curves, Judgement, judge, judge_kmeans
from ivfast.choose.verdict import Candidate
from ivfast.data.centers import n_in_one_place
from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.far import without_far
from ivfast.data.intake import check_distinct, scan_set
from ivfast.data.mapped import map_points
from ivfast.data.npy import missing
from ivfast.data.vectors import (
    EvaluationSet,
    Points,
    Vectors,
    learn_path,
    measure_space,
    moments,
    open_evaluation_set,
    open_vectors,
)
from ivfast.method import LEAST_SHARE, LEAST_USE, USE_MEMORY
from ivfast.network.backend import (
    Backend,
    Goal,
    Setup,
    blocks_of,
    check_device,
    load_backend,
    load_ranker,
    load_search,
    starting_weights,
)
from ivfast.network.hosts import Group
from ivfast.network.precision import advice, growth_interval, precision_name
from ivfast.route.routers import ROUTERS, Router, centers_router, net_router, trained_routers
from ivfast.runtime.checkpoint import Saved
from ivfast.runtime.config import AUTO, Config
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress
from ivfast.start.descent import Means, check_descent
from ivfast.start.kmeans import Buckets, measure_buckets
from ivfast.start.neighbors import LIMITS, LearnSet, check_split, n_held_out
from ivfast.start.prepare import Cache, find_kmeans, find_learn_cells, find_learn_neighbors
from ivfast.train.baseline import better_kmeans, note_forms
from ivfast.train.disk import check_disk
from ivfast.train.given import digest_of, open_start
from ivfast.train.pairs import PairSource
from ivfast.train.point import refuse_other_search, refuse_other_start, refuse_others
from ivfast.train.schedule import auto_epochs, auto_warmup, learning_rates
from ivfast.train.together import with_own_rows

RECOMMENDED = 39  # learn vectors a bucket; FAISS warns below so many


class Run(NamedTuple):
    """What stays the same from the first epoch to the last. Points and centers are inside (see Space)."""

    config: Config
    progress: Progress
    learn: LearnSet
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
        scanned, points, data = admit_training(config, progress)
    config = with_epochs(config, len(points), progress)
    given = open_start(config)
    started_at = None if given is None else digest_of(given)
    if saved is not None:
        refuse_others(saved, config, points.vectors.digest)
        refuse_other_start(saved, started_at)
    check_disk(config, len(points), len(data.base), progress)
    progress.note(advice(config))
    folder = config.save_path / "cache"
    group = group or Group()
    if len(points) > LIMITS.exact_learn or group.n > 1:
        points = map_points(points, folder, progress)
    means = Means(folder, load_search(config.backend, config.gpu))
    cache = Cache(folder, points, config.seed, progress, means)
    if saved is not None:
        refuse_other_search(saved, cache.near_by)
    odd = note_forms(scanned, points, cache)
    kmeans = find_kmeans(cache, config.nlist, config.niter)
    learn = LearnSet(points, find_learn_neighbors(cache, config.ftopk))
    width = min(config.ftopk, config.nlist)
    held = make_held_out(learn, config.nlist, width, config.seed, progress)
    judged = held
    if len(held.rows) > JUDGED:
        judged = make_held_out(fewer(learn, JUDGED), config.nlist, width, config.seed, progress)
    if config.metric == "L2" and (odd or n_in_one_place(kmeans)):
        kmeans = better_kmeans(kmeans, judged, cache, config.niter)
    start = kmeans if given is None else points.space.inside(given)
    with progress.stage("measuring buckets"):
        cells = None
        if blocks_of(config.nlist, config.batch_size) is None:
            buckets = measure_buckets(points, start, config.seed, progress)
        else:
            cells, buckets = find_learn_cells(cache, start, config.niter)
        setup = make_setup(config, learn, start, buckets)
    backend = load_backend(config.backend, setup, config.gpu, precision_name(config))
    source = PairSource(learn, config.batch_size, config.drop_prop if config.use_drop else 0.0, config.seed)
    if setup.blocks is not None:
        source = source._replace(cells=cells, block_pairs=setup.blocks.pairs)
    source = with_own_rows(source, backend)
    ranker = load_ranker(config.backend, config.gpu)
    plain = centers_router("kmeans", kmeans, config.metric, buckets.delta_floor, 1.0, ranker)
    with progress.stage("first judgement"):
        kmeans_curves = judge_kmeans(judged, plain, config.percents)
    return Run(
        config=config,
        progress=progress,
        learn=learn,
        kmeans=kmeans,
        start=start,
        started_at=started_at,
        buckets=buckets,
        backend=backend,
        held=held,
        judged=judged,
        source=source,
        kmeans_curves=kmeans_curves,
        data=data,
        near_by=cache.near_by,
        group=group,
    )


def with_epochs(config: Config, n_learn: int, progress: Progress) -> Config:
    """The same settings, with a number of epochs where it was left to the sizes."""
    if config.epochs != AUTO:
        return config
    epochs = auto_epochs(n_learn - n_held_out(n_learn), config.batch_size, config.nlist)
    warmup = auto_warmup(config.warmup, epochs)
    progress.note(
        f"--epochs auto: {epochs} epochs, {warmup} of warmup, for {n_learn:,} vectors and {config.nlist} buckets"
    )
    return replace(config, epochs=epochs, warmup=warmup)


def open_training(config: Config) -> tuple[Vectors, EvaluationSet]:
    """Open everything that training and its evaluation will need, and check all that can be told without the rows.

    returns: learn and the evaluation set, neither scanned
    raises: UserError on whatever would stop the run later
    """
    assert config.learn_name is not None
    check_device(config.backend, config.gpu)
    open_start(config)
    path = learn_path(config.data_path, config.learn_name)
    folder = config.data_path / config.data_name
    four = {"learn": path} | {name: folder / f"{name}.npy" for name in ("base", "query", "gt")}
    if absent := {name: file for name, file in four.items() if not os.path.isfile(file)}:
        raise missing(absent)
    learn = open_vectors(path, "learn", config.dim)
    check_learn_size(learn, config.nlist, config.ftopk, config.batch_size)
    data = open_evaluation_set(config.data_path, config.data_name, config.dim)
    for vectors in (learn, data.base):
        if len(vectors) > LIMITS.exact_learn:
            check_descent(vectors, Means(search=load_search(config.backend, config.gpu)))
    return learn, data


def admit_training(config: Config, progress: Progress) -> tuple[Vectors, Points, EvaluationSet]:
    """Open and check everything that training and its evaluation will need.

    returns: learn as scanned, what of it trains, inside, and the evaluation set, scanned
    raises: UserError on whatever would stop the run later
    """
    learn, data = open_training(config)
    cleaning = Cleaning(config.normalize, config.drop_bad_rows)
    scanned = scan(learn, config.metric, progress, cleaning)
    learn = without_far(scanned)
    check_learn_size(learn, config.nlist, config.ftopk, config.batch_size)
    points = Points(learn, measure_space(learn, config.metric))
    check_distinct(points, config.nlist)
    if len(learn) < RECOMMENDED * config.nlist:
        progress.note(
            f"warning: learn has {len(learn) / config.nlist:.1f} vectors a bucket, {RECOMMENDED} or more are "
            "recommended: use more vectors or a smaller --nlist"
        )
    return scanned, points, scan_set(data, config.metric, progress, cleaning)


def check_learn_size(learn: Vectors, nlist: int, ftopk: int, batch_size: int) -> None:
    """Refuse a learn that is too small for nlist or for ftopk neighbours of each training vector."""
    if len(learn) < nlist:
        raise UserError(
            f"learn: {learn.path} has {len(learn)} vectors, fewer than --nlist {nlist}; "
            "use more vectors or fewer buckets"
        )
    if ftopk >= len(learn):
        raise UserError(
            f"--ftopk {ftopk}: learn has only {len(learn)} vectors, expected more; choose a smaller --ftopk"
        )
    check_split(learn, ftopk)
    if batch_size > max(len(learn), Config.batch_size):  # the rest of it would be padding
        raise UserError(
            f"--batch_size {batch_size}: learn has only {len(learn)} vectors, expected no more pairs than that; "
            "choose a smaller --batch_size"
        )


def make_setup(config: Config, learn: LearnSet, start: np.ndarray, buckets: Buckets) -> Setup:
    """The shapes, statistics and rates that a backend is made from."""
    points = learn.points
    if points.metric == "IP":
        mean, scale = moments(points.x, len(points), points.dim)
    else:  # inside they are standardised already
        mean, scale = np.zeros(points.dim, np.float32), np.float32(1)
    n_steps = -(-len(learn.neighbors.train) // config.batch_size)
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
    return fit_goal(pair_logits(x, x_pair, centers, run.config.metric, run.buckets.delta_floor), m, least_m)


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
