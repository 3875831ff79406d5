"""How far two sets of named arrays lie apart, and the table of all that was compared."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from parity_tests.cases import Case

Named = Mapping[str, np.ndarray]

HEADER = ("what", "metric", "deep", "drop", "dtype", "largest difference", "tolerance")


class DifferenceError(AssertionError):
    """Two sets of arrays are not the same within the tolerance."""

    def __init__(self, text: str, gap: float = float("inf")) -> None:
        super().__init__(text)
        self.gap = gap


def compare(name: str, left: Named, right: Named, tolerance: float) -> float:
    """Largest difference of two sets of arrays with equal names, shapes and types (see gap).

    tolerance: what it is at most; 0: identical
    raises: DifferenceError, naming all that is wrong
    """
    if left.keys() != right.keys() or not left:
        only = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
        raise DifferenceError(f"{name}: {len(left)} and {len(right)} arrays; only left {only[0]}, only right {only[1]}")
    gaps = {key: gap(f"{name}: {key}", np.asarray(left[key]), np.asarray(right[key])) for key in left}
    largest = max(gaps.values())
    far = {key: value for key, value in gaps.items() if not value <= tolerance}
    if far:
        told = ", ".join(f"{key} by {value:.2e}" for key, value in sorted(far.items(), key=lambda item: -item[1]))
        raise DifferenceError(f"{name}: more than {tolerance:g} apart: {told}", largest)
    return largest


def gap(name: str, left: np.ndarray, right: np.ndarray) -> float:
    """Largest absolute difference; where all entries are below 1, as a share of the largest of them.

    So 1e-10 asks as much of a gradient of 1e-4 as of a logit. Infinite where either holds a NaN.
    """
    if left.shape != right.shape or left.dtype != right.dtype:
        raise DifferenceError(f"{name}: {left.dtype} {left.shape} against {right.dtype} {right.shape}")
    if np.array_equal(left, right):
        return 0.0
    wide, other = left.astype(np.float64), right.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(other).all()):
        return float("inf")
    unit = min(1.0, float(max(np.abs(wide).max(), np.abs(other).max())))
    return float(np.abs(wide - other).max()) / unit


class Row(NamedTuple):
    """One comparison of one case."""

    what: str
    case: Case
    dtype: str
    gap: float
    tolerance: float


class Table:
    """Every comparison of a session, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def check(self, what: str, case: Case, dtype: str, tolerance: float, comparison: Callable[[float], float]) -> None:
        """Run a comparison and keep its row, also where it fails.

        comparison: tolerance -> largest difference, as compare
        raises: DifferenceError
        """
        try:
            largest = comparison(tolerance)
        except DifferenceError as found:
            self.rows.append(Row(what, case, dtype, found.gap, tolerance))
            raise
        self.rows.append(Row(what, case, dtype, largest, tolerance))

    def words(self) -> list[list[str]]:
        """What is printed of each row, by column."""
        return [_words(row) for row in self.rows]


def aligned(words: list[list[str]]) -> list[str]:
    """Lines of a table, under its head. words: see Table.words"""
    words = [list(HEADER), *words]
    widths = [max(len(line[column]) for line in words) for column in range(len(HEADER))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in words]


def _words(row: Row) -> list[str]:
    case = row.case
    limit = f"{row.tolerance:g}" if row.tolerance else "identical"
    return [row.what, case.metric, _yes(case.deep), _yes(case.drop), row.dtype, f"{row.gap:.1e}", limit]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
