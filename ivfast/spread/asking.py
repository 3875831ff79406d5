"""Who will ask for the vectors of a new file: those that an index holds, each on its own."""

from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import Points, Vectors
from ivfast.index.entries import stored_ids, vectors_of
from ivfast.index.growth import SPARE, Index, places
from ivfast.index.model import TrainedModel
from ivfast.index.probing import chosen, first_distinct, search_lists
from ivfast.route.routers import TILE, whole_tile
from ivfast.route.tiles import make_tiles
from ivfast.store.demand import Demand, Probes, find_probes
from ivfast.store.reverse import reverse_neighbors

AT_ONCE = 1 << 18  # stored vectors that are looked at at once
FOUND = 0.9  # recall at which near vectors are searched: 0.95 scans twice as many of them, for copies 1 % better


class Looks(NamedTuple):
    """Where the vectors that an index holds look, and what tells them from others. Rows are ids."""

    buckets: np.ndarray  # (ids, n_best) int32, see Probes
    above: np.ndarray  # (ids, n_best) float32
    sums: np.ndarray  # (vectors,) uint64, ascending checksums


NO_LOOKS = Looks(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32), np.empty(0, np.uint64))


def find_looks(index: Index) -> Looks:
    """Of all vectors stored."""
    placer, ids = _model(index).placer(index.copies), stored_ids(index.faiss_index)
    looks, sums = None, []
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        x = vectors_of(index.faiss_index, some)
        sums.append(faiss.checksum(x + np.float32(0)))
        found = find_probes(make_tiles(placer.router, _points(index, x), width=placer.width), placer.facts.nprobe)
        if looks is None:
            shape = len(index.reach), found.buckets.shape[1]
            looks = Looks(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.empty(0, np.uint64))
        looks.buckets[some], looks.above[some] = found.buckets, found.above
    assert looks is not None  # an index of nothing is never saved
    return looks._replace(sums=np.sort(np.concatenate(sums)))


def holds(looks: Looks, x: np.ndarray) -> np.ndarray:
    """Whether the index holds such a vector, (n,) bool. x: (n, dim) float32, as stored"""
    return np.isin(faiss.checksum(np.ascontiguousarray(x) + np.float32(0)), looks.sums)


def rank_block(
    index: Index, looks: Looks, rows: np.ndarray, first: int, copies: float
) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of consecutive vectors, and what each is worth, by those who will ask for them.

    Nothing but the vector and its id decides about it, so that files can be done in any order. Tiles begin where ids
    are multiples of TILE, with zeros in the place of the vectors before: products round by the place in a tile.

    rows: (n, dim) float32, as stored; first: id of the first
    returns: see Placer.rank_new
    """
    before = first % TILE
    x = np.concatenate([np.zeros((before, rows.shape[1]), np.float32), rows]) if before else rows
    row, asker, place = _askers(index, x)
    new = row >= before
    row, asker, place = row[new], asker[new], place[new]

    def demand_of(own: Probes) -> Demand:
        n = len(x)
        once, number = np.unique(asker, return_inverse=True)
        reverse = reverse_neighbors(row, n + number, place, np.arange(n), _model(index).asking, most=len(row) + 1)
        buckets = np.concatenate([own.buckets, looks.buckets[once]])
        above = np.concatenate([own.above, looks.above[once]])
        return Demand(reverse, Probes(buckets, above, *index.probes_use))

    buckets, keys = _model(index).placer(copies).rank_new(_points(index, x), copies, demand_of)
    return buckets[before:], keys[before:]


def _askers(index: Index, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of x, ids of stored vectors that would have them among their nearest, and at which place. Three (pairs,)

    They are looked for among four times as many near vectors as count, as where vectors are added.
    """
    weights, sign = _model(index).asking, np.float32(-1 if index.model.metric == "IP" else 1)
    found = []
    for start in range(0, len(x), TILE):
        tile = x[start : start + TILE]
        scores, ids = _near(index, whole_tile(tile), SPARE * len(weights))
        distance = np.where(ids >= 0, sign * scores, np.inf)[: len(tile)]
        place = places(distance, sign * index.reach[np.maximum(ids[: len(tile)], 0)])
        row, column = np.nonzero(place < len(weights))
        found.append((row + start, ids[row, column], place[row, column]))
    row, asker, place = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, asker, place


def _near(index: Index, tile: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and ids of near vectors that are stored, each once; -1 where there are fewer. tile: (TILE, dim)"""
    most = min(k, index.calibration.most_k)
    threshold = index.threshold(most, min(FOUND, index.calibration.best(most)), None, None)
    many = k + int(np.ceil(k * index.copies))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with another number of threads products round otherwise
    try:
        ranked = index.candidates(tile, threshold)
    finally:
        faiss.omp_set_num_threads(threads)
    scores, ids = search_lists(index.faiss_index, tile, many, *chosen(ranked, threshold))
    return first_distinct(scores, ids, k)[:2]


def _model(index: Index) -> TrainedModel:
    assert isinstance(index.model, TrainedModel)
    return index.model


def _points(index: Index, x: np.ndarray) -> Points:
    return Points(Vectors("base", Path("(array)"), x), index.prober.space)
