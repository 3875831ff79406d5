"""The comparator itself: it says how far apart, and lets nothing slip by."""

import numpy as np
import pytest

from parity_tests.cases import CASES
from parity_tests.comparator import DifferenceError, Table, aligned, compare

pytestmark = pytest.mark.parity

ONE = {"a": np.array([1.0, 4.0]), "b": np.array([[0.5]])}


def changed(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return ONE | arrays


def test_equal_arrays_are_no_distance_apart() -> None:
    assert compare("same", ONE, changed(), 0.0) == 0.0


def test_the_largest_difference_of_all_arrays_is_told() -> None:
    assert compare("near", ONE, changed(a=np.array([1.0, 4.25])), 0.3) == 0.25


def test_more_than_the_tolerance_is_refused_by_name_and_size() -> None:
    with pytest.raises(DifferenceError, match=r"near: .* a by 2\.50e-01") as refused:
        compare("near", ONE, changed(a=np.array([1.0, 4.25])), 0.2)
    assert refused.value.gap == 0.25


def test_small_entries_are_held_to_a_share_of_the_largest() -> None:
    left, right = {"g": np.array([1e-6, 1e-7])}, {"g": np.array([1e-6, 2e-7])}
    assert compare("gradient", left, right, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "other",
    [
        {"a": ONE["a"]},
        changed(c=np.zeros(1)),
        changed(a=np.array([[1.0, 4.0]])),
        changed(a=ONE["a"].astype(np.float32)),
        changed(a=np.array([1.0, np.nan])),
        changed(a=np.array([1.0, np.inf])),
    ],
    ids=["missing", "extra", "shape", "dtype", "nan", "infinity"],
)
def test_what_cannot_be_measured_is_refused(other: dict[str, np.ndarray]) -> None:
    for pair in ((ONE, other), (other, ONE)):
        with pytest.raises(DifferenceError):
            compare("other", *pair, 1e9)


def test_nan_is_not_equal_to_nan() -> None:
    with pytest.raises(DifferenceError):
        compare("nan", {"a": np.array([np.nan])}, {"a": np.array([np.nan])}, 1e9)


def test_nothing_is_no_comparison() -> None:
    with pytest.raises(DifferenceError):
        compare("nothing", {}, {}, 1e9)


def test_table_keeps_the_row_of_a_failed_comparison() -> None:
    table = Table()
    table.check(
        "near", CASES[0], "float64", 0.3, lambda limit: compare("near", ONE, changed(b=np.array([[0.4]])), limit)
    )
    with pytest.raises(DifferenceError):
        table.check(
            "far", CASES[0], "float64", 0.0, lambda limit: compare("far", ONE, changed(b=np.zeros((1, 1))), limit)
        )
    assert [line.split() for line in aligned(table.words())[1:]] == [
        ["near", "IP", "no", "no", "float64", "2.0e-01", "0.3"],
        ["far", "IP", "no", "no", "float64", "1.0e+00", "identical"],
    ]
