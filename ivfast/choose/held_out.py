"""Held-out learn vectors: what every judgement looks at."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.choose.goal import n_pairs
from ivfast.data.vectors import Space, Vectors
from ivfast.route.routers import LogitTiles, Router
from ivfast.route.search import Answers
from ivfast.runtime.draws import generator
from ivfast.start.neighbors import Neighbors
from ivfast.store.demand import Demand, asking_weights, find_probes, reverse_neighbors
from ivfast.store.rules import mean_membership

SAMPLE_PER_BUCKET, SAMPLE_LEAST = 40, 20_000  # learn vectors from which bucket sizes are told
MOST_ASKING = 2_000_000  # training vectors that stand for queries of the pool at most


class HeldOut(NamedTuple):
    """What every judgement looks at; the same for all epochs and routers."""

    learn: Vectors
    space: Space
    neighbors: Neighbors
    pool: np.ndarray  # (n_pool,) learn rows that are stored: their answers, and a sample
    sample: np.ndarray  # (n_sample,) places in pool that stand for all of learn
    answers: Answers  # places in pool, (n_held_out, up to 10)
    worth: np.ndarray  # (n_held_out, up to 10) float64, of each answer: its kinship, rows sum to 1
    pairs: tuple[np.ndarray, np.ndarray]  # learn rows, two (n_pairs,), for k
    width: int  # buckets a vector is in at most
    seed: int
    asking: np.ndarray  # (k,) float32, see asking_weights

    @property
    def rows(self) -> np.ndarray:
        """Learn rows searched for, (n_held_out,)."""
        return self.neighbors.held_out


def make_held_out(learn: Vectors, space: Space, neighbors: Neighbors, nlist: int, width: int, seed: int) -> HeldOut:
    """Draw the sample and number the pool."""
    n_sample = min(len(learn), max(SAMPLE_LEAST, SAMPLE_PER_BUCKET * nlist))
    sample = np.sort(generator(seed, 0, "sample").choice(len(learn), n_sample, replace=False))
    pool = np.unique(np.concatenate([sample, neighbors.answers.ravel()]))
    at = np.searchsorted(pool, neighbors.answers)
    n, n_answers = neighbors.answers.shape
    drawn = generator(seed, 0, "calibration").permutation(n * n_answers)[: n_pairs(nlist)]
    pairs = neighbors.held_out[drawn // n_answers], neighbors.answers[drawn // n_answers, drawn % n_answers]
    worth = neighbors.answers_kinship / neighbors.answers_kinship.sum(axis=1, keepdims=True)
    return HeldOut(
        learn, space, neighbors, pool, np.searchsorted(pool, sample),
        Answers(at, np.ones(at.shape, dtype=bool)), worth, pairs, width, seed, asking_weights(neighbors),
    )  # fmt: skip


class HeldOutTiles(NamedTuple):
    """A router's logits of the pool and of the held-out vectors."""

    pool: LogitTiles
    held_out: LogitTiles


def held_out_tiles(held: HeldOut, router: Router) -> HeldOutTiles:
    """Logits are computed once and kept where they are small."""
    return HeldOutTiles(
        LogitTiles(router, held.learn, held.space, held.pool),
        LogitTiles(router, held.learn, held.space, held.rows),
    )


def sample_use(held: HeldOut, tiles: HeldOutTiles, temperatures: Iterable[float]) -> dict[float, np.ndarray]:
    """M at each temperature over the sample. (nlist,) float64"""
    inside = np.zeros(len(held.pool), dtype=bool)
    inside[held.sample] = True
    chosen = ((start, z[inside[start : start + len(z)]]) for start, z in tiles.pool)
    return mean_membership(chosen, temperatures)


def held_out_demand(held: HeldOut, router: Router, nprobe: float) -> Demand:
    """Who asks for the pool: training vectors (above 2 M of them: a draw) by their neighbours, and itself.

    Nobody was searched for among held-out vectors: of those in the pool the own answers that train ask instead.
    """
    neighbors, pool = held.neighbors, held.pool
    train = neighbors.train
    stored, asker, place = _in_pool(pool, neighbors.train_nearest)
    n_answers = neighbors.answers.shape[1]
    mine = np.flatnonzero(np.isin(neighbors.held_out, pool))
    own, answer = np.repeat(neighbors.held_out[mine], n_answers), neighbors.answers[mine].ravel()
    trains = np.isin(answer, train)
    stored = np.concatenate([stored, np.searchsorted(pool, own[trains])])
    asker = np.concatenate([asker, np.searchsorted(train, answer[trains])])
    place = np.concatenate([place, np.tile(np.arange(n_answers), len(mine))[trains]])
    asking = np.unique(asker)
    stands_for = max(1.0, len(asking) / MOST_ASKING)
    if stands_for > 1:
        asking = np.sort(generator(held.seed, 0, "sample", 4).choice(asking, MOST_ASKING, replace=False))
        drawn = np.isin(asker, asking)
        stored, asker, place = stored[drawn], asker[drawn], place[drawn]
    rows = np.union1d(pool, train[asking])
    reverse = reverse_neighbors(
        stored, np.searchsorted(rows, train[asker]), place, np.searchsorted(rows, pool), held.asking
    )
    return Demand(reverse, find_probes(LogitTiles(router, held.learn, held.space, rows), nprobe), stands_for)


def _in_pool(pool: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all nearest, (m, k) learn rows, that are in the pool: where there, rows and columns of `nearest`."""
    at = np.minimum(np.searchsorted(pool, nearest), len(pool) - 1)
    row, column = np.nonzero(pool[at] == nearest)
    return at[row, column], row, column
