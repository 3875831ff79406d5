"""Neighbours against a float64 brute force; ties allowed, self excluded by number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.space import Space
from ivfast.data.twins import Distinct, distinct_of
from ivfast.data.vectors import Points
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import (
    Neighbors,
    SearchLimits,
    find_neighbors,
    n_nearest,
    split,
    without_self,
)
from tests import by_hand
from tests.conftest import points_of

METRICS = ("IP", "L2")
pytestmark = pytest.mark.usefixtures("descent_here")


def draw(metric: str, n: int, dim: int = 8, clumps: int = 40) -> np.ndarray:
    rng = np.random.default_rng(n)
    rows = rng.standard_normal((clumps, dim))[rng.integers(clumps, size=n)] + rng.normal(0, 0.4, (n, dim))
    return unit(rows) if metric == "IP" else rows.astype(np.float32)


def different(n: int) -> Distinct:
    """n rows without twins."""
    return distinct_of(np.arange(n))


def first_rows(rows: np.ndarray) -> np.ndarray:
    """Numbers of the rows that are equal to no earlier one."""
    return np.sort(np.unique(rows, axis=0, return_index=True)[1])


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def check_nearest(rows: np.ndarray, of: np.ndarray, among: np.ndarray, found: np.ndarray) -> None:
    """Found are distinct rows of `among`, never self, and as near as any: equal distances are as good."""
    assert np.isin(found, among).all()
    assert (found != of[:, None]).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())
    d2 = by_hand.distances_of_others(rows, of, among)
    place = np.searchsorted(among, found)
    nearest = np.sort(d2, axis=1)[:, : found.shape[1]]
    # float32 distances of unit size are right to 1e-6
    np.testing.assert_allclose(np.take_along_axis(d2, place, axis=1), nearest, rtol=1e-5, atol=3e-6)


def recall_of(rows: np.ndarray, of: np.ndarray, among: np.ndarray, found: np.ndarray) -> float:
    d2 = by_hand.distances_of_others(rows, of, among)
    worst = np.sort(d2, axis=1)[:, found.shape[1] - 1, None]
    return float((np.take_along_axis(d2, np.searchsorted(among, found), axis=1) <= worst + 3e-6).mean())


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_those_of_brute_force(metric: str):
    rows = draw(metric, 600)
    found = find_neighbors(points_of(rows, metric), 7, 1, silent())
    assert found.train_nearest.shape == (480, 20)
    check_nearest(rows, found.train, found.train, found.train_nearest)
    np.testing.assert_array_equal(found.train_neighbors, found.train_nearest[:, :7])
    assert found.answers.shape == (120, 10)  # whatever ftopk is: so many count
    check_nearest(rows, found.held_out, np.arange(600), found.answers)
    assert found.first.shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("copies", "graph"), [(1, False), (30, False), (30, True)])
def test_of_twins_the_first_trains_or_is_held_out_and_none_is_a_neighbour(metric: str, copies: int, graph: bool):
    """Thirty twins are more than are searched for. Held against a brute force over the rows that differ."""
    rows = draw(metric, 600)
    for i in range(5):
        rows[100 + 50 * i : 100 + 50 * i + copies] = rows[i]
    firsts = first_rows(rows)
    limits = SearchLimits(exact_learn=100) if graph else SearchLimits()
    found = find_neighbors(points_of(rows, metric), 7, 1, silent(), limits=limits)
    np.testing.assert_array_equal(np.sort(np.r_[found.train, found.held_out]), firsts)
    assert not np.isin(np.arange(5), found.held_out).any()  # they have twins, most have none
    check_nearest(rows, found.held_out, firsts, found.answers)
    if graph:
        assert recall_of(rows, found.train, found.train, found.train_nearest) > 0.99
    else:
        check_nearest(rows, found.train, found.train, found.train_nearest)
    assert (by_hand.distances_of_others(rows, found.train, found.train).min(axis=1) > 0).all()
    np.testing.assert_array_equal(rows[found.first], rows)
    assert np.isin(found.first, firsts).all()


def test_where_all_vectors_have_a_twin_both_rows_are_held_out_or_train():
    half = draw("L2", 300)
    rows = np.concatenate([half, half])
    found = find_neighbors(points_of(rows), 5, 1, silent())
    assert (len(found.train), len(found.held_out)) == (240, 60)
    seen = {row.tobytes() for row in rows[found.train]}
    assert not any(row.tobytes() in seen for row in rows[found.held_out])


def test_too_few_different_vectors_are_refused():
    rows = np.repeat(draw("L2", 12), 50, axis=0)
    with pytest.raises(UserError, match=r"only 12 different vectors among 600, of which 10 train.*--ftopk 10"):
        find_neighbors(points_of(rows), 10, 1, silent())


@pytest.mark.parametrize("n_different", [2, 3, 4])
def test_too_few_different_vectors_to_hold_one_out_are_refused(n_different: int) -> None:
    rows = np.eye(8, dtype=np.float32)[np.arange(300) % n_different]
    with pytest.raises(UserError, match=f"only {n_different} different vectors among 300, too few to hold any out"):
        find_neighbors(points_of(rows), 1, 1, silent())


def test_blocks_of_queries_are_put_together_in_order():
    rows = draw("L2", 6000, dim=3)  # 5,000 training rows: two blocks of 4,096
    found = find_neighbors(points_of(rows), 2, 1, silent())
    some = np.r_[0:20, 4090:4110, 4980:5000]
    check_nearest(rows, found.train[some], found.train, found.train_nearest[some])


def test_split_and_searches_see_the_space():
    """Inside, every other dimension counts: neighbours are told there."""
    rows = draw("L2", 300)
    moved = Space("L2", np.full(8, 100, np.float32), np.float32(4))
    found = find_neighbors(Points(points_of(rows * 4 + 100).vectors, moved), 4, 1, silent())
    check_nearest(rows, found.train, found.train, found.train_nearest)


@pytest.mark.parametrize(
    ("ftopk", "n", "expected"), [(1, 500, 20), (30, 500, 30), (10, 21, 20), (10, 12, 11), (1, 2, 1)]
)
def test_at_least_twenty_nearest_tell_who_asks(ftopk: int, n: int, expected: int):
    assert n_nearest(ftopk, n) == expected


@pytest.mark.parametrize("n", [5, 10, 99, 1000, 4999, 5000, 20_000, 39_999, 400_000, 1_000_000])
def test_split_sizes_follow_the_rule(n: int):
    """5 %; at least 1,000 or a fifth, whichever is smaller; at most 10,000."""
    train, held_out = split(different(n), 1)
    expected = min(max(0.05 * n, min(1000, n / 5)), 10_000)
    assert abs(len(held_out) - expected) < 1
    assert len(train) + len(held_out) == n
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert not np.isin(held_out, train).any()


def test_split_depends_on_the_seed_and_is_spread_over_learn():
    one, two, other = (split(different(10_000), seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert len(np.intersect1d(one, other)) < 200  # 100 by chance
    assert np.histogram(one, bins=10, range=(0, 10_000))[0].min() > 50  # 100 each


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_without_self_drops_the_own_number_or_the_last(k: int, seed: int):
    rng = np.random.default_rng(seed)
    near = np.stack([rng.permutation(12)[: k + 1] for _ in range(5)])
    ids = rng.integers(12, size=5)
    expected = []
    for row, own in zip(near.tolist(), ids.tolist(), strict=True):
        expected.append([number for number in row if number != own][:k])
    assert without_self(near, ids).tolist() == expected


def of_graph(metric: str, rows: np.ndarray, ftopk: int, **sizes: int) -> Neighbors:
    """By a graph of all, however few they are."""
    limits = SearchLimits(exact_learn=100, **sizes)
    return find_neighbors(points_of(rows, metric), ftopk, 1, silent(), limits=limits)


def check_graph(metric: str, rows: np.ndarray, found: Neighbors) -> None:
    """Held-out answers are exact; of the others all are distinct training vectors, and nearly all the nearest."""
    check_nearest(rows, found.held_out, first_rows(rows), found.answers)
    assert found.train_nearest.dtype == np.int32
    assert np.isin(found.train_nearest, found.train).all()
    assert (found.train_nearest != found.train[:, None]).all()
    assert all(len(set(row)) == len(row) for row in found.train_nearest.tolist())
    some = np.arange(0, len(found.train), 3)
    assert recall_of(rows, found.train[some], found.train, found.train_nearest[some]) >= 0.97, metric
    d2 = by_hand.distances_of_others(rows, found.train[some], found.train)
    place = np.searchsorted(found.train, found.train_nearest[some])
    assert (np.diff(np.take_along_axis(d2, place, axis=1), axis=1) > -3e-6).all()  # nearest first


@pytest.mark.parametrize("metric", METRICS)
def test_graph_finds_nearly_all_neighbours(metric: str):
    rows = draw(metric, 4000)
    rows[500:530] = rows[0]
    check_graph(metric, rows, of_graph(metric, rows, 10))


@pytest.mark.parametrize("metric", METRICS)
def test_graph_of_copies_by_the_hundred_still_gives_everyone_neighbours(metric: str):
    """Four of five are copies of one vector, as many as make lists of nothing but copies."""
    rng = np.random.default_rng(0)
    middle = unit(rng.standard_normal((1, 8)))
    rows = middle + rng.normal(0, 0.3, (1200, 8))
    rows[rng.random(1200) < 0.8] = middle
    check_graph(metric, unit(rows), of_graph(metric, unit(rows), 10))


def test_graph_and_exact_search_hold_out_the_same():
    rows = draw("L2", 1200)
    found, exact = of_graph("L2", rows, 5), find_neighbors(points_of(rows, "L2"), 5, 1, silent())
    np.testing.assert_array_equal(found.held_out, exact.held_out)
    np.testing.assert_array_equal(found.train, exact.train)


def test_held_out_search_goes_over_blocks_of_both_sides():
    """Four blocks, the last of 297 rows."""
    rows = draw("L2", 1200)
    found = of_graph("L2", rows, 5, block_bytes=301 * 4 * rows.shape[1])
    check_nearest(rows, found.held_out, np.arange(1200), found.answers)
