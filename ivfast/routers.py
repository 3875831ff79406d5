"""What ranks buckets for a vector, as logits, in tiles whose bits never depend on block sizes."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from ivfast.data import Space, Vectors

TILE = 1024  # rows of every product: BLAS rounds differently by shape, so there is one shape
GROUP = 16  # buckets of which only the best is looked at first
NEAR = 4  # distances that make up delta
KEPT_BYTES = 1 << 30  # logits up to this size are kept for the second pass


Crossing = Callable[[np.ndarray], np.ndarray]  # buckets (rows, width) -> (rows, width, width): see center_crossing


class Router(NamedTuple):
    """One way to rank buckets: kmeans, centers or net."""

    name: str
    nlist: int
    logits: Callable[[np.ndarray], np.ndarray]  # x (TILE, dim) float32 -> z (TILE, nlist) float32
    crossing: Callable[[np.ndarray, np.ndarray], Crossing] | None = None  # of x (rows, dim) and their z


def squared_distances(x: np.ndarray, centers: np.ndarray, metric: str) -> np.ndarray:
    """d^2 of rows to centers, never negative.

    Under IP both are of unit norm: d^2 = 2 - 2 <x, c>; else |x|^2 - 2 <x, c> + |c|^2.

    x: (n, dim), centers: (nlist, dim), one float type; returns (n, nlist) of that type
    """
    d2 = x @ centers.T
    d2 *= -2  # in place from here on: at 16,384 buckets every pass over memory counts
    if metric == "IP":
        d2 += 2
    else:
        d2 += np.square(x).sum(axis=1)[:, None] + np.square(centers).sum(axis=1)
    return np.maximum(d2, 0, out=d2)


def mean_nearest(d2: np.ndarray) -> np.ndarray:
    """delta: the mean of the min(4, nlist) smallest of each row. (n, nlist) -> (n, 1)"""
    near = min(NEAR, d2.shape[1])
    d2 = np.negative(group_candidates(-d2, near)[0])
    return np.partition(d2, near - 1, axis=1)[:, :near].mean(axis=1, keepdims=True)


def group_candidates(keys: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Fewer keys that hold the `width` largest of each row.

    Buckets are put into groups of 16 (b, b + G, b + 2 G, ..); only the `width` groups with the
    largest maxima can hold one of the largest keys.

    keys: (n, columns)
    returns: keys (n, fewer) and their columns, ascending along each row; (keys, None) where
    there are too few columns for it to pay
    """
    n, columns = keys.shape
    groups = columns // GROUP
    if groups < 4 * width:
        return keys, None
    rest = keys[:, groups * GROUP :]  # columns that fill no group always stay
    highest = keys[:, : groups * GROUP].reshape(n, GROUP, groups).max(axis=1)
    best = np.argpartition(highest, groups - width, axis=1)[:, groups - width :]
    chosen = np.sort(best, axis=1)[:, None, :] + np.arange(0, groups * GROUP, groups)[:, None]
    at = chosen.reshape(n, GROUP * width)
    ends = np.broadcast_to(np.arange(groups * GROUP, columns), (n, columns - groups * GROUP))
    return np.concatenate([np.take_along_axis(keys, at, axis=1), rest], axis=1), np.concatenate([at, ends], axis=1)


def top(keys: np.ndarray, width: int) -> np.ndarray:
    """Columns of the `width` largest of each row, largest first, ties to the smaller column.

    keys: (n, columns) float; returns (n, width) int32
    """
    if width == 1:
        return keys.argmax(axis=1)[:, None].astype(np.int32)
    few, at = group_candidates(keys, width)
    if at is None:
        return _top_of_all(keys, width)
    found = np.take_along_axis(at, _top_of_all(few, width).astype(np.int64), axis=1).astype(np.int32)
    # a group left out may hold a key equal to the least one taken: look at all of such a row
    least = np.take_along_axis(keys, found[:, -1:], axis=1)
    tied = np.flatnonzero((keys >= least).sum(axis=1) > width)
    found[tied] = _top_of_all(keys[tied], width)
    return found


def _top_of_all(keys: np.ndarray, width: int) -> np.ndarray:
    n, columns = keys.shape
    least = np.partition(keys, columns - width, axis=1)[:, columns - width, None]
    chosen = keys >= least
    many = np.flatnonzero(chosen.sum(axis=1) > width)  # ties at the border
    for row in many:
        tied = np.flatnonzero(keys[row] == least[row])
        spare = int(chosen[row].sum()) - width
        chosen[row, tied[len(tied) - spare :]] = False
    found = np.nonzero(chosen)[1].reshape(n, width)
    order = np.argsort(-np.take_along_axis(keys, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1).astype(np.int32)


def center_logits(x: np.ndarray, centers: np.ndarray, metric: str, delta_floor: float) -> np.ndarray:
    """Scale-free logits of the linear path at k = 1.

        z_b(x) = - d_b(x)^2 / delta(x)

    delta_floor: what delta is at least; returns (n, nlist) of x's type
    """
    d2 = squared_distances(x, centers, metric)
    d2 /= -np.maximum(mean_nearest(d2), d2.dtype.type(delta_floor))
    return d2


def center_crossing(x: np.ndarray, z: np.ndarray, buckets: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """How much of the way to one bucket's center runs along the way to another's, in logits.

        crossing_ab = k <r_a, r_b>^2 / (|r_a|^2 delta)      r_b = x - c_b

    Entry a, b is the share cos^2 of -z_b; queries that miss a because they lie on its far side
    miss b too (orthogonality-amplified residuals of SOAR, Sun et al., NeurIPS 2023, between all
    buckets). 0 where x lies on c_a.

    x: (n, dim); z: (n, nlist) logits of the linear path; buckets: (n, width)
    returns: (n, width, width) float32
    """
    r = x[:, None, :] - centers[buckets]
    products = r @ r.transpose(0, 2, 1)
    d2 = np.einsum("naa->na", products)
    rows, far = np.arange(len(x)), d2.argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = -z[rows, buckets[rows, far]] / d2[rows, far]  # k / delta
        found = unit[:, None, None] * np.square(products) / d2[:, :, None]
    return np.where(d2[:, :, None] > 0, found, np.float32(0))


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


def log_softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log softmax(z / temperature) over buckets. (n, nlist) -> the same, of z's type"""
    scaled = z / z.dtype.type(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled
