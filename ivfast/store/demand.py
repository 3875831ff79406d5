"""Who will ask for a vector, and where they look: the vectors that have it among their nearest stand for queries."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import Space, Vectors
from ivfast.route.distances import top
from ivfast.route.routers import LogitTiles
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.config import Config
from ivfast.runtime.progress import Bar, Progress
from ivfast.start.neighbors import Neighbors, nearest_of_all

SOFTNESS = 2.0  # logits around the border within which a bucket is probed or not: for copies
ONLY_SOFTNESS = 1.0  # the same, for the only bucket of a vector
SLOPE = 10.0  # log scanned over recall: what one more answer found is worth in vectors scanned
MOST_PROBED = 16  # nprobe that is assumed at most
KEPT = 32  # best buckets of an asker beyond which nothing is looked up
LEAST = 1e-3  # askers that one more bucket is taken to win at least
LEAST_USE = 0.1  # of even use: what looking into a bucket counts as at least
MOST_ASKERS = 1000  # of one vector that are looked at: duplicates may have it among their nearest by the million


class ReverseNeighbors(NamedTuple):
    """The askers of each stored vector, itself first."""

    first: np.ndarray  # (n + 1,) int64: those of vector i are asker[first[i]:first[i + 1]]
    asker: np.ndarray  # (pairs,) int32, numbers of askers
    place: np.ndarray  # (pairs,) uint16, 1 where the vector is its asker's nearest, 2: the next, ..; 0: itself
    weights: np.ndarray  # (1 + k,) float32, of an asker by that place: 1, then those of `asking_weights`


class Probes(NamedTuple):
    """Where askers look."""

    buckets: np.ndarray  # (m, kept) int32, best first
    above: np.ndarray  # (m, kept) float32, logits above the border between probed and not
    log_use: np.ndarray  # (nlist,) float32, log of the mean chance at SOFTNESS
    cost: np.ndarray  # (nlist,) float32, the mean chance at ONLY_SOFTNESS over that of the bucket of a mean vector


class Demand(NamedTuple):
    """Who asks for each stored vector, and where."""

    reverse: ReverseNeighbors
    probes: Probes
    stands_for: float = 1.0  # askers that one stands for beside itself, where they are a draw

    def of(self, start: int, n: int) -> "TileDemand":
        """That for the n vectors from start on."""
        first = self.reverse.first[start : start + n + 1]
        asker = self.reverse.asker[first[0] : first[-1]]
        place = self.reverse.place[first[0] : first[-1]]
        weight = self.reverse.weights[place] * np.where(place > 0, np.float32(self.stands_for), np.float32(1))
        row = np.repeat(np.arange(n), np.diff(first))
        cell = row[:, None] * len(self.probes.cost) + self.probes.buckets[asker]
        mean_weight = float(self.reverse.weights.sum())
        return TileDemand(first[:-1] - first[0], row, weight, mean_weight, cell, self.probes.above[asker], self.probes)


class TileDemand(NamedTuple):
    """The askers of some vectors, pair by pair."""

    first: np.ndarray  # (n,) where each vector's pairs begin
    row: np.ndarray  # (pairs,) vector
    weight: np.ndarray  # (pairs,) float32, of the asker
    mean_weight: float  # what the weights of one vector's askers sum to on average
    cell: np.ndarray  # (pairs, kept) int64, row x nlist + a bucket where it looks, best first
    above: np.ndarray  # (pairs, kept) float32
    probes: Probes

    def chances(self, buckets: np.ndarray, softness: float) -> np.ndarray:
        """That each asker probes its vector's buckets. (n, width) -> (pairs, width) float32"""
        n, width = buckets.shape
        columns = np.full((n, len(self.probes.cost)), -1, dtype=np.int16)  # of each bucket among a row's wanted
        np.put_along_axis(columns, buckets, np.arange(width, dtype=np.int16)[None], axis=1)
        column = columns.ravel().take(self.cell).ravel()
        hit = np.flatnonzero(column >= 0)
        above = np.full(len(self.row) * width, -np.inf, dtype=np.float32)
        above[hit // self.cell.shape[1] * width + column[hit]] = self.above.ravel()[hit]
        return chance(above, softness).reshape(-1, width)

    def asked(self, buckets: np.ndarray) -> "Asked":
        """Start to fill buckets, (n, width) int32; the first of each row is taken first."""
        total = np.log(np.add.reduceat(self.weight, self.first))
        return Asked(self, self.chances(buckets, SOFTNESS), total[:, None] - self.probes.log_use[buckets])

    def surplus(self, buckets: np.ndarray) -> np.ndarray:
        """What each bucket is worth as a vector's only one, in log scanned, but for its own memberships.

            surplus_b = 10 sum_y w_y c_b(y) / mean sum of w - mean c_b / sum over b' of s_b' mean c_b'

        s is the share of askers whose best bucket b' is. A vector moved to b is scanned by every query that
        probes b, and found by those of its askers that do: to first order the two change log scanned at equal
        recall in this ratio (up to one factor for all).

        buckets: (n, width); returns (n, width) float32
        """
        found = self.weight[:, None] * self.chances(buckets, ONLY_SOFTNESS)
        gain = np.add.reduceat(found, self.first, axis=0)
        return np.float32(SLOPE / self.mean_weight) * gain - self.probes.cost[buckets]


class Asked:
    """What those that ask for a vector gain from one more bucket, beside the buckets taken."""

    def __init__(self, demand: TileDemand, chances: np.ndarray, offset: np.ndarray) -> None:
        self.demand, self.chances, self.offset = demand, chances, offset
        self.covered = np.zeros((len(chances), 1), dtype=np.float32)

    def after(self, taken: np.ndarray) -> np.ndarray:
        """Take one more column of each row, (n,); returns log sum_y w_y + asked_b of `cover`, (n, width) float32."""
        here = np.take_along_axis(self.chances, taken[self.demand.row][:, None], axis=1)
        self.covered = np.maximum(self.covered, here)
        left = self.demand.weight[:, None] * np.maximum(self.chances - self.covered, 0)
        return self.offset + np.log(np.add.reduceat(left, self.demand.first, axis=0) + np.float32(LEAST))


def chance(above: np.ndarray, softness: float) -> np.ndarray:
    """That a bucket is probed, by its logit above the border. float32"""
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
    told = np.flatnonzero(trains.any(axis=1))
    if not len(told):
        return np.ones(neighbors.train_nearest.shape[1], dtype=np.float32)
    nearest = answers[told, trains[told].argmax(axis=1)]
    near = neighbors.train_nearest[np.searchsorted(train, nearest)]
    shares = [(column[:, None] == answers[told]).any(axis=1).mean() for column in near.T]
    return np.array(shares, dtype=np.float32)


def reverse_neighbors(
    stored: np.ndarray, asker: np.ndarray, place: np.ndarray, own: np.ndarray, weights: np.ndarray
) -> ReverseNeighbors:
    """Turn "nearest of" into "asked by"; of one vector's askers the 1,000 that have it nearest are kept.

    stored, asker: (pairs,) int, a vector stored, below n, and one that has it among its nearest
    place: (pairs,) int, at which the asker has it, 0 the nearest
    own: (n,) int, the asker that each stored vector is, kept beside those 1,000
    weights: (k,) of `asking_weights`
    """
    n = len(own)
    order = np.argsort(stored, kind="stable")
    count = np.bincount(stored, minlength=n)
    if count.max(initial=0) > MOST_ASKERS:
        order = np.lexsort((place, stored))
        nth = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)  # among its vector's
        order = order[nth < MOST_ASKERS]
        count = np.minimum(count, MOST_ASKERS)
    first = np.r_[0, np.cumsum(count + 1)]
    found, at = np.empty(first[-1], dtype=np.int32), np.zeros(first[-1], dtype=np.uint16)
    itself = np.zeros(len(found), dtype=bool)
    itself[first[:-1]] = True
    found[itself], found[~itself] = own, asker[order]
    at[~itself] = place[order] + 1
    return ReverseNeighbors(first, found, at, np.concatenate([np.ones(1, np.float32), weights], dtype=np.float32))


def reverse_of(nearest: np.ndarray, weights: np.ndarray) -> ReverseNeighbors:
    """Of vectors that are all stored and all ask.

    nearest: (n, k) int rows of them, nearest first; weights: (k or more,) of `asking_weights`
    """
    n, k = nearest.shape
    rows = np.arange(n, dtype=np.int32)
    places = np.tile(np.arange(k, dtype=np.uint16), n)
    return reverse_neighbors(nearest.ravel(), np.repeat(rows, k), places, rows, weights[:k])


def reverse_of_base(
    config: Config, base: Vectors, space: Space, weights: np.ndarray, progress: Progress
) -> ReverseNeighbors:
    """Who has which vector of base among its nearest there, found or taken from save_path/cache.

    weights: of `asking_weights`; so many nearest are searched for, where base has them
    """
    facts = {"base": base.digest, "metric": space.metric, "mean": space.mean.tolist(), "scale": float(space.scale)}
    found, old = cached(
        config.save_path / "cache", "base_neighbors", fingerprint(**facts, k=len(weights), faiss=faiss.__version__),
        lambda: {"nearest": nearest_of_all(base, space, len(weights), progress)},
    )  # fmt: skip
    progress.note(
        f"neighbours: {found['nearest'].shape[1]} of each of {len(base):,} vectors of base, to tell who asks for which"
        f"{', from the cache' if old else ''}"
    )
    return reverse_of(found["nearest"], weights)


def find_probes(tiles: LogitTiles, nprobe: float, bar: Bar | None = None) -> Probes:
    """Where askers look at nprobe buckets.

        c_b = 1 / (1 + exp((border - z_b) / s))     border: mean of the nprobe-th and the next best logit

    s is 2 for copies, 1 for a vector's only bucket.

    tiles: of the askers; nprobe: rounded, 1 to 16
    """
    nlist = tiles.router.nlist
    at = min(max(1, round(nprobe)), MOST_PROBED, nlist - 1)
    kept = min(KEPT, nlist)
    buckets = np.empty((tiles.n, kept), dtype=np.int32)
    above = np.empty((tiles.n, kept), dtype=np.float32)
    use, only_use, size = np.zeros(nlist), np.zeros(nlist), np.zeros(nlist)
    for start, z in tiles:
        best = top(z, kept)
        logits = np.take_along_axis(z, best, axis=1)
        border = logits[:, at - 1 : at + 1].mean(axis=1, keepdims=True)
        logits -= border
        buckets[start : start + len(z)], above[start : start + len(z)] = best, logits
        size += np.bincount(best[:, 0], minlength=nlist)
        for total, softness in ((use, SOFTNESS), (only_use, ONLY_SOFTNESS)):
            chances = chance(logits, softness)
            total += np.bincount(best.ravel(), weights=chances.ravel(), minlength=nlist)
        if bar is not None:
            bar.advance(len(z))
    use = np.maximum(use / max(tiles.n, 1), LEAST_USE / nlist)
    cost = only_use * max(tiles.n, 1) / max(size @ only_use, np.finfo(np.float64).tiny)
    return Probes(buckets, above, np.log(use).astype(np.float32), cost.astype(np.float32))
