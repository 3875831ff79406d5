"""Exact nearest neighbours over many files: found file by file in float64, and merged."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.spread.given import Given
from ivfast.spread.ranks import rows_of
from ivfast.spread.sources import Numbered

SPARE = 28  # beyond k, that float32 finds: among them are the k of float64, or else all are looked at
AT_ONCE = 1 << 22  # numbers of pairs that are compared at once, in float64
UNIT = float(np.finfo(np.float32).eps) / 2


class Asked(NamedTuple):
    """A file, and what is asked of it."""

    file: Numbered
    x: np.ndarray  # (q, dim) float32, as stored
    k: int


class Nearest(NamedTuple):
    """The nearest vectors of each query, nearest first; ties go to the smaller id."""

    distances: np.ndarray  # (q, k) float64, squared distances, or inner products with the other sign; inf: none
    ids: np.ndarray  # (q, k) int64, -1: none


class Block(NamedTuple):
    """Some vectors of a file, or queries."""

    rows: np.ndarray  # (n, dim) float32, as stored
    around: np.ndarray  # (n, dim) float32, less the mean of learn under L2: far from zero float32 has few digits
    squares: np.ndarray  # (n,) float64, of these

    def at(self, index: np.ndarray | slice) -> "Block":
        """Some of them."""
        return Block(*(part[index] for part in self))


def _block(rows: np.ndarray, mean: np.ndarray) -> Block:
    around = (rows.astype(np.float64) - mean).astype(np.float32) if mean.any() else rows
    return Block(rows, around, np.square(around, dtype=np.float64).sum(axis=1))


def nearest(given: Given, item: Asked) -> Nearest:
    """Those of one file."""
    (q, dim), metric, mean = item.x.shape, given.model.metric, given.model.prober().space.mean
    best, x = nothing(q, item.k), _block(item.x, mean)
    step = max(1, AT_ONCE // ((item.k + SPARE) * dim))
    for start, rows in rows_of(given, item.file):
        block = _block(rows, mean)
        for at in range(0, q, step):
            few = slice(at, at + step)
            before = Nearest(*(part[few] for part in best))
            best.distances[few], best.ids[few] = _with_block(before, x.at(few), block, item.file.first + start, metric)
    return best


def nothing(q: int, k: int) -> Nearest:
    """Before any file was looked at."""
    return Nearest(np.full((q, k), np.inf), np.full((q, k), -1, np.int64))


def merged(one: Nearest, other: Nearest) -> Nearest:
    """The k nearest of both."""
    k = one.ids.shape[1]
    distances = np.concatenate([one.distances, other.distances], axis=1)
    ids = np.concatenate([one.ids, other.ids], axis=1)
    last = np.where(ids < 0, np.iinfo(np.int64).max, ids)
    order = np.lexsort((last, distances), axis=1)[:, :k]
    return Nearest(np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1))


def _with_block(best: Nearest, x: Block, block: Block, first: int, metric: str) -> Nearest:
    """The best so far, and what a block holds that is nearer. first: id of its first row"""
    n = len(block.rows)
    many, sign = min(best.ids.shape[1] + SPARE, n), -1 if metric == "IP" else 1
    kind = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    scores, near = faiss.knn(x.around, block.around, many, metric=kind)
    with np.errstate(invalid="ignore"):
        least = sign * scores.astype(np.float64) - _wrong_by(x, block, metric)[:, None]  # in float64 it is no less
    least[np.isnan(least)] = -np.inf  # of numbers whose squares float32 can't hold
    row, column = np.nonzero((least <= best.distances[:, -1:]) & (near >= 0))
    found = nothing(len(x.rows), many)
    found.distances[row, column] = _exactly(x.rows[row], block.rows[near[row, column]], metric)
    found.ids[row, column] = first + near[row, column]
    found = merged(best, found)
    if many == n:
        return found
    # where one that float32 left out may be as near as the last: ties, and what it can't tell apart
    for one in np.flatnonzero(least[:, -1] <= found.distances[:, -1]):
        asked = slice(one, one + 1)
        everyone = Nearest(_exactly(x.rows[asked], block.rows, metric)[None], np.arange(first, first + n)[None])
        again = merged(Nearest(*(part[asked] for part in best)), everyone)
        found.distances[one], found.ids[one] = again.distances[0], again.ids[0]
    return found


def _exactly(x: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances of pairs in float64, (n,). The same bits for the same pair, wherever it stands."""
    wide, other = x.astype(np.float64), rows.astype(np.float64)
    if metric == "IP":
        return -(wide * other).sum(axis=1)
    return np.square(other - wide).sum(axis=1)


def _wrong_by(x: Block, block: Block, metric: str) -> np.ndarray:
    """How far float32 is off at most, (q,) float64: of products over dim entries, and of rows that were rounded."""
    most = block.squares.max()
    size = np.sqrt(x.squares * most) if metric == "IP" else x.squares + most
    return 2 * (x.rows.shape[1] + 16) * UNIT * size
