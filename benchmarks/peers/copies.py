"""Rules that choose which vectors get a copy in which further bucket, for any centers.

With r = x - c_1 the residual at the nearest center, r' = x - c the one at another:

    soar    |r'|^2 + lambda <r', r / |r|>^2      Sun et al., "SOAR: Improved Indexing for ANN Search", NeurIPS 2023
    rairs   |r'|^2 + lambda <r', r>              Yang and Chen, "RAIRS", SIGMOD 2026 (AIR, made for L2)
    spann   d_c <= (1 + eps) d_1, and no bucket taken before lies nearer to c than x does
                                                 Chen et al., "SPANN", NeurIPS 2021 (closure, relative neighbourhood)
    random  vectors drawn by chance, into their next nearest bucket

SOAR and RAIRS give each vector one copy at most, where the loss is least; over all of base the best copies
are those whose loss is least beside the loss of the first bucket taken again, (1 + lambda) |r|^2, which is
what RAIRS compares with to leave a vector single. SPANN's eps is what the budget makes it. Their lambdas are
chosen on held-out learn pairs. Distances are Euclidean under IP too, where all rows are of unit norm.

`rairs_own` is RAIRS as its authors' program has it (yangzh1998/rairs), under L2 alone and without a budget: of the
ten nearest buckets, the nearest joins in, taken again; where its loss is least the vector stays single. Lambda is
the 0.5 of their test. Their lists share what two buckets hold in common (SEIL), so that a search computes a copy's
distance once; here it counts each time, as all copies do.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.kmeans import Trained
from benchmarks.peers.peer import Peer, Way, way_of
from benchmarks.peers.task import Task
from benchmarks.runs import PERCENTS
from ivfast.data.vectors import Points
from ivfast.route.distances import squared_distances, top
from ivfast.route.tiles import LogitTiles, Tile
from ivfast.runtime.draws import generator
from ivfast.store.rules.rule import Rule

LAMBDAS = (0.5, 1.0, 1.5, 3.0)  # SOAR's paper has 1, ScaNN's documentation 1.5
CHOSEN_AT = 0.8  # percent
SOME = tuple(percent for percent in PERCENTS if percent > 0)  # without copies all rules but benefit are one
MOST_REPLICAS = 8  # SPANN's
OWN_LAMBDA, OWN_CANDIDATES = 0.5, 10  # RAIRS': five nearest buckets for each of a vector's two places
TINY = np.finfo(np.float32).tiny


def residual_losses(
    x: np.ndarray, centers: np.ndarray, d2: np.ndarray, first: np.ndarray, weight: float, squared: bool
) -> np.ndarray:
    """SOAR's (squared) or RAIRS' loss of every bucket; infinite at the first.

    x: (n, dim); d2: (n, nlist) squared distances; first: (n,) nearest; returns (n, nlist)
    """
    rows = np.arange(len(x))
    r = x - centers[first]
    along = np.einsum("nd,nd->n", r, x)[:, None] - r @ centers.T  # <r, r'>
    if squared:
        along = np.square(along) / np.maximum(d2[rows, first], TINY)[:, None]
    losses = d2 + weight * along
    losses[rows, first] = np.inf
    return losses


@dataclass(frozen=True, eq=False)
class OneCopy:
    """The nearest bucket, and the second one of least loss."""

    centers: np.ndarray  # (nlist, dim) float32, inside
    metric: str
    weight: float  # lambda
    squared: bool  # SOAR's loss, else RAIRS'

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        d2 = squared_distances(tile.x, self.centers, self.metric)
        first, rows = d2.argmin(axis=1), np.arange(len(d2))
        losses = residual_losses(tile.x, self.centers, d2, first, self.weight, self.squared)
        second = losses.argmin(axis=1)
        again = (1 + self.weight) * np.maximum(d2[rows, first], TINY)
        with np.errstate(over="ignore"):  # a vector that is its center has no use for a copy
            key = (-losses[rows, second] / again).astype(np.float32)
        second = np.where(key > -np.inf, second, -1)
        buckets, keys = np.stack([first, second], axis=1), np.stack([np.zeros_like(key), key], axis=1)
        return buckets[:, :width].astype(np.int32), keys[:, :width]


@dataclass(frozen=True, eq=False)
class RairsOwn:
    """The nearest bucket, and that of RAIRS' least loss among the nearest ten unless it is the nearest again."""

    centers: np.ndarray  # (nlist, dim) float32, inside
    metric: str

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        d2 = squared_distances(tile.x, self.centers, self.metric)
        near = top(-d2, min(OWN_CANDIDATES, d2.shape[1])).astype(np.int64)
        first, rows = near[:, 0], np.arange(len(d2))
        losses = residual_losses(tile.x, self.centers, d2, first, OWN_LAMBDA, squared=False)
        losses = np.take_along_axis(losses, near, axis=1)
        losses[:, 0] = (1 + OWN_LAMBDA) * d2[rows, first]
        best = losses.argmin(axis=1)  # the nearest where two are equal
        second = np.where(best > 0, near[rows, best], -1)
        buckets = np.stack([first, second], axis=1)[:, :width].astype(np.int32)
        return buckets, np.zeros(buckets.shape, dtype=np.float32)


def make_rairs_own(task: Task, trained: Trained) -> Peer:
    """RAIRS on given centers, with as many copies as its rule gives to base."""
    rule = RairsOwn(trained.centers, task.metric)
    tiles = LogitTiles(trained.router, task.base).tiles()
    n_copies = sum(int((rule.rank(tile, 2)[0][:, 1] >= 0).sum()) for tile in tiles)
    copies = n_copies / len(task.base)
    way = Way(trained.router, lambda _, __: rule, (copies,))
    settings = {"lambda": OWN_LAMBDA, "candidates": OWN_CANDIDATES, "copies": copies}
    return Peer("rairs_own", trained.router, {"own": way}, trained.seconds, trained.centers.nbytes, settings)


@dataclass(frozen=True, eq=False)
class Spann:
    """Closure with the relative neighbourhood rule; keys are log d_1 - log d_c."""

    centers: np.ndarray  # (nlist, dim) float32, inside
    metric: str

    @cached_property
    def between(self) -> np.ndarray:
        """Squared distances of centers, (nlist, nlist)."""
        return squared_distances(self.centers, self.centers, self.metric)

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        d2 = squared_distances(tile.x, self.centers, self.metric)
        near = top(-d2, min(MOST_REPLICAS, width)).astype(np.int64)
        near_d2 = np.take_along_axis(d2, near, axis=1)
        kept = np.zeros(near.shape, dtype=bool)
        kept[:, 0] = True
        for j in range(1, near.shape[1]):
            close = self.between[near[:, j, None], near[:, :j]] < near_d2[:, j, None]
            kept[:, j] = ~(close & kept[:, :j]).any(axis=1)
        keys = (np.log(np.maximum(near_d2[:, :1], TINY)) - np.log(np.maximum(near_d2, TINY))) / 2
        return np.where(kept, near, -1).astype(np.int32), keys.astype(np.float32)


@dataclass(frozen=True, eq=False)
class AtRandom:
    """Another rule's buckets, vectors by chance; a second copy of one only when all have a first."""

    rule: Rule
    chances: np.ndarray  # (n,) float32 in 0..1, of all vectors in their order

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        buckets = self.rule.rank(tile, width)[0]
        chances = self.chances[tile.start : tile.start + len(buckets), None]
        return buckets, chances - np.arange(buckets.shape[1], dtype=np.float32)


def at_random(task: Task, ratio: Way) -> Way:
    """The buckets of `ratio`."""

    def rule_for(points: Points, copies: float) -> Rule:
        chances = generator(task.seed, 0, "sample", 9).random(len(points), dtype=np.float32)
        return AtRandom(ratio.rule_for(points, copies), chances)

    return Way(ratio.router, rule_for)


def all_ways(task: Task, trained: Trained) -> tuple[dict[str, Way], dict[str, dict[float, float]]]:
    """Every rule for the same centers. Returns ways of storing by rule, and held-out shares by lambda."""
    centers, router, metric = trained.centers, trained.router, task.metric

    def plain(rule: Rule) -> Way:
        return Way(router, lambda _, __: rule)

    ratio = way_of(task, router, "ratio")
    ways, shares = {"ratio": ratio}, {}
    for name in ("soar", "rairs"):
        tried = {weight: plain(OneCopy(centers, metric, weight, squared=name == "soar")) for weight in LAMBDAS}
        shares[name] = {w: held_out_share(task, router, way, CHOSEN_AT) for w, way in tried.items()}
        ways[name] = tried[choose(shares[name])]
    ways |= {"spann": plain(Spann(centers, metric)), "random": at_random(task, ratio)}
    ways["membership"] = way_of(task, router, "membership")
    ways = {name: way if name == "ratio" else way._replace(copies=SOME) for name, way in ways.items()}
    ways["unasked"] = way_of(task, router, "unasked")._replace(copies=SOME)
    ways["benefit"] = way_of(task, router, "benefit")
    return ways, shares
