"""What a router says of many points, in tiles of 1,024 whose bits never depend on block sizes."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial

import numpy as np

from ivfast.data.vectors import Points
from ivfast.network.backend import Best
from ivfast.route.distances import log_softmax, top
from ivfast.route.routers import TILE, Crossing, Router, tile_logits, whole_tile

CACHED_BYTES = 1 << 30  # what is known of all tiles is kept for the next pass over them up to this size
BEST_BUCKETS = 32  # of each row are looked at where there are many: rules take ten of them, and nobody probes so many
OUTSIDE = 50.0  # root mean squares from learn's mean: from there all centers look about as near


def rows_outside(x: np.ndarray) -> np.ndarray:
    """Which rows lie so far outside learn that their logits hardly differ, ascending. x: (n, dim) float32, inside"""
    if max(x.max(initial=0), -x.min(initial=0)) <= OUTSIDE:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.square(x).mean(axis=1) > OUTSIDE**2)


class Tile:
    """Up to 1,024 consecutive rows with their logits, and all that a rule of storing may know of them.

    start: number of the first row
    z: (rows, columns) float32, logits
    buckets: (rows, columns) int32, whose logits they are, best first; None: of all buckets, in order
    log_sums: log of the sum over all buckets of exp((z - best z) / T), (rows,) by T, where not all are known
    outside: numbers of the rows that lie far outside learn (see OUTSIDE), ascending; None: none
    """

    def __init__(
        self, router: Router, start: int, z: np.ndarray, read: Callable[[], np.ndarray],
        buckets: np.ndarray | None = None, log_sums: dict[float, np.ndarray] | None = None,
        outside: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.start, self.z, self.buckets, self.outside = start, z, buckets, outside
        self._router, self._read, self._log_sums = router, read, log_sums or {}

    @cached_property
    def x(self) -> np.ndarray:
        """The rows themselves, (rows, dim) float32, read where they are first asked for."""
        return self._read()

    @cached_property
    def crossing(self) -> Crossing | None:
        """How far buckets lie behind each other, seen from each row; None where the router has no geometry."""
        return self._router.crossing and self._router.crossing(self.x, self.logits_of)

    def best(self, keys: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The buckets of the largest keys, and these keys, largest first.

        keys: (rows, columns) of the buckets that are known; returns (rows, width) int32 and (rows, width)
        """
        if keys is self.z and self.buckets is not None:  # they are in order already
            return self.buckets[:, :width], self.z[:, :width].copy()
        columns = top(keys, min(width, keys.shape[1]))
        found = np.take_along_axis(keys, columns, axis=1)
        return columns if self.buckets is None else np.take_along_axis(self.buckets, columns, axis=1), found

    def log_p(self, temperature: float) -> np.ndarray:
        """log softmax(z / temperature) over all buckets, of those that are known, (rows, columns) float32."""
        if self.buckets is None:
            return log_softmax(self.z, temperature)
        return (self.z - self.z[:, :1]) / np.float32(temperature) - self._log_sums[temperature][:, None]

    def of_buckets(self, values: np.ndarray) -> np.ndarray:
        """What stands for each bucket that is known. values: (nlist,); returns (nlist,) or (rows, columns)"""
        return values if self.buckets is None else values[self.buckets]

    def logits_of(self, buckets: np.ndarray) -> np.ndarray:
        """Logits of buckets that are known. buckets: (rows, width); returns (rows, width) float32"""
        columns = buckets
        if self.buckets is not None:
            known = self.buckets[:, None, :] == buckets[:, :, None]
            assert known.any(axis=2).all()
            columns = known.argmax(axis=2)
        return np.take_along_axis(self.z, columns, axis=1)


class _Rows:
    """The rows that a router is asked for, tile by tile."""

    def __init__(self, router: Router, points: Points, index: np.ndarray | None, read_rows: int) -> None:
        self.router, self.points, self.index = router, points, index
        self.n = len(points) if index is None else len(index)
        self.read = max(TILE, read_rows // TILE * TILE)
        self.outside: dict[int, np.ndarray] = {}  # by the number of a tile's first row

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the first row, x (up to TILE, dim)); more is read at once."""
        for start in range(0, self.n, self.read):
            x = self._x(start, min(start + self.read, self.n))
            for at in range(0, len(x), TILE):
                rows = x[at : at + TILE]
                if len(found := rows_outside(rows)):
                    self.outside[start + at] = found
                yield start + at, rows

    def _x(self, start: int, stop: int) -> np.ndarray:
        rows = slice(start, stop)
        return self.points.x(rows if self.index is None else self.index[rows])


class LogitTiles(_Rows):
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
        super().__init__(router, points, index, read_rows)
        self.cache = self.n * router.nlist * 4 <= cached_bytes
        self.cached: list[np.ndarray] = []

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the first row, z (rows, nlist) float32)."""
        if len(self.cached) * TILE >= self.n:
            yield from ((i * TILE, z) for i, z in enumerate(self.cached))
            return
        self.cached.clear()
        for start, x in self._blocks():
            z = tile_logits(self.router, x)
            if self.cache:
                self.cached.append(z)
            yield start, z

    def tiles(self) -> Iterator[Tile]:
        """The same as values that know their rows."""
        for start, z in self:
            read = partial(self._x, start, start + len(z))
            yield Tile(self.router, start, z, read, outside=self.outside.get(start))

    def all(self) -> np.ndarray:
        """All rows at once: (n, nlist) float32."""
        return np.concatenate([z for _, z in self])

    def use(self, temperatures: Iterable[float], counted: np.ndarray | None = None) -> dict[float, np.ndarray]:
        """m at each temperature: the mean of softmax(z / T) over all rows, or those counted. (nlist,) float64"""
        sums: dict[float, np.ndarray] = {}
        wanted, n = set(temperatures), 0
        for start, z in self:
            rows = z if counted is None else z[counted[start : start + len(z)]]
            n += len(rows)
            for temperature in wanted:
                p = np.exp(log_softmax(rows, temperature)).sum(axis=0, dtype=np.float64)
                sums[temperature] = sums.get(temperature, 0) + p
        return {temperature: total / n for temperature, total in sums.items()}


class BestTiles(_Rows):
    """The best buckets of many points, where there are too many to look at all: one call to the device a tile.

    temperatures: at which memberships will be asked for
    counted: (n,) bool, rows over which m is the mean; None: all
    The rest is as LogitTiles has it.
    """

    def __init__(
        self, router: Router, points: Points, index: np.ndarray | None = None, temperatures: Iterable[float] = (),
        counted: np.ndarray | None = None, read_rows: int = 16 * TILE, cached_bytes: int = CACHED_BYTES,
        best_buckets: int = BEST_BUCKETS,
    ) -> None:  # fmt: skip
        super().__init__(router, points, index, read_rows)
        self.temperatures, self.counted = sorted(set(temperatures)), counted
        self.width = min(best_buckets, router.nlist)
        self.cache = self.n * (8 * self.width + 4 * len(self.temperatures)) <= cached_bytes
        self.cached: list[Best] = []
        self._mass: np.ndarray | None = None

    def tiles(self) -> Iterator[Tile]:
        """The rows with their best buckets."""
        if self.cached and len(self.cached) * TILE >= self.n:
            for i, best in enumerate(self.cached):
                yield self._tile(i * TILE, best)
            return
        self.cached.clear()
        mass, none = np.zeros((len(self.temperatures), self.router.nlist)), np.empty((0, self.router.nlist), np.float32)
        for start, x in self._blocks():
            best = self._rank(x, start)
            mass += best.mass
            if self.cache:
                self.cached.append(best._replace(mass=none))
            yield self._tile(start, best)
        self._mass = mass

    def use(self, temperatures: Iterable[float], counted: np.ndarray | None = None) -> dict[float, np.ndarray]:
        """See LogitTiles. Temperatures and counted are those that the tiles were made for."""
        assert counted is self.counted
        if self._mass is None:
            for _ in self.tiles():
                pass
        assert self._mass is not None
        n = self.n if self.counted is None else int(self.counted.sum())
        return {wanted: self._mass[self.temperatures.index(wanted)] / n for wanted in set(temperatures)}

    def _rank(self, x: np.ndarray, start: int) -> Best:
        n, rank = len(x), self.router.rank
        assert rank is not None
        counted = np.zeros(TILE, dtype=np.float32)
        counted[:n] = 1 if self.counted is None else self.counted[start : start + n]
        found = rank(whole_tile(x), self.width, np.array(self.temperatures, dtype=np.float32), counted)
        return Best(found.buckets[:n], found.z[:n], found.log_sums[:, :n], found.mass)

    def _tile(self, start: int, best: Best) -> Tile:
        log_sums = dict(zip(self.temperatures, best.log_sums, strict=True))
        read = partial(self._x, start, start + len(best.z))
        return Tile(self.router, start, best.z, read, best.buckets, log_sums, self.outside.get(start))


Tiles = LogitTiles | BestTiles


def make_tiles(
    router: Router, points: Points, index: np.ndarray | None = None, temperatures: Iterable[float] = (),
    counted: np.ndarray | None = None, read_rows: int = 16 * TILE, cached_bytes: int = CACHED_BYTES, width: int = 0,
) -> Tiles:  # fmt: skip
    """All logits where there are few buckets, else the best.

    width: buckets of a vector that rules will ask for; twice as many are known. The rest is as BestTiles has it
    """
    if router.rank is None:
        return LogitTiles(router, points, index, read_rows, cached_bytes)
    known = max(BEST_BUCKETS, 2 * width)
    return BestTiles(router, points, index, temperatures, counted, read_rows, cached_bytes, known)
