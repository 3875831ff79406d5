"""The middle of rows, and how far from it they lie: what a few far rows do not move."""

from typing import NamedTuple

import numpy as np

from ivfast.runtime.draws import spread

FAR = 1000.0  # times farther from the middle than nine of ten rows: such a row decides nothing about the others
MOST_SHARE = 0.9  # of rows whose distances tell what is usual: up to a tenth may be far
MIDDLE_ROWS, MIDDLE_BYTES = 20_000, 64 << 20  # of them at most, and of their float64


class Middle(NamedTuple):
    """Where rows lie."""

    center: np.ndarray  # (dim,) float64, the median of each column
    distance: float  # Euclidean, within which nine of ten rows lie; 0 where all are equal

    def times(self, rows: np.ndarray) -> np.ndarray:
        """How many times farther each row lies than nine of ten. (n, dim) any float -> (n,) float64, NaN as it comes"""
        with np.errstate(over="ignore", invalid="ignore"):
            x = (np.asarray(rows, dtype=np.float64) - self.center) / (self.distance or 1)
            return np.sqrt(np.square(x).sum(axis=1)) if self.distance else np.zeros(len(x))


def sampled(n: int, dim: int) -> np.ndarray:
    """Which of n rows of dim entries tell where the middle is: evenly over all, ascending int64."""
    return spread(n, min(MIDDLE_ROWS, max(100, MIDDLE_BYTES // (8 * dim))))


def middle_of(rows: np.ndarray) -> Middle:
    """The middle of a few rows, (n, dim) any float; rows that are not finite do not count.

    Where most rows are equal, the others tell what is usual.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.asarray(rows, dtype=np.float64)
        x = x[np.isfinite(x).all(axis=1)]
        if not len(x):
            return Middle(np.zeros(rows.shape[1]), 0.0)
        center = np.median(x, axis=0)
        size = np.abs(x - center).max(initial=0) or 1.0
        distances = size * np.sqrt(np.square((x - center) / size).sum(axis=1))  # so that no square overflows
        distances = np.minimum(distances, np.finfo(np.float64).max)
    usual = float(np.quantile(distances, MOST_SHARE))
    if usual == 0 and distances.any():
        usual = float(np.quantile(distances[distances > 0], MOST_SHARE))
    return Middle(center, usual)
