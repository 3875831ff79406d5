"""Who will ask for a vector, and where they look: the vectors that have it among their nearest stand for queries."""

from typing import NamedTuple

import numpy as np

from ivfast.routers import LogitTiles, top

SELF = 2.0  # a vector counts as so many that ask for it
SOFTNESS = 2.0  # logits around the border within which a bucket is probed or not
MOST_PROBED = 16  # nprobe that is assumed at most
KEPT = 32  # best buckets of an asker beyond which nothing is looked up
LEAST = 1e-3  # of a vector's demand, where all of it is met


class ReverseNeighbors(NamedTuple):
    """The askers of each stored vector, itself first."""

    first: np.ndarray  # (n + 1,) int64: those of vector i are asker[first[i]:first[i + 1]]
    asker: np.ndarray  # (pairs,) int64, numbers of askers


class Probes(NamedTuple):
    """Where askers look."""

    buckets: np.ndarray  # (m, kept) int32, best first
    chances: np.ndarray  # (m, kept) float32, that each is probed
    log_use: np.ndarray  # (nlist,) float32, log of the mean chance


class Demand(NamedTuple):
    """Who asks for each stored vector, and where."""

    reverse: ReverseNeighbors
    probes: Probes

    def of(self, start: int, n: int) -> "TileDemand":
        """That for the vectors from start on."""
        first = self.reverse.first[start : start + n + 1]
        asker = self.reverse.asker[first[0] : first[-1]]
        weight = np.ones(len(asker), dtype=np.float32)
        weight[first[:-1] - first[0]] = SELF
        return TileDemand(first[:-1] - first[0], asker, weight, self.probes)


class TileDemand(NamedTuple):
    """The askers of some vectors."""

    first: np.ndarray  # (n,)
    asker: np.ndarray  # (pairs,)
    weight: np.ndarray  # (pairs,) float32
    probes: Probes

    def asked(self, buckets: np.ndarray) -> "Asked":
        """Start to fill buckets, (n, width) int32; the first of each row is taken first."""
        row = np.repeat(np.arange(len(self.first)), np.diff(np.r_[self.first, len(self.asker)]))
        wanted = buckets[row]
        chances = np.zeros(wanted.shape, dtype=np.float32)
        looks, likely = self.probes.buckets[self.asker].T, self.probes.chances[self.asker].T
        for look, chance in zip(looks, likely, strict=True):  # one at a time: all at once would not fit the cache
            np.copyto(chances, chance[:, None], where=wanted == look[:, None])
        total = np.log(np.add.reduceat(self.weight, self.first))
        return Asked(self, row, chances, total[:, None] - self.probes.log_use[buckets])


class Asked:
    """What those that ask for a vector gain from one more bucket, beside the buckets taken."""

    def __init__(self, demand: TileDemand, row: np.ndarray, chances: np.ndarray, offset: np.ndarray) -> None:
        self.demand, self.row, self.chances, self.offset = demand, row, chances, offset
        self.covered = np.zeros((len(row), 1), dtype=np.float32)

    def after(self, taken: np.ndarray) -> np.ndarray:
        """Take one more column of each row, (n,); returns log sum_y w_y + asked_b of `cover`, (n, width) float32."""
        here = np.take_along_axis(self.chances, taken[self.row][:, None], axis=1)
        self.covered = np.maximum(self.covered, here)
        left = self.demand.weight[:, None] * np.maximum(self.chances - self.covered, 0)
        return self.offset + np.log(np.add.reduceat(left, self.demand.first, axis=0) + np.float32(LEAST))


def reverse_neighbors(nearest: np.ndarray, own: np.ndarray) -> ReverseNeighbors:
    """Turn "nearest of" into "asked by".

    nearest: (m, k) for each asker the stored vectors nearest to it, numbers below n, -1 where not stored
    own: (n,) int64, the asker that each stored vector is
    """
    n, (m, k) = len(own), nearest.shape
    stored, asker = nearest.ravel(), np.repeat(np.arange(m), k)
    known = stored >= 0
    stored, asker = np.concatenate([np.arange(n), stored[known]]), np.concatenate([own, asker[known]])
    order = np.argsort(stored, kind="stable")
    return ReverseNeighbors(np.searchsorted(stored[order], np.arange(n + 1)), asker[order])


def find_probes(tiles: LogitTiles, nprobe: float) -> Probes:
    """Where askers look at nprobe buckets.

        c_b = 1 / (1 + exp((border - z_b) / 2))     border: mean of the nprobe-th and the next best logit

    tiles: of the askers; nprobe: rounded, 1 to 16
    """
    nlist = tiles.router.nlist
    at = min(max(1, round(nprobe)), MOST_PROBED, nlist - 1)
    kept = min(KEPT, nlist)
    buckets = np.empty((tiles.n, kept), dtype=np.int32)
    chances = np.empty((tiles.n, kept), dtype=np.float32)
    for start, z in tiles:
        best = top(z, kept)
        logits = np.take_along_axis(z, best, axis=1)
        border = logits[:, at - 1 : at + 1].mean(axis=1, keepdims=True)
        buckets[start : start + len(z)] = best
        with np.errstate(over="ignore"):
            chances[start : start + len(z)] = 1 / (1 + np.exp((border - logits) / np.float32(SOFTNESS)))
    use = np.bincount(buckets.ravel(), weights=chances.ravel(), minlength=nlist) / max(tiles.n, 1)
    return Probes(buckets, chances, np.log(np.maximum(use, 1e-9)).astype(np.float32))
