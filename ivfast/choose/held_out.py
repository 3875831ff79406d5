"""Held-out learn vectors: what every judgement looks at."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.choose.goal import n_pairs
from ivfast.data.twins import Distinct, columns_of_rows, distinct_of
from ivfast.data.vectors import Points
from ivfast.method import RECALL, SURE_RECALL
from ivfast.route.routers import Router
from ivfast.route.search import Answers
from ivfast.route.tiles import LogitTiles, Tiles, make_tiles
from ivfast.runtime.draws import generator, spread
from ivfast.runtime.progress import Progress, silent
from ivfast.start.logged import n_stands_for
from ivfast.start.neighbors import LearnSet
from ivfast.store.demand import Demand, find_probes
from ivfast.store.reverse import asking_weights, count_twins, reverse_neighbors, shared_by_twins

SAMPLE_PER_BUCKET, SAMPLE_LEAST = 40, 20_000  # learn vectors whose buckets stand for all, see make_held_out
JUDGED = 4000  # held-out vectors at most by which states are judged
MATCHED = 65_536  # rows whose nearest are looked for in the pool at once
MOST_ASKING = 2_000_000  # training vectors at most that stand for queries of the pool


class HeldOut(NamedTuple):
    """What every judgement looks at; the same for all epochs and routers."""

    learn: LearnSet
    pool: np.ndarray  # (n_pool,) learn rows that are stored: the answers of held-out vectors, and a sample
    sample: np.ndarray  # (n_sample,) ascending places in pool that stand for all of learn
    answers: Answers  # places in pool, (n_held_out, up to 10), the same place for twins
    answer_weights: np.ndarray  # (n_held_out, up to 10) float64, of each answer: its kinship, rows sum to 1
    pairs: tuple[np.ndarray, np.ndarray]  # learn rows, two (n_pairs,), on which k is fitted
    width: int  # buckets a vector is in at most
    seed: int
    asking: np.ndarray  # (k,) float32, see asking_weights
    sampled: np.ndarray  # (n_pool,) bool, places that are in sample, one of twins
    progress: Progress  # shows how far long looks at it are
    twins: Distinct | None = None  # of the pool; None: all differ
    recall: float = RECALL  # that searches are to reach

    @property
    def aim(self) -> float:
        """The recall that centers are trained for and epochs are compared at."""
        return min(self.recall, SURE_RECALL)

    @property
    def rows(self) -> np.ndarray:
        """Learn rows searched for, (n_held_out,)."""
        return self.learn.neighbors.held_out

    @property
    def different(self) -> Points:
        """Learn with each of its vectors once."""
        first, points = self.learn.neighbors.first, self.learn.points
        return points.only(np.unique(first[: len(points)])) if len(first) else points

    def pair_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Both sides of the pairs, two (n_pairs, dim) float32."""
        x, x_pair = (self.learn.points.x(rows) for rows in self.pairs)
        return x, x_pair


def make_held_out(
    learn: LearnSet, nlist: int, width: int, seed: int, progress: Progress | None = None,
    per_bucket: int = SAMPLE_PER_BUCKET, least: int = SAMPLE_LEAST, recall: float = RECALL,
) -> HeldOut:  # fmt: skip
    """Draw the sample and number the pool.

    width: buckets a vector is in at most
    per_bucket, least: the sample holds so many learn vectors a bucket, and no fewer than `least`
    recall: that searches are to reach
    """
    neighbors, n_learn = learn.neighbors, len(learn.points)
    n_sample = min(n_learn, max(least, per_bucket * nlist))
    sample = np.sort(generator(seed, 0, "sample").choice(n_learn, n_sample, replace=False))
    pool = np.unique(np.concatenate([sample, neighbors.answers.ravel()]))
    answers, kinship = neighbors.answers, neighbors.answers_kinship
    twins = None
    if len(neighbors.first):
        twins = distinct_of(neighbors.first[pool])
        columns = columns_of_rows(np.bincount(neighbors.first)[answers], answers.shape[1])
        answers, kinship = (np.take_along_axis(one, columns, axis=1) for one in (answers, kinship))
    at = np.searchsorted(pool, answers)
    once = sample if twins is None else sample[distinct_of(neighbors.first[sample]).rows]
    sampled = np.zeros(len(pool), dtype=bool)
    sampled[np.searchsorted(pool, once)] = True
    n, n_answers = neighbors.answers.shape
    drawn = generator(seed, 0, "calibration").permutation(n * n_answers)[: n_pairs(nlist)]
    return HeldOut(
        learn=learn,
        pool=pool,
        sample=np.searchsorted(pool, sample),
        answers=Answers(at, np.ones(at.shape, dtype=bool)),
        answer_weights=kinship / kinship.sum(axis=1, keepdims=True),
        pairs=(neighbors.held_out[drawn // n_answers], neighbors.answers[drawn // n_answers, drawn % n_answers]),
        width=width,
        seed=seed,
        asking=asking_weights(neighbors),
        sampled=sampled,
        progress=progress or silent(),
        twins=twins,
        recall=recall,
    )


def fewer(learn: LearnSet, most: int) -> LearnSet:
    """The same learn with at most so many of its held-out vectors, evenly over all."""
    neighbors = learn.neighbors
    chosen = spread(len(neighbors.held_out), most)
    return learn._replace(
        neighbors=neighbors._replace(
            held_out=neighbors.held_out[chosen],
            answers=neighbors.answers[chosen],
            answers_kinship=neighbors.answers_kinship[chosen],
        )
    )


class HeldOutTiles(NamedTuple):
    """A router's logits of the pool and of the held-out vectors."""

    pool: Tiles
    held_out: LogitTiles


def held_out_tiles(held: HeldOut, router: Router, temperatures: Iterable[float] = ()) -> HeldOutTiles:
    """Logits are computed once and kept where they are small. temperatures: at which memberships will be asked for"""
    pool = make_tiles(router, held.learn.points, held.pool, temperatures, held.sampled, width=held.width)
    return HeldOutTiles(pool, LogitTiles(router, held.learn.points, held.rows))


def sample_use(held: HeldOut, tiles: HeldOutTiles, storing_ts: Iterable[float]) -> dict[float, np.ndarray]:
    """m at each storing_t over the sample. (nlist,) float64"""
    return tiles.pool.use(storing_ts, held.sampled)


def held_out_demand(held: HeldOut, router: Router, nprobe: float, most_asking: int = MOST_ASKING) -> Demand:
    """Who asks for the pool: the training vectors that have one of it among their nearest, and each vector itself.

    No search looked for held-out vectors, so nobody is known to have them among its nearest. For those in the pool
    their own answers ask instead, as far as they train.

    most_asking: above so many askers a draw stands for all
    """
    neighbors, twins = held.learn.neighbors, held.twins
    pool = held.pool if twins is None else neighbors.first[held.pool[twins.rows]]
    train = neighbors.train
    stored, asker, place = _in_pool(pool, _rows_near(held))
    n_answers = neighbors.answers.shape[1]
    mine = np.flatnonzero(np.isin(neighbors.held_out, pool))
    own, answer = np.repeat(neighbors.held_out[mine], n_answers), neighbors.answers[mine].ravel()
    trains = np.isin(answer, train)
    stored = np.concatenate([stored, np.searchsorted(pool, own[trains])])
    asker = np.concatenate([asker, np.searchsorted(train, answer[trains])])
    place = np.concatenate([place, np.tile(np.arange(n_answers), len(mine))[trains]])
    place = np.minimum(place, len(held.asking) - 1)  # a small learn has more answers than nearest that train
    asking = np.unique(asker)
    stands_for = max(1.0, len(asking) / most_asking)
    if stands_for > 1:
        asking = np.sort(generator(held.seed, 0, "sample", 4).choice(asking, most_asking, replace=False))
        drawn = np.isin(asker, asking)
        stored, asker, place = stored[drawn], asker[drawn], place[drawn]
    rows = np.union1d(pool, train[asking])
    reverse = reverse_neighbors(
        stored, np.searchsorted(rows, train[asker]), place, np.searchsorted(rows, pool), held.asking
    )
    n_logged = len(train) - held.learn.n_pairs
    if n_logged:
        each = n_stands_for(held.learn.n_pairs, n_logged)
        logged = rows[reverse.asker] >= len(held.learn.points)
        reverse = reverse._replace(share=np.where(logged, each, 1).astype(np.float32))
    if twins is not None:
        count = np.bincount(neighbors.first, minlength=rows[-1] + 1)
        reverse = shared_by_twins(reverse, twins._replace(counts=count[pool]), count[rows])
    tiles = make_tiles(router, held.learn.points, rows, cached_bytes=0)  # they are looked at once
    with held.progress.bar("where askers look", len(rows)) as bar:
        return Demand(reverse, find_probes(tiles, nprobe, bar), stands_for)


def _rows_near(held: HeldOut) -> np.ndarray:
    """The nearest rows of training vectors, each by the first of its twins, (n_train, k)."""
    neighbors = held.learn.neighbors
    if held.twins is None:
        return neighbors.train_nearest
    count = np.bincount(neighbors.first)
    return count_twins(neighbors.train_nearest, neighbors.train, count, len(held.asking))


def _in_pool(pool: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all nearest, (m, k) learn rows, that are in the pool: where there, rows and columns of `nearest`."""
    parts = []
    for start in range(0, len(nearest), MATCHED):  # numbers of all at once would be several times as large as they are
        block = nearest[start : start + MATCHED]
        at = np.minimum(np.searchsorted(pool, block), len(pool) - 1)
        row, column = np.nonzero(pool[at] == block)
        parts.append((at[row, column], row + start, column))
    found, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return found, rows, columns
