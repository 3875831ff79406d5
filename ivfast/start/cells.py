"""Where learn lies among k-means' buckets, and a line of these along which near buckets lie near each other."""

from typing import NamedTuple

import numpy as np

from ivfast.data.exact import DeviceSearch, searcher
from ivfast.data.vectors import Points, rows_per_block
from ivfast.method import CELLS
from ivfast.runtime.progress import Progress
from ivfast.start.kmeans import Buckets, BucketSums

POWER_STEPS = 8  # of the power method: a rough principal direction halves buckets as well as the exact one


class Cells(NamedTuple):
    """What near pairs of a step are told by, fixed for a run."""

    nearest: np.ndarray  # (n, near) int32, the k-means buckets near each learn vector, its own first
    place: np.ndarray  # (nlist,) int32, where a bucket stands in the line

    def with_queries(self, queries: np.ndarray, centers: np.ndarray, metric: str) -> "Cells":
        """The same, and behind them those of queries, (m, dim) float32, inside. centers: the same as before"""
        near = searcher(centers, metric)(queries, self.nearest.shape[1])[1]
        return self._replace(nearest=np.concatenate([self.nearest, near.astype(np.int32)]))


def find_cells(
    learn: Points, centers: np.ndarray, progress: Progress, near: int = CELLS, search: DeviceSearch | None = None
) -> tuple[Cells, Buckets]:
    """Each vector's nearest centers, exact, over all of learn, and what the buckets measure.

    centers: (nlist, dim) float32, inside; search: of an accelerator
    """
    find, sums = searcher(centers, learn.metric, search), BucketSums(len(centers), learn.metric)
    near = min(near, len(centers))
    nearest = np.empty((len(learn), near), dtype=np.int32)
    step = rows_per_block(learn.dim)
    with progress.bar("measuring buckets", len(learn)) as bar:
        for start in range(0, len(learn), step):
            distances, found = find(learn.x(slice(start, start + step)), near)
            nearest[start : start + step] = found
            sums.add(distances, found)
            bar.advance(len(found))
    return Cells(nearest, place_in_line(centers)), sums.buckets(learn.dim)


def place_in_line(centers: np.ndarray) -> np.ndarray:
    """Halve the buckets along their principal direction, then each half, and so on.

    centers: (nlist, dim) float32; returns (nlist,) int32, a permutation
    """
    place, waiting = np.empty(len(centers), dtype=np.int32), [(0, np.arange(len(centers)))]
    while waiting:
        first, buckets = waiting.pop()
        if len(buckets) <= 2:
            place[buckets] = np.arange(first, first + len(buckets))
            continue
        along = centers[buckets] @ _principal_direction(centers[buckets])
        buckets, half = buckets[np.argsort(along, kind="stable")], len(buckets) // 2
        waiting += [(first, buckets[:half]), (first + half, buckets[half:])]
    return place


def _principal_direction(x: np.ndarray) -> np.ndarray:
    """Roughly the direction of largest variance, (dim,), by the power method from the row farthest out."""
    away = x - x.mean(axis=0)
    direction = away[np.square(away).sum(axis=1).argmax()]
    for _ in range(POWER_STEPS):
        direction = (away @ direction) @ away
        direction = direction / max(np.linalg.norm(direction), np.finfo(x.dtype).tiny)
    return direction
