"""Who will ask for a vector, and where they look: the vectors that have it among their nearest stand for queries."""

from collections.abc import Callable
from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.twins import Distinct, columns_of_rows, distinct_rows
from ivfast.data.vectors import Points
from ivfast.route.tiles import BEST_BUCKETS, Tiles
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.progress import Bar, Progress
from ivfast.start.descent import Means
from ivfast.start.neighbors import LIMITS, Neighbors, nearest_of_all

# Training works at a softness of its own (ivfast.method) and fits its slope, since it moves the borders. At storing
# time they stand still: softness 0.5 to 1.4 and slope 7 to 20 scanned the same within 2 % on five sets, so both are
# fixed (docs/experiments.md, "The only bucket of a vector, for those who will ask").
COPY_SOFTNESS = 2.0  # logits around the border within which a bucket is probed or not, where copies are chosen
ONLY_SOFTNESS = 1.0  # the same where a vector's only bucket is chosen
SLOPE = 10.0  # how much log scanned falls for what one more of all answers found adds to recall
MOST_PROBED = 16  # askers are taken to probe at most so many buckets
LEAST_ASKER_GAIN = 1e-3  # gains count as at least this, so that log(gain) is finite where no asker is left
LEAST_COST = 0.1  # a bucket that nobody probes costs as much as one probed a tenth as often as the mean
COUNTED_AT_ONCE = 65_536  # vectors whose nearest are counted with their twins
MOST_ASKERS = 1000  # of one vector that count: duplicates may have it among their nearest by the million


class ReverseNeighbors(NamedTuple):
    """The askers of each stored vector, itself first. Twins have them in common, and share what they ask for."""

    first: np.ndarray  # (n + 1,) int64: those of vector i are asker[first[i]:first[i + 1]]; twins count as one vector
    asker: np.ndarray  # (pairs,) int32, numbers of askers
    place: np.ndarray  # (pairs,) uint16, 1 where the vector is its asker's nearest, 2: the next, ..; 0: itself
    weights: np.ndarray  # (1 + k,) float32, of an asker by that place: 1, then those of `asking_weights`
    twins: Distinct | None = None  # which vector each stored row is; None: all differ
    share: np.ndarray | None = None  # (pairs,) float32, times the weight: rows of the asker over those of the vector


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
    twins: tuple[np.ndarray, np.ndarray] | None = None  # a row of each vector, and the vector of each row; None: alike

    def of_vectors(self, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """What is known of each row, as of each vector."""
        return rows if self.twins is None else tuple(one[self.twins[0]] for one in rows)

    def of_rows(self, *vectors: np.ndarray) -> tuple[np.ndarray, ...]:
        """The other way: what is known of each vector, as of each row."""
        return vectors if self.twins is None else tuple(one[self.twins[1]] for one in vectors)

    def chances(self, buckets: np.ndarray, softness: float) -> np.ndarray:
        """How likely each asker probes the buckets of its vector.

        A table of int16 says for every (row, bucket) at which column the bucket is wanted. Comparing the 32 buckets
        of an asker with the 10 of its vector, pair by pair, gives the same and takes twelve times as long.

        buckets: (n, width); returns (pairs, width) float32, 0 beyond an asker's 32 best
        """
        n, width = buckets.shape
        columns = np.full((n, len(self.probes.cost)), -1, dtype=np.int16)
        np.put_along_axis(columns, buckets, np.arange(width, dtype=np.int16)[None], axis=1)
        column = columns.ravel().take(self.cell).ravel()
        hit = np.flatnonzero(column >= 0)
        above = np.full(len(self.row) * width, -np.inf, dtype=np.float32)
        above[hit // self.cell.shape[1] * width + column[hit]] = self.above.ravel()[hit]
        return chance(above, softness).reshape(-1, width)

    def gain(self, buckets: np.ndarray) -> "AskerGain":
        """Begin to fill buckets, (n, width) int32; the first of each row is taken first."""
        total = np.log(np.add.reduceat(self.weight, self.first))
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

        taken: (n,) column; returns log sum_y w_y + asked_b of `cover`, (n, width) float32
        """
        here = np.take_along_axis(self.chances, taken[self.askers.row][:, None], axis=1)
        self.covered = np.maximum(self.covered, here)
        left = self.askers.weight[:, None] * np.maximum(self.chances - self.covered, 0)
        return self.offset + np.log(np.add.reduceat(left, self.askers.first, axis=0) + np.float32(LEAST_ASKER_GAIN))


def chance(above: np.ndarray, softness: float) -> np.ndarray:
    """How likely a bucket is probed, by its logit above the border between probed and not. float32"""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-above / np.float32(softness)))


def asking_weights(neighbors: Neighbors) -> np.ndarray:
    """How often the r-th nearest of a vector is a right answer of a query whose nearest is that vector.

        w_r = share of held-out vectors that have the r-th nearest of their nearest training vector as an answer

    Of identities w is near 1 up to their number of images and near 0 beyond, of weak clusters it falls slowly.

    returns: (k,) float32, k as many as train_nearest has; 1 where no answer trains
    """
    train, answers = neighbors.train, neighbors.answers
    trains = np.isin(answers, train)
    rows = np.flatnonzero(trains.any(axis=1))
    if not len(rows):
        return np.ones(neighbors.train_nearest.shape[1], dtype=np.float32)
    nearest = answers[rows, trains[rows].argmax(axis=1)]
    near = neighbors.train_nearest[np.searchsorted(train, nearest)]
    shares = [(column[:, None] == answers[rows]).any(axis=1).mean() for column in near.T]
    return np.array(shares, dtype=np.float32)


def count_twins(nearest: np.ndarray, own: np.ndarray, count: np.ndarray, k: int) -> np.ndarray:
    """The k nearest rows where vectors are stored several times: its own twins first, then all rows of each near one.

    nearest: (n, m) numbers of vectors, nearest first; own: (n,) likewise; count: rows that hold each vector
    returns: (n, up to k) numbers of vectors, each as often as rows hold it; fewer columns where there are fewer rows
    """
    k = min(k, int(count.sum()) - 1)
    found = np.empty((len(own), k), dtype=nearest.dtype)
    for start in range(0, len(own), COUNTED_AT_ONCE):
        block = slice(start, start + COUNTED_AT_ONCE)
        candidates = np.concatenate([own[block, None], nearest[block]], axis=1)
        rows = count[candidates]
        rows[:, 0] -= 1  # itself
        found[block] = np.take_along_axis(candidates, columns_of_rows(rows, k), axis=1)
    return found


def reverse_neighbors(
    stored: np.ndarray, asker: np.ndarray, place: np.ndarray, own: np.ndarray, weights: np.ndarray,
    most: int = MOST_ASKERS,
) -> ReverseNeighbors:  # fmt: skip
    """Turn "nearest of" into "asked by".

    stored, asker: (pairs,) int, a vector stored, below n, and one that has it among its nearest
    place: (pairs,) int, at which the asker has it, 0 the nearest
    own: (n,) int, the asker that each stored vector is itself
    weights: (k,) of `asking_weights`
    most: askers of one vector that are kept, those that have it nearest; itself comes beside them
    """
    n = len(own)
    order = np.argsort(stored, kind="stable")
    count = np.bincount(stored, minlength=n)
    if count.max(initial=0) > most:
        order = np.lexsort((place, stored))
        nth = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)  # among its vector's
        order = order[nth < most]
        count = np.minimum(count, most)
    first = np.r_[0, np.cumsum(count + 1)]
    found, at = np.empty(first[-1], dtype=np.int32), np.zeros(first[-1], dtype=np.uint16)
    itself = np.zeros(len(found), dtype=bool)
    itself[first[:-1]] = True
    found[itself], found[~itself] = own, asker[order]
    at[~itself] = place[order] + 1
    return ReverseNeighbors(first, found, at, np.concatenate([np.ones(1, np.float32), weights], dtype=np.float32))


def shared_by_twins(reverse: ReverseNeighbors, twins: Distinct, asking: np.ndarray) -> ReverseNeighbors:
    """The askers of vectors that several rows hold: an asker counts once for each of its own rows, and asks all.

    reverse: of the different vectors; twins: of the rows that are stored; asking: (m,) rows that each asker stands for
    """
    held = np.repeat(twins.count, np.diff(reverse.first))
    share = asking[reverse.asker] / held
    return reverse._replace(twins=twins, share=np.where(reverse.place > 0, share, 1).astype(np.float32))


def reverse_of(
    nearest: np.ndarray, weights: np.ndarray, silent: np.ndarray | None = None, twins: Distinct | None = None
) -> ReverseNeighbors:
    """Of vectors that are all stored and ask.

    nearest: (n, k) int numbers of them, nearest first; weights: (k or more,) of `asking_weights`
    silent: numbers that ask for themselves alone
    twins: of the rows that are stored, of which only the first ask; None: they all differ
    """
    n, k = nearest.shape
    rows = np.arange(n, dtype=np.int32)
    asks = rows if silent is None else np.delete(rows, silent)
    places = np.tile(np.arange(k, dtype=np.uint16), len(asks))
    reverse = reverse_neighbors(nearest[asks].ravel(), np.repeat(asks, k), places, rows, weights[:k])
    if twins is None:
        return reverse
    reverse = shared_by_twins(reverse, twins, twins.count)
    return reverse._replace(asker=twins.rows[reverse.asker].astype(np.int32))


def reverse_of_base(means: Means, base: Points, weights: np.ndarray, progress: Progress) -> ReverseNeighbors:
    """Who has which vector of base among its nearest there, found or taken from the cache.

    A large base has a graph of its own in the cache, which is learn's where base is learn.

    means: with the folder of the cache
    weights: of `asking_weights`; so many nearest are searched for, where base has them
    """
    found_before = False

    def search(points: Points) -> np.ndarray:
        nonlocal found_before
        assert means.folder is not None
        if len(points) > LIMITS.exact_learn:
            return nearest_of_all(points, len(weights), progress, means)
        facts = {} if len(points) == len(base) else {"different": len(points)}
        key = fingerprint(
            base=base.vectors.digest, **base.space.facts, k=len(weights), faiss=faiss.__version__, **facts
        )
        found, found_before = cached(
            means.folder, "base_neighbors", key, lambda: {"nearest": nearest_of_all(points, len(weights), progress)}
        )
        return found["nearest"]

    nearest, twins = nearest_with_twins(base, len(weights), search, progress)
    progress.note(
        f"neighbours: {nearest.shape[1]} of each of {len(nearest):,} vectors of base, to tell who asks for which"
        f"{', from the cache' if found_before else ''}"
    )
    return reverse_of(nearest, weights, twins=twins)


def nearest_with_twins(
    base: Points, k: int, search: Callable[[Points], np.ndarray], progress: Progress
) -> tuple[np.ndarray, Distinct | None]:
    """The k nearest of each different vector, twins counted (see `count_twins`), and who they are; None: no twins.

    search: gives the nearest of points that all differ, (d, k) int32
    """
    distinct = distinct_rows(base.vectors)
    if distinct.all_differ:
        return search(base), None
    n, d = len(base), len(distinct.rows)
    progress.note(f"base: {n - d:,} of {n:,} rows are twins of others; the askers of a vector ask for all its rows")
    return count_twins(search(base.only(distinct.rows)), np.arange(d), distinct.count, k), distinct


def find_probes(
    tiles: Tiles, nprobe: float, bar: Bar | None = None, best_buckets: int = BEST_BUCKETS,
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
