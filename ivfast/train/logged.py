"""How a log of queries joins a run, and whether it is worth it: told by k-means' buckets before anything is trained."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.goal import fit_goal, pair_logits
from ivfast.choose.held_out import held_out_demand, held_out_tiles, make_held_out, sample_use
from ivfast.choose.judgement import LEAST_GAIN, Curves, gain_over, measure
from ivfast.data.vectors import Vectors
from ivfast.network.backend import Ranker
from ivfast.route.routers import centers_router
from ivfast.runtime.cache import cached
from ivfast.runtime.progress import Progress
from ivfast.start.kmeans import Buckets
from ivfast.start.logged import RULES, Asked, Log, part_log, with_log
from ivfast.start.neighbors import LearnSet
from ivfast.start.prepare import Cache
from ivfast.store.place import make_plans
from ivfast.store.rules.rule import Terms


def find_log(log: Vectors, learn: LearnSet, cache: Cache) -> tuple[np.ndarray, Log]:
    """The logged queries, (n, dim) float32, inside; and parted and searched for, see `part_log`, or from the cache."""
    queries = learn.points.space.inside(log.raw(slice(None)))

    def search() -> dict[str, np.ndarray]:
        with cache.progress.stage("answers of logged queries"):
            parted = part_log(queries, learn, cache.seed, cache.progress)
        return {
            f"{name}.{part}": array
            for name, asked in parted._asdict().items()
            for part, array in asked._asdict().items()
        }

    k = learn.neighbors.train_nearest.shape[1]
    found, old = cached(cache.folder, "query_log", cache.key(log=log.digest, rows=len(log), k=k, **RULES), search)
    parted = Log(*(Asked(*(found[f"{name}.{part}"] for part in Asked._fields)) for name in Log._fields))
    n_held, n_training = len(parted.held_out.queries), len(parted.training.queries)
    cache.progress.note(
        f"query_log: {len(queries) - n_held:,} queries train, with {n_training - len(queries) + n_held:,} drawn like "
        f"them, {n_held:,} are held out{', from the cache' if old else ''}"
    )
    return queries, parted


class Plain(NamedTuple):
    """k-means' buckets, and what ranks them."""

    centers: np.ndarray  # (nlist, dim) float32, inside
    buckets: Buckets
    ranker: Ranker | None
    recall: float  # that searches are to reach


def is_worth_it(
    log: Log, learn: LearnSet, plain: Plain, copies: tuple[float, ...], width: int, seed: int, progress: Progress
) -> bool:
    """Whether held-out queries of the log are found for less where logged queries tell who asks for which vector.

    Nothing is trained for it: learn is stored in k-means' buckets, once by its own vectors as askers, once by logged
    queries as well. A log that says nothing of queries to come gains nothing there.
    """
    nobody = Asked(log.training.queries[:0], log.training.nearest[:0])
    with progress.stage("is the log worth it"):
        without, beside = (
            _curves(with_log(learn, asked, log.held_out), plain, copies, width, seed)
            for asked in (nobody, log.training)
        )
    gain, error = gain_over(beside, without, seed)
    sure = gain > LEAST_GAIN and 2 * error < gain
    told = f"{100 * abs(gain):.1f} % {'less' if gain >= 0 else 'more'}"
    said = (
        f"query_log: k-means' buckets filled as the log asks scan {told} for held-out queries (standard error "
        f"{100 * error:.1f} %): the log"
    )
    progress.note(f"{said} trains, and tells who asks" if sure else f"warning: {said} is not used; log more queries")
    progress.metrics(query_log={"gain": gain, "error": error, "used": sure})
    return sure


def _curves(learn: LearnSet, plain: Plain, copies: tuple[float, ...], width: int, seed: int) -> list[Curves]:
    held = make_held_out(learn, len(plain.centers), width, seed, recall=plain.recall)
    metric, floor = held.learn.points.metric, plain.buckets.delta_floor
    goal = fit_goal(
        pair_logits(*held.pair_points(), plain.centers, metric, floor), plain.buckets.share, recall=held.aim
    )
    router = centers_router("kmeans", plain.centers, metric, floor, goal.k, plain.ranker)
    tiles = held_out_tiles(held, router, (1.0,))
    m, demand = sample_use(held, tiles, (1.0,))[1.0], held_out_demand(held, router, goal.nprobe)
    return measure(
        held, tiles, make_plans(["benefit"], [Terms(number, 1.0, m, demand, held.recall) for number in copies])
    )
