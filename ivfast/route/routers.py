"""What ranks buckets for a vector: the table of routers, and how one is made."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ivfast.method import MANY_BUCKETS
from ivfast.network.backend import Rank, Ranker
from ivfast.route.distances import center_crossing, center_logits

TILE = 1024  # rows of every product: BLAS rounds differently by shape, so there is one shape


class RouterKind(NamedTuple):
    """What sets one router apart from the others: a row of ROUTERS."""

    name: str  # in files, tables and metrics
    title: str  # in sentences for people
    color: str  # in pictures, told apart by the colour-blind too
    trained: bool  # False: training starts there
    linear: bool  # ranks by a plain matrix of centers, so that any IVF engine can use it
    rules: tuple[str, ...]  # by which its base is evaluated (see ivfast.store.rules)
    default_rule: str  # of them, by which it is judged, fitted and stored


ROUTERS = {
    kind.name: kind
    for kind in (
        RouterKind(
            "kmeans", "k-means", "#777777", trained=False, linear=True, rules=("ratio",), default_rule="ratio"
        ),
        RouterKind(
            "centers", "trained centers", "#0072b2", trained=True, linear=True,
            rules=("ratio", "membership", "benefit"), default_rule="benefit",
        ),
        RouterKind(
            "net", "network", "#d55e00", trained=True, linear=False,
            rules=("membership", "benefit"), default_rule="benefit",
        ),
    )
}  # fmt: skip


def trained_routers(*, deep: bool) -> tuple[str, ...]:
    """Names of the routers that a run trains. deep: whether the network has a deep path"""
    return tuple(kind.name for kind in ROUTERS.values() if kind.trained and (deep or kind.linear))


LogitsOf = Callable[[np.ndarray], np.ndarray]  # buckets (rows, width) -> their logits (rows, width) float32
Crossing = Callable[[np.ndarray], np.ndarray]  # buckets (rows, width) -> (rows, width, width): see center_crossing


class Router(NamedTuple):
    """One way to rank buckets."""

    name: str  # of a row of ROUTERS; benchmarks have others
    nlist: int
    logits: Callable[[np.ndarray], np.ndarray]  # x (TILE, dim) float32 -> z (TILE, nlist) float32
    crossing: Callable[[np.ndarray, LogitsOf], Crossing] | None = None  # of x (rows, dim) and its logits
    rank: Rank | None = None  # finds the best buckets alone, on a device, where there are many; None: by `logits`


def centers_router(
    name: str, centers: np.ndarray, metric: str, delta_floor: float, k: float, ranker: Ranker | None = None
) -> Router:
    """A router that is a plain matrix of centers.

    centers: (nlist, dim) float32, inside; k: sharpness of its logits; delta_floor: see center_logits
    ranker: ranks many buckets on a device; None: NumPy computes all logits
    """

    def logits(x: np.ndarray) -> np.ndarray:
        z = center_logits(x, centers, metric, delta_floor)
        z *= np.float32(k)
        return z

    def crossing(x: np.ndarray, logits_of: LogitsOf) -> Crossing:
        return lambda buckets: center_crossing(x, logits_of(buckets), buckets, centers)

    rank = None
    if ranker is not None and len(centers) >= MANY_BUCKETS:
        rank = ranker(centers, metric, delta_floor, k)
    return Router(name, len(centers), logits, crossing, rank)


def net_router(logits: Callable[[np.ndarray], np.ndarray], linear: Router, rank: Rank | None = None) -> Router:
    """The whole network as a router.

    logits: as Router has it
    linear: the network's own centers, which alone know how far one bucket lies behind another
    rank: of the whole network, used where there are many buckets
    """

    def crossing(x: np.ndarray, logits_of: LogitsOf) -> Crossing:
        del logits_of
        assert linear.crossing is not None
        z = tile_logits(linear, x)
        return linear.crossing(x, lambda buckets: np.take_along_axis(z, buckets, axis=1))

    return Router("net", linear.nlist, logits, crossing, rank if linear.nlist >= MANY_BUCKETS else None)


def tile_logits(router: Router, x: np.ndarray) -> np.ndarray:
    """Logits of up to TILE rows, computed as a whole tile. (n, dim) -> (n, nlist) float32"""
    return router.logits(whole_tile(x))[: len(x)]


def whole_tile(x: np.ndarray) -> np.ndarray:
    """Up to TILE rows with rows of zeros behind them, (TILE, dim)."""
    n = len(x)
    return x if n >= TILE else np.concatenate([x, np.zeros((TILE - n, x.shape[1]), dtype=x.dtype)])
