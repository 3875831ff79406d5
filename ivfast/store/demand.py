"""Where those who ask for a vector look, and what a bucket gains by them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ivfast.data.twins import Distinct
from ivfast.data.vectors import Points
from ivfast.data.with_queries import with_queries
from ivfast.route.tiles import BEST_BUCKETS, Tile, Tiles, make_tiles
from ivfast.runtime.progress import Bar
from ivfast.store.reverse import ReverseNeighbors

# Training works at a softness of its own (ivfast.method) and fits its slope, since it moves the borders. At storing
# time they stand still: softness 0.5 to 1.4 and slope 7 to 20 scanned the same within 2 % on five sets, so both are
# fixed (docs/experiments.md, "The only bucket of a vector, for those who will ask").
COPY_SOFTNESS = 2.0  # logits around the border within which a bucket is probed or not, where copies are chosen
ONLY_SOFTNESS = 1.0  # the same where a vector's only bucket is chosen
SLOPE = 10.0  # how much log scanned falls for what one more of all answers found adds to recall
MOST_PROBED = 16  # askers are taken to probe at most so many buckets
LEAST_ASKER_GAIN = 1e-3  # gains count as at least this, so that log(gain) is finite where no asker is left
LEAST_COST = 0.1  # a bucket that nobody probes costs as much as one probed a tenth as often as the mean


class Probes(NamedTuple):
    """Where askers look."""

    buckets: np.ndarray  # (m, n_best) int32, the 32 best of each asker, best first
    above: np.ndarray  # (m, n_best) float32, their logits above the border between probed and not
    log_use: np.ndarray  # (nlist,) float32, log of the mean chance over all askers, at COPY_SOFTNESS
    cost: np.ndarray  # (nlist,) float32, the mean chance at ONLY_SOFTNESS over that of the bucket of a mean vector


class Demand:
    """Who asks for each stored vector, and where.

    stands_for: askers that one stands for beside itself, where those that are known are a draw
    """

    def __init__(self, reverse: ReverseNeighbors, probes: Probes, stands_for: float = 1.0) -> None:
        self.reverse, self.probes, self.stands_for = reverse, probes, stands_for
        self._last: tuple[int, int, TileAskers] | None = None  # several rules ask for the same tile

    def askers(self, start: int, n: int) -> "TileAskers":
        """Those of the n vectors from start on."""
        last = self._last  # threads may be at other tiles
        if last is None or last[:2] != (start, n):
            self._last = last = (start, n, self._askers(start, n))
        return last[2]

    def _askers(self, start: int, n: int) -> "TileAskers":
        twins, reverse = self.reverse.twins, self.reverse
        if twins is None:
            at, pairs = None, slice(reverse.first[start], reverse.first[start + n])
            count = np.diff(reverse.first[start : start + n + 1])
        else:
            vectors, rows, of = np.unique(twins.of[start : start + n], return_index=True, return_inverse=True)
            at, count = (rows, of), reverse.first[vectors + 1] - reverse.first[vectors]
            pairs = np.repeat(reverse.first[vectors] - np.cumsum(count) + count, count) + np.arange(count.sum())
        asker, place = reverse.asker[pairs], reverse.place[pairs]
        weight = reverse.weights[place] * np.where(place > 0, np.float32(self.stands_for), np.float32(1))
        if reverse.share is not None:
            weight *= reverse.share[pairs]
        row = np.repeat(np.arange(len(count)), count)
        cell = row[:, None] * len(self.probes.cost) + self.probes.buckets[asker]
        mean_weight = float(reverse.weights.sum())
        first = np.cumsum(count) - count
        return TileAskers(first, row, weight, mean_weight, cell, self.probes.above[asker], self.probes, at)


class TileAskers(NamedTuple):
    """The askers of some vectors, pair by pair of vector and asker.

    Rows of one tile that are twins are one vector here; what is computed of it is handed back for each.
    """

    first: np.ndarray  # (n,) where each vector's pairs begin
    row: np.ndarray  # (pairs,) vector
    weight: np.ndarray  # (pairs,) float32, of the asker
    mean_weight: float  # what the weights of one vector's askers sum to on average
    cell: np.ndarray  # (pairs, n_best) int64, row x nlist + a bucket where the asker looks, best first
    above: np.ndarray  # (pairs, n_best) float32
    probes: Probes
    twins: tuple[np.ndarray, np.ndarray] | None = None  # a row of each vector, and the vector of each row; None: equal

    def of_vectors(self, rows: np.ndarray) -> np.ndarray:
        """What is known of each row, as of each vector."""
        return rows if self.twins is None else rows[self.twins[0]]

    def of_rows(self, vectors: np.ndarray) -> np.ndarray:
        """The other way: what is known of each vector, as of each row."""
        return vectors if self.twins is None else vectors[self.twins[1]]

    def chances(self, buckets: np.ndarray, softness: float) -> np.ndarray:
        """How likely each asker probes the buckets of its vector.

        A table of int16 says for every (row, bucket) at which column the bucket is wanted. Comparing the 32 buckets
        of an asker with the 10 of its vector, pair by pair, gives the same and takes twelve times as long.

        buckets: (n, width); returns (pairs, width) float32, 0 beyond an asker's 32 best
        """
        n, width = buckets.shape
        kind = np.int16 if width <= np.iinfo(np.int16).max else np.int32
        columns = np.full((n, len(self.probes.cost)), -1, dtype=kind)
        np.put_along_axis(columns, buckets, np.arange(width, dtype=kind)[None], axis=1)
        column = columns.ravel().take(self.cell).ravel()
        hit = np.flatnonzero(column >= 0)
        above = np.full(len(self.row) * width, -np.inf, dtype=np.float32)
        above[hit // self.cell.shape[1] * width + column[hit]] = self.above.ravel()[hit]
        return chance(above, softness).reshape(-1, width)

    def gain(self, buckets: np.ndarray, power: float = 1.0) -> "AskerGain":
        """Begin to fill buckets, (n, width) int32; the first of each row is taken first.

        power: of the askers' summed weight, by which gains count
        """
        total = np.float32(2 * power - 1) * np.log(np.add.reduceat(self.weight, self.first))
        return AskerGain(self, self.chances(buckets, COPY_SOFTNESS), total[:, None] - self.probes.log_use[buckets])

    def surplus(self, buckets: np.ndarray) -> np.ndarray:
        """What each bucket gains as a vector's only one, in log scanned, by its askers alone.

        The argument is that of the search cost in training. A vector that moves to b is scanned by every query that
        probes b, and found by those of its askers that do. To first order both change log scanned at equal recall:

            surplus_b = 10 sum_y w_y c_b(y) / mean sum of w - mean c_b / sum over b' of s_b' mean c_b'

        up to one factor for all vectors; s is the share of askers whose best bucket b' is.

        buckets: (n, width); returns (n, width) float32
        """
        found = self.weight[:, None] * self.chances(buckets, ONLY_SOFTNESS)
        gain = np.add.reduceat(found, self.first, axis=0)
        return np.float32(SLOPE / self.mean_weight) * gain - self.probes.cost[buckets]


class AskerGain:
    """What the askers of some vectors gain from one more bucket, beside the buckets taken."""

    def __init__(self, askers: TileAskers, chances: np.ndarray, offset: np.ndarray) -> None:
        self.askers, self.chances, self.offset = askers, chances, offset
        self.covered = np.zeros((len(chances), 1), dtype=np.float32)

    def after(self, taken: np.ndarray) -> np.ndarray:
        """Take one more column of each row.

        taken: (n,) column; returns (2 power - 1) log sum_y w_y + asked_b of `cover`, (n, width) float32
        """
        here = np.take_along_axis(self.chances, taken[self.askers.row][:, None], axis=1)
        self.covered = np.maximum(self.covered, here)
        left = self.askers.weight[:, None] * np.maximum(self.chances - self.covered, 0)
        return self.offset + np.log(np.add.reduceat(left, self.askers.first, axis=0) + np.float32(LEAST_ASKER_GAIN))


def chance(above: np.ndarray, softness: float) -> np.ndarray:
    """How likely a bucket is probed, by its logit above the border between probed and not. float32"""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-above / np.float32(softness)))


class _Followed:
    """Tiles of stored vectors, and behind them those of queries."""

    def __init__(self, tiles: Tiles, queries: np.ndarray, points: Points) -> None:
        asking = with_queries(points, queries)
        numbers = len(points) + np.arange(len(queries))
        self.stored, self.asking = tiles, make_tiles(tiles.router, asking, numbers, cached_bytes=0)
        self.router, self.n = tiles.router, tiles.n + len(queries)

    def tiles(self) -> Iterator[Tile]:
        """All of them."""
        yield from self.stored.tiles()
        for tile in self.asking.tiles():
            tile.start += self.stored.n
            yield tile


def demand_of_base(tiles: Tiles, reverse: ReverseNeighbors, nprobe: float, bar: Bar | None = None) -> Demand:
    """Who asks for the vectors of a base, and where. tiles: of all its rows; nprobe: see `find_probes`"""
    twins = reverse.twins
    if reverse.queries is None:
        return Demand(reverse, find_probes(tiles, nprobe, bar, twins=twins))
    if twins is not None:
        n, m = len(twins.of), len(reverse.queries)
        of = np.r_[twins.of, len(twins.rows) + np.arange(m)]
        twins = Distinct(np.r_[twins.rows, n + np.arange(m)], of, np.r_[twins.counts, np.ones(m, np.int64)])
    return Demand(reverse, find_probes(_Followed(tiles, reverse.queries, tiles.points), nprobe, bar, twins=twins))


def find_probes(
    tiles: Tiles | _Followed, nprobe: float, bar: Bar | None = None, best_buckets: int = BEST_BUCKETS,
    twins: Distinct | None = None,
) -> Probes:  # fmt: skip
    """Where askers look, at nprobe buckets each.

        c_b = 1 / (1 + exp((border - z_b) / s))     border: mean of the nprobe-th and the next best logit

    s is 2 where copies are chosen, 1 for a vector's only bucket.

    tiles: of the askers; nprobe: rounded, 1 to 16
    twins: among the askers, each of which counts once in the means; None: they all differ
    """
    nlist = tiles.router.nlist
    at = min(max(1, round(nprobe)), MOST_PROBED, nlist - 1)
    n_best = min(best_buckets, nlist)
    buckets = np.empty((tiles.n, n_best), dtype=np.int32)
    above = np.empty((tiles.n, n_best), dtype=np.float32)
    use, only_use, size = np.zeros(nlist), np.zeros(nlist), np.zeros(nlist)
    for tile in tiles.tiles():
        best, logits = tile.best(tile.z, n_best)
        border = logits[:, at - 1 : at + 1].mean(axis=1, keepdims=True)
        logits -= border
        rows = slice(tile.start, tile.start + len(best))
        buckets[rows], above[rows] = best, logits
        if twins is not None:
            once = np.diff(np.searchsorted(twins.rows, np.arange(rows.start, rows.stop + 1))) > 0
            best, logits = best[once], logits[once]
        size += np.bincount(best[:, 0], minlength=nlist)
        for total, softness in ((use, COPY_SOFTNESS), (only_use, ONLY_SOFTNESS)):
            chances = chance(logits, softness)
            total += np.bincount(best.ravel(), weights=chances.ravel(), minlength=nlist)
        if bar is not None:
            bar.advance(rows.stop - rows.start)
    n = max(1, tiles.n if twins is None else len(twins.rows))
    use = np.maximum(use / n, LEAST_COST / nlist)
    cost = only_use * n / max(size @ only_use, np.finfo(np.float64).tiny)
    return Probes(buckets, above, np.log(use).astype(np.float32), cost.astype(np.float32))
