"""Which buckets a vector is stored in."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.method import LEAST_USE
from ivfast.route.distances import log_softmax, top
from ivfast.route.routers import Crossing
from ivfast.store.demand import TileDemand

COVER = 0.5  # of the crossing with a bucket taken counts against a copy
OWN = 0.6  # of a vector's own gain counts beside what its askers gain, where it is in one bucket


def default_rule(router: str) -> str:
    """What a router's base is stored by unless another rule is asked for: all that k-means has is ratio."""
    return "ratio" if router == "kmeans" else "benefit"


class Plan(NamedTuple):
    """One way to store base."""

    rule: str  # ratio, membership or benefit
    percent: float  # extra entries over base
    temperature: float = 1.0  # T_s, of membership and benefit
    log_use: np.ndarray | None = None  # (nlist,) log m at T_s, for benefit

    @property
    def places_copies(self) -> bool:
        """Whether copies go where the buckets taken don't reach: by benefit."""
        return self.rule == "benefit" and self.percent > 0

    @property
    def keyed_by(self) -> tuple[str, float, bool]:
        """Plans that agree in this rank the same candidates."""
        return self.rule, self.temperature, self.percent > 0


def log_use(m: np.ndarray) -> np.ndarray:
    """Log max(m, 1e-9), float32. m: (nlist,) mean membership, sums to 1"""
    return np.log(np.maximum(m, LEAST_USE)).astype(np.float32)


def mean_membership(tiles: Iterable[tuple[int, np.ndarray]], temperatures: Iterable[float]) -> dict[float, np.ndarray]:
    """M at each temperature: the mean of softmax(z / T) over all rows, (nlist,) float64."""
    sums: dict[float, np.ndarray] = {}
    n = 0
    wanted = set(temperatures)
    for _, z in tiles:
        n += len(z)
        for temperature in wanted:
            p = np.exp(log_softmax(z, temperature)).sum(axis=0, dtype=np.float64)
            sums[temperature] = sums.get(temperature, 0) + p
    return {temperature: total / n for temperature, total in sums.items()}


def candidates(
    z: np.ndarray, plan: Plan, width: int, crossing: Crossing | None = None, demand: TileDemand | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best `width` buckets of each row by the plan's key; ties go to the smaller bucket.

        ratio       log d_1 - log d_j = (log z_1 - log z_j) / 2 for z = -k d^2 / delta
        membership  log p_b
        benefit     log p_b - log m_b; of copies what the buckets taken leave of it (see cover); without copies
                    what askers gain counts as well (see only_bucket)

    z: (n, nlist) float32; crossing: of the router, for (n, width) buckets (None: it has none)
    demand: who asks for these rows (None: not known)
    returns: buckets (n, width) int32 and keys (n, width) float32, falling along each row (of copies, beside the first)
    """
    if plan.rule == "ratio":
        buckets = top(z, width)
        return buckets, _ratio_keys(np.take_along_axis(z, buckets, axis=1))
    keys = log_softmax(z, plan.temperature)
    if plan.rule == "benefit":
        assert plan.log_use is not None
        keys = keys - plan.log_use
    buckets = top(keys, width)
    keys = np.take_along_axis(keys, buckets, axis=1)
    if plan.places_copies and width > 1 and crossing is not None:
        return cover(buckets, keys, crossing(buckets) * np.float32(COVER / plan.temperature), demand)
    if plan.rule == "benefit" and plan.percent == 0 and demand is not None:
        return only_bucket(buckets, keys, demand)
    return buckets, keys


def only_bucket(buckets: np.ndarray, keys: np.ndarray, demand: TileDemand) -> tuple[np.ndarray, np.ndarray]:
    """Order a row's buckets by what each is worth as its only one.

        key_b = surplus_b + 0.6 (log p_b - log m_b)     surplus: of the askers, see TileDemand.surplus

    buckets: (n, width); keys: (n, width) log p_b - log m_b
    returns: both, by falling key; ties go to the smaller bucket
    """
    worth = demand.surplus(buckets) + np.float32(OWN) * keys
    order = np.lexsort((buckets, -worth), axis=1)
    return np.take_along_axis(buckets, order, axis=1), np.take_along_axis(worth, order, axis=1)


def cover(
    buckets: np.ndarray, keys: np.ndarray, crossing: np.ndarray, demand: TileDemand | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Order a row's buckets so that each is worth most beside those before it.

    Two estimates of a copy's gain over its cost, A the buckets before it. By the vector's own memberships:

        own_b = log p_b - log m_b - 1 / (2 T) sum of crossing_ab over A

    by those that ask for it, y with weight w_y, each of which probes b with chance c_b(y):

        asked_b = log(0.001 + sum_y w_y max(0, c_b(y) - max of c_a(y) over A)) - log mean c_b

    The key is their mean, (own_b + log sum_y w_y + asked_b) / 2; own_b alone where no demand is known.

    buckets, keys: (n, width), the first stays; crossing: (n, width, width), times 1 / (2 T)
    returns: both, reordered; keys fall along each row after the first; ties go to the smaller bucket
    """
    n, width = buckets.shape
    rows = np.arange(n)
    order = np.argsort(buckets, axis=1)
    order = np.concatenate([np.zeros((n, 1), order.dtype), order[order > 0].reshape(n, width - 1)], axis=1)
    worth = np.take_along_axis(keys, order, axis=1)
    worth[:, 0] = -np.inf  # taken
    asked = None if demand is None else demand.asked(np.take_along_axis(buckets, order, axis=1))
    best = np.zeros(n, dtype=np.int64)
    chosen, found = np.zeros((n, width), dtype=np.int64), keys.copy()
    for place in range(1, width):
        worth -= np.take_along_axis(crossing[rows, chosen[:, place - 1]], order, axis=1)
        key = worth if asked is None else (worth + asked.after(best)) / 2
        best = key.argmax(axis=1)
        chosen[:, place], found[:, place] = order[rows, best], key[rows, best]
        worth[rows, best] = -np.inf
    return np.take_along_axis(buckets, chosen, axis=1), found


def _ratio_keys(z: np.ndarray) -> np.ndarray:
    """z: (n, width) falling, <= 0; 1 (log 0) where both distances are 0, -inf where only d_1 is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        keys = (np.log(-z[:, :1]) - np.log(-z)) / 2
    return np.where(z == z[:, :1], np.float32(0), keys)
