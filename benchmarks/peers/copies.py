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
"""

import numpy as np

from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.kmeans import Trained
from benchmarks.peers.peer import Candidates, Rule, plan_rule
from benchmarks.peers.task import Task
from benchmarks.runs import PERCENTS
from ivfast.data.vectors import Vectors
from ivfast.route.distances import squared_distances, top
from ivfast.runtime.draws import generator

LAMBDAS = (0.5, 1.0, 1.5, 3.0)  # SOAR's paper has 1, ScaNN's documentation 1.5
CHOSEN_AT = 0.8  # percent
SOME = tuple(percent for percent in PERCENTS if percent > 0)  # without copies all rules but benefit are one
MOST_REPLICAS = 8  # SPANN's
ROWS = 8192
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


def one_copy(task: Task, centers: np.ndarray, weight: float, *, squared: bool) -> Rule:
    """The second bucket of least loss."""

    def find(vectors: Vectors, percent: float) -> Candidates:
        del percent
        parts = []
        for start in range(0, len(vectors), ROWS):
            x = vectors.take(task.space, slice(start, start + ROWS))
            d2 = squared_distances(x, centers, task.metric)
            first, rows = d2.argmin(axis=1), np.arange(len(x))
            losses = residual_losses(x, centers, d2, first, weight, squared)
            second = losses.argmin(axis=1)
            again = (1 + weight) * np.maximum(d2[rows, first], TINY)
            with np.errstate(over="ignore"):  # a vector that is its center has no use for a copy: -inf
                key = -losses[rows, second] / again
            parts.append((np.stack([first, second], axis=1), np.stack([again, key], axis=1)))
        buckets, keys = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Candidates(buckets.astype(np.int32), keys.astype(np.float32))

    return Rule(find)


def spann(task: Task, centers: np.ndarray) -> Rule:
    """Closure with the relative neighbourhood rule; keys are log d_1 - log d_c."""
    between = squared_distances(centers, centers, task.metric)

    def find(vectors: Vectors, percent: float) -> Candidates:
        del percent
        parts = []
        for start in range(0, len(vectors), ROWS):
            d2 = squared_distances(vectors.take(task.space, slice(start, start + ROWS)), centers, task.metric)
            near = top(-d2, min(MOST_REPLICAS, task.nlist)).astype(np.int64)
            near_d2 = np.take_along_axis(d2, near, axis=1)
            kept = np.zeros(near.shape, dtype=bool)
            kept[:, 0] = True
            for j in range(1, near.shape[1]):
                close = between[near[:, j, None], near[:, :j]] < near_d2[:, j, None]
                kept[:, j] = ~(close & kept[:, :j]).any(axis=1)
            keys = (np.log(np.maximum(near_d2[:, :1], TINY)) - np.log(np.maximum(near_d2, TINY))) / 2
            parts.append((near, np.where(kept, keys, -np.inf)))
        buckets, keys = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Candidates(buckets.astype(np.int32), keys.astype(np.float32))

    return Rule(find)


def at_random(task: Task, ratio: Rule) -> Rule:
    """Vectors by chance; a second copy of one only when all have a first."""

    def find(vectors: Vectors, percent: float) -> Candidates:
        buckets = ratio.candidates(vectors, percent).buckets
        keys = generator(task.seed, 0, "sample", 9).random(len(buckets), dtype=np.float32)
        return Candidates(buckets, keys[:, None] - np.arange(buckets.shape[1], dtype=np.float32))

    return Rule(find)


def all_rules(task: Task, trained: Trained) -> tuple[dict[str, Rule], dict[str, dict[float, float]]]:
    """Every rule for the same centers. Returns the rules, and held-out shares by lambda."""
    ratio = plan_rule(task, trained.router, "ratio")
    rules, shares = {"ratio": ratio}, {}
    for name in ("soar", "rairs"):
        tried = {weight: one_copy(task, trained.centers, weight, squared=name == "soar") for weight in LAMBDAS}
        shares[name] = {w: held_out_share(task, trained.router, rule, CHOSEN_AT) for w, rule in tried.items()}
        rules[name] = tried[choose(shares[name])]
    rules |= {"spann": spann(task, trained.centers), "random": at_random(task, ratio)}
    rules["membership"] = plan_rule(task, trained.router, "membership")
    rules = {name: rule if name == "ratio" else rule._replace(percents=SOME) for name, rule in rules.items()}
    rules["unasked"] = plan_rule(task, trained.router, "unasked")._replace(percents=SOME)
    rules["benefit"] = plan_rule(task, trained.router, "benefit")
    return rules, shares
