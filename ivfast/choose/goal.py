"""Sharpness, nprobe and slope that an epoch trains for, fitted in float64 on held-out pairs."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ivfast.method import LEAST_USE, RECALL
from ivfast.network.backend import Goal
from ivfast.route.distances import center_logits, log_softmax

K_GRID = np.geomspace(3, 100, 31)  # among which k is fitted
MOST_PAIRS, LEAST_PAIRS = 4000, 1000  # held-out pairs on which a goal is fitted; fewer where there are many buckets
PAIR_ENTRIES = 4000 * 1024  # logits of these pairs at most, down to LEAST_PAIRS
BLOCK_ENTRIES = 1 << 22  # float64 logits worked on at once: 32 MiB
AROUND = 0.025  # the slope is measured between recall 0.9 - 0.025 and 0.9 + 0.025
STEEPEST, FLATTEST = 30.0, 2.0  # the slope is kept within these, since it is measured on few pairs
SEARCH_COST_WEIGHT = 0.3  # of the search cost beside meet in the loss
FEW, MANY = 3, 9  # at the first nprobe the search cost begins to count, at the second it counts in full


class HeldOutLogits(NamedTuple):
    """Logits of held-out pairs at k = 1, float64."""

    z: np.ndarray  # (n_pairs, nlist)
    z_pair: np.ndarray  # (n_pairs, nlist)


def n_pairs(nlist: int) -> int:
    """Held-out pairs on which k is fitted: 4,000, above 1,024 buckets fewer, at least 1,000."""
    return min(MOST_PAIRS, max(LEAST_PAIRS, PAIR_ENTRIES // nlist))


def pair_logits(
    x: np.ndarray, x_pair: np.ndarray, centers: np.ndarray, metric: str, delta_floor: float
) -> HeldOutLogits:
    """The linear path's logits of held-out pairs. x, x_pair: (n_pairs, dim); centers: (nlist, dim)"""
    wide = centers.astype(np.float64)
    z, z_pair = (center_logits(side.astype(np.float64), wide, metric, delta_floor) for side in (x, x_pair))
    return HeldOutLogits(z, z_pair)


def meet(
    z: np.ndarray, z_pair: np.ndarray, m: np.ndarray, block_entries: int = BLOCK_ENTRIES, least_m: float = LEAST_USE
) -> float:
    """How badly pairs meet in one evenly used bucket.

        meet = - mean logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, least_m)))

    z, z_pair: (n_pairs, nlist) float64; m: (nlist,) use of the buckets, sums to 1
    returns: 0 at best, ln nlist where p does not depend on x
    """
    log_even = np.log(len(m) * np.maximum(m, least_m))
    total = 0.0
    for rows in row_blocks(len(z), len(m), block_entries):
        joint = log_softmax(z[rows]) + log_softmax(z_pair[rows]) - log_even
        high = joint.max(axis=1, keepdims=True)
        total += float((np.log(np.exp(joint - high).sum(axis=1)) + high[:, 0]).sum())
    return -total / len(z)


def fit_k(pairs: HeldOutLogits, m: np.ndarray, least_m: float = LEAST_USE) -> float:
    """The sharpness at which held-out pairs meet best, m held as it is. least_m: what m counts as at least"""
    return least(lambda k: meet(k * pairs.z, k * pairs.z_pair, m, least_m=least_m), K_GRID)


def fit_goal(pairs: HeldOutLogits, m: np.ndarray, least_m: float = LEAST_USE, recall: float = RECALL) -> Goal:
    """k, and the nprobe at which the nearest buckets of 90 % of the pairs' other sides are probed.

    slope = (log nprobe(0.925) - log nprobe(0.875)) / 0.05, within 2 and 30

    recall: that is wanted instead of 0.90; near 1 the slope is measured half as far from it as 1 is
    weight of search_cost: 0 up to nprobe 3, where meeting in the best bucket is what a search needs; 0.3 from 9 on
    """
    k = fit_k(pairs, m, least_m)
    at = np.take_along_axis(pairs.z, pairs.z_pair.argmax(axis=1)[:, None], axis=1)
    place = (pairs.z > at).sum(axis=1) + 1
    around = min(AROUND, (1 - recall) / 2)
    nprobe, low, high = np.quantile(place, [recall, recall - around, recall + around])
    slope = (np.log(high) - np.log(low)) / (2 * around)
    weight = SEARCH_COST_WEIGHT * np.clip((nprobe - FEW) / (MANY - FEW), 0, 1)
    return Goal(k, float(nprobe), float(np.clip(slope, FLATTEST, STEEPEST)), float(weight))


def row_blocks(n: int, width: int, entries: int = BLOCK_ENTRIES) -> list[slice]:
    """Rows that are worked on at once, so that float64 blocks (rows, width) stay small."""
    step = max(1, entries // width)
    return [slice(start, start + step) for start in range(0, n, step)]


def least(value: Callable[[float], float], grid: np.ndarray) -> float:
    """Where `value` is least: over a grid even in log, then a parabola through the least three.

    The grid is walked coarse to fine (every fifth, then the gaps around the least); for one
    valley, which both uses have, that finds what walking all of it would.
    """
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = value(float(grid[i]))
        return known[i]

    best = min(range(0, len(grid), 5), key=at)
    best = min(range(max(0, best - 4), min(len(grid), best + 5)), key=at)
    if best in (0, len(grid) - 1):
        return float(grid[best])
    low, mid, high = at(best - 1), at(best), at(best + 1)
    curve = low - 2 * mid + high
    shift = 0.0 if curve <= 0 else 0.5 * (low - high) / curve
    step = np.log(grid[1] / grid[0])
    return float(grid[best] * np.exp(shift * step))
