"""What ranks buckets for a vector, as logits, in tiles whose bits never depend on block sizes."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from ivfast.data.vectors import Space, Vectors
from ivfast.route.distances import center_crossing, center_logits

TILE = 1024  # rows of every product: BLAS rounds differently by shape, so there is one shape
KEPT_BYTES = 1 << 30  # logits up to this size are kept for the second pass

Crossing = Callable[[np.ndarray], np.ndarray]  # buckets (rows, width) -> (rows, width, width): see center_crossing


class Router(NamedTuple):
    """One way to rank buckets: kmeans, centers or net."""

    name: str
    nlist: int
    logits: Callable[[np.ndarray], np.ndarray]  # x (TILE, dim) float32 -> z (TILE, nlist) float32
    crossing: Callable[[np.ndarray, np.ndarray], Crossing] | None = None  # of x (rows, dim) and their z


def centers_router(name: str, centers: np.ndarray, metric: str, delta_floor: float, k: float) -> Router:
    """A router that is a plain matrix of centers. centers: (nlist, dim) float32, inside."""

    def logits(x: np.ndarray) -> np.ndarray:
        z = center_logits(x, centers, metric, delta_floor)
        z *= np.float32(k)
        return z

    def crossing(x: np.ndarray, z: np.ndarray) -> Crossing:
        return lambda buckets: center_crossing(x, z, buckets, centers)

    return Router(name, len(centers), logits, crossing)


def net_router(logits: Callable[[np.ndarray], np.ndarray], linear: Router) -> Router:
    """The whole network as a router. linear: its linear path, which has the geometry"""

    def crossing(x: np.ndarray, z: np.ndarray) -> Crossing:
        del z
        assert linear.crossing is not None
        return linear.crossing(x, tile_logits(linear, x))

    return Router("net", linear.nlist, logits, crossing)


class LogitTiles:
    """The logits of many vectors, tile by tile, as often as wanted.

    index: rows of `vectors` (None: all); tiles start at multiples of TILE in that order and are
    padded with zero rows, so a row's bits are the same whatever else is read with it.
    read_rows: rows read from disk at once, in whole tiles
    """

    def __init__(
        self, router: Router, vectors: Vectors, space: Space, index: np.ndarray | None = None,
        read_rows: int = 16 * TILE,
    ) -> None:  # fmt: skip
        self.router, self.vectors, self.space, self.index = router, vectors, space, index
        self.n = len(vectors) if index is None else len(index)
        self.read = max(TILE, read_rows // TILE * TILE)
        self.keep = self.n * router.nlist * 4 <= KEPT_BYTES
        self.kept: list[np.ndarray] = []

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the first row, z (rows, nlist) float32)."""
        if len(self.kept) * TILE >= self.n:
            yield from ((i * TILE, z) for i, z in enumerate(self.kept))
            return
        self.kept.clear()
        for start in range(0, self.n, self.read):
            stop = min(start + self.read, self.n)
            x = self.vectors.take(self.space, slice(start, stop) if self.index is None else self.index[start:stop])
            for at in range(0, len(x), TILE):
                z = tile_logits(self.router, x[at : at + TILE])
                if self.keep:
                    self.kept.append(z)
                yield start + at, z

    def crossing(self, start: int, z: np.ndarray) -> Crossing | None:
        """The router's crossing for one tile; None where it has none. Rows are read at the first call, once."""
        crossing = self.router.crossing
        if crossing is None:
            return None
        rows = slice(start, start + len(z))

        @cache
        def of_rows() -> Crossing:
            return crossing(self.vectors.take(self.space, rows if self.index is None else self.index[rows]), z)

        return lambda buckets: of_rows()(buckets)

    def all(self) -> np.ndarray:
        """All rows at once: (n, nlist) float32."""
        return np.concatenate([z for _, z in self])


def tile_logits(router: Router, x: np.ndarray) -> np.ndarray:
    """Logits of up to TILE rows, computed as a whole tile."""
    n = len(x)
    if n < TILE:
        x = np.concatenate([x, np.zeros((TILE - n, x.shape[1]), dtype=x.dtype)])
    return router.logits(x)[:n]
