"""What ranks buckets for a vector, as logits, in tiles whose bits never depend on block sizes."""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from ivfast.data.vectors import Points
from ivfast.route.distances import center_crossing, center_logits

TILE = 1024  # rows of every product: BLAS rounds differently by shape, so there is one shape
CACHED_BYTES = 1 << 30  # logits up to this size are kept for the next pass over them


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


Crossing = Callable[[np.ndarray], np.ndarray]  # buckets (rows, width) -> (rows, width, width): see center_crossing


class Router(NamedTuple):
    """One way to rank buckets."""

    name: str  # of a row of ROUTERS; benchmarks have others
    nlist: int
    logits: Callable[[np.ndarray], np.ndarray]  # x (TILE, dim) float32 -> z (TILE, nlist) float32
    crossing: Callable[[np.ndarray, np.ndarray], Crossing] | None = None  # of x (rows, dim) and their z


def centers_router(name: str, centers: np.ndarray, metric: str, delta_floor: float, k: float) -> Router:
    """A router that is a plain matrix of centers.

    centers: (nlist, dim) float32, inside; k: sharpness of its logits; delta_floor: see center_logits
    """

    def logits(x: np.ndarray) -> np.ndarray:
        z = center_logits(x, centers, metric, delta_floor)
        z *= np.float32(k)
        return z

    def crossing(x: np.ndarray, z: np.ndarray) -> Crossing:
        return lambda buckets: center_crossing(x, z, buckets, centers)

    return Router(name, len(centers), logits, crossing)


def net_router(logits: Callable[[np.ndarray], np.ndarray], linear: Router) -> Router:
    """The whole network as a router.

    logits: as Router has it
    linear: the network's own centers, which alone know how far one bucket lies behind another
    """

    def crossing(x: np.ndarray, z: np.ndarray) -> Crossing:
        del z
        assert linear.crossing is not None
        return linear.crossing(x, tile_logits(linear, x))

    return Router("net", linear.nlist, logits, crossing)


class Tile:
    """Up to 1,024 consecutive rows with their logits, and all that a rule of storing may know of them."""

    def __init__(self, router: Router, start: int, z: np.ndarray, read: Callable[[], np.ndarray]) -> None:
        self.start, self.z = start, z  # number of the first row; (rows, nlist) float32
        self._router, self._read = router, read

    @cached_property
    def x(self) -> np.ndarray:
        """The rows themselves, (rows, dim) float32, read where they are first asked for."""
        return self._read()

    @cached_property
    def crossing(self) -> Crossing | None:
        """How far buckets lie behind each other, seen from each row; None where the router has no geometry."""
        return self._router.crossing and self._router.crossing(self.x, self.z)


class LogitTiles:
    """The logits of many points, tile by tile, as often as wanted.

    Tiles start at multiples of TILE and are padded with zero rows. So a row's bits are the same, whatever else
    is read with it.

    index: rows of `points`, in the order of the tiles (None: all)
    read_rows: rows read from disk at once, in whole tiles
    cached_bytes: logits up to this size are computed once
    """

    def __init__(
        self, router: Router, points: Points, index: np.ndarray | None = None, read_rows: int = 16 * TILE,
        cached_bytes: int = CACHED_BYTES,
    ) -> None:  # fmt: skip
        self.router, self.points, self.index = router, points, index
        self.n = len(points) if index is None else len(index)
        self.read = max(TILE, read_rows // TILE * TILE)
        self.cache = self.n * router.nlist * 4 <= cached_bytes
        self.cached: list[np.ndarray] = []

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the first row, z (rows, nlist) float32)."""
        if len(self.cached) * TILE >= self.n:
            yield from ((i * TILE, z) for i, z in enumerate(self.cached))
            return
        self.cached.clear()
        for start in range(0, self.n, self.read):
            x = self._x(start, min(start + self.read, self.n))
            for at in range(0, len(x), TILE):
                z = tile_logits(self.router, x[at : at + TILE])
                if self.cache:
                    self.cached.append(z)
                yield start + at, z

    def tiles(self) -> Iterator[Tile]:
        """The same as values that know their rows."""
        for start, z in self:
            yield Tile(self.router, start, z, partial(self._x, start, start + len(z)))

    def _x(self, start: int, stop: int) -> np.ndarray:
        rows = slice(start, stop)
        return self.points.x(rows if self.index is None else self.index[rows])

    def all(self) -> np.ndarray:
        """All rows at once: (n, nlist) float32."""
        return np.concatenate([z for _, z in self])


def tile_logits(router: Router, x: np.ndarray) -> np.ndarray:
    """Logits of up to TILE rows, computed as a whole tile. (n, dim) -> (n, nlist) float32"""
    n = len(x)
    if n < TILE:
        x = np.concatenate([x, np.zeros((TILE - n, x.shape[1]), dtype=x.dtype)])
    return router.logits(x)[:n]
