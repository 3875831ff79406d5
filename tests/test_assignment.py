"""Assignment against one sorted list of all candidates, in plain Python and float64."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.vectors import Space
from ivfast.route import routers
from ivfast.route.distances import top
from ivfast.route.routers import LogitTiles, centers_router
from ivfast.store.budget import Assignment, assign
from ivfast.store.rules import Plan, log_use, mean_membership
from tests import by_hand

RULES = ("ratio", "membership", "benefit")
Table = Callable[[np.ndarray], LogitTiles]


def check(tiles: LogitTiles, z: np.ndarray, plan: Plan, m: np.ndarray, width: int) -> Assignment:
    """Assign, and compare all of the result with the sorted list."""
    (found,) = assign(tiles, [plan], width)
    budget = round(plan.percent * len(z))
    expected = by_hand.store(by_hand.log_keys(z, plan.rule, plan.temperature, m), width, budget)
    assert by_hand.lists_of(found.buckets) == expected
    assert found.entries == len(z) + budget
    np.testing.assert_array_equal(found.sizes, by_hand.sizes_of(expected, z.shape[1]))
    assert found.buckets.shape == (len(z), width)
    return found


def make_plan(rule: str, percent: float, temperature: float, m: np.ndarray) -> Plan:
    return Plan(rule, percent, temperature, log_use(m) if rule == "benefit" else None)


def random_logits(n: int, nlist: int, seed: int = 0) -> np.ndarray:
    return -np.square(np.random.default_rng(seed).normal(2, 1, (n, nlist))).astype(np.float32)


def uneven_use(nlist: int) -> np.ndarray:
    m = np.arange(1.0, nlist + 1)
    return m / m.sum()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("percent", [0.0, 0.0013, 0.8, 1.5, 3.0])  # 3 = width - 1: all there are
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_extras_are_the_best_of_one_sorted_list(logit_table: Table, rule: str, percent: float, temperature: float):
    z, m = random_logits(1500, 9), uneven_use(9)
    check(logit_table(z), z, make_plan(rule, percent, temperature, m), m, width=4)


@pytest.mark.parametrize("n", [1, 2, 3, 1023, 1024, 1025])
@pytest.mark.parametrize("percent", [0.5, 1.25])
def test_budget_is_exact_for_any_number_of_vectors(logit_table: Table, n: int, percent: float):
    z = random_logits(n, 5, seed=n)
    check(logit_table(z), z, Plan("ratio", percent), uneven_use(5), width=3)


@given(st.lists(st.lists(st.integers(1, 4), min_size=4, max_size=4), min_size=1, max_size=12), st.integers(0, 24))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_ties_go_to_the_smaller_vector_then_the_smaller_bucket(logit_table: Table, rows: list, extras: int):
    """All d_1 are 1 and d^2 small integers, so that equal ratios are equal floats."""
    z = -np.array([[*row[:2], 1, *row[2:]] for row in rows], np.float32)
    percent = min(extras, 2 * len(z)) / len(z)
    check(logit_table(z), z, Plan("ratio", percent), np.ones(5), width=3)


@given(
    st.sampled_from(RULES), st.lists(st.integers(0, 3), min_size=2, max_size=30),
    st.floats(0, 2), st.integers(0, 99), st.integers(3, 6),
)  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=100)
def test_duplicates_are_split_at_the_border_by_number(
    logit_table: Table, rule: str, rows: list, percent: float, seed: int, nlist: int
):
    z, m = random_logits(4, nlist, seed)[rows], uneven_use(nlist)
    check(logit_table(z), z, make_plan(rule, percent, 1.0, m), m, width=3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("percent", [0.0, 0.4, 0.8, 2.0])
def test_all_vectors_equal_fill_the_budget_from_the_first(logit_table: Table, rule: str, percent: float):
    z = np.repeat(random_logits(1, 4), 1100, axis=0)
    m = uneven_use(4)
    found = check(logit_table(z), z, make_plan(rule, percent, 1.0, m), m, width=3)
    counts = (found.buckets >= 0).sum(axis=1)
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("percent", [0.0, 0.2, 0.5, 1.0, 1.4, 2.0])
def test_distance_zero_is_ratio_1_where_shared_and_infinite_where_alone(logit_table: Table, percent: float):
    z = -np.array([[0, 4, 9], [4, 0, 0], [1, 1.1, 9], [0, 0, 0], [9, 1, 0]], np.float32)
    found = check(logit_table(z), z, Plan("ratio", percent), np.ones(3), width=3)
    if percent == 0.2:  # the one extra: both distances 0, so nothing is better
        assert by_hand.lists_of(found.buckets)[1] == [1, 2]


def test_minus_zero_is_zero(logit_table: Table):
    z = np.array([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0], [-4.0, -4.0, -5.0]], np.float32)
    check(logit_table(z), z, Plan("ratio", 2 / 3), np.ones(3), width=2)


@pytest.mark.parametrize("rule", RULES)
def test_one_bucket_takes_all(logit_table: Table, rule: str):
    z = random_logits(50, 1)
    found = check(logit_table(z), z, make_plan(rule, 0.0, 1.0, np.ones(1)), np.ones(1), width=1)
    assert found.sizes.tolist() == [50]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("percent", [0.0, 0.5, 1.0])
def test_two_points(logit_table: Table, rule: str, percent: float):
    z, m = random_logits(2, 2), np.array([0.9, 0.1])
    check(logit_table(z), z, make_plan(rule, percent, 1.0, m), m, width=2)


@pytest.mark.parametrize("rule", RULES)
def test_bucket_that_nobody_wants_stays_empty(logit_table: Table, rule: str):
    z, m = random_logits(300, 6), np.array([0.2, 0.2, 0.0, 0.2, 0.2, 0.2])
    z[:, 2] = -80  # p about e^-80: below every p / m even with m at its least
    found = check(logit_table(z), z, make_plan(rule, 0.8, 1.0, m), m, width=4)
    assert found.sizes[2] == 0


def test_benefit_moves_vectors_out_of_crowded_buckets(logit_table: Table):
    z = np.log(np.array([[0.6, 0.4]] * 3, np.float32))
    (found,) = assign(logit_table(z), [make_plan("benefit", 0.0, 1.0, np.array([0.9, 0.1]))], 1)
    assert found.sizes.tolist() == [0, 3]


@pytest.fixture(params=["IP", "L2"])
def real(request: pytest.FixtureRequest, as_vectors) -> tuple:
    """Vectors with duplicates and copies of centers, over three tiles; router; space."""
    metric = request.param
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2500, 16))
    x[100:200] = x[0]
    centers = np.concatenate([x[:20], rng.standard_normal((4, 16))])
    if metric == "IP":
        x, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centers))
    space = Space(metric, np.zeros(16, np.float32), np.float32(1))
    router = centers_router("centers", centers.astype(np.float32), metric, 1e-9, 12.0)
    return router, as_vectors(x.astype(np.float32)), space


def real_plans() -> list[Plan]:
    m = uneven_use(24)
    plans = [make_plan(rule, percent, 0.7, m) for rule in RULES for percent in (0.0, 0.8, 1.5, 4.0)]
    return plans + [make_plan(rule, 0.8, 2.0, m) for rule in RULES[1:]]


@pytest.mark.parametrize("read_rows", [1024, 1500, 2048, 10_000])
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_rows_read_at_once_never_change_a_bit(real: tuple, read_rows: int, kept: int, monkeypatch):
    whole = assign(LogitTiles(*real, read_rows=1), real_plans(), 5)
    monkeypatch.setattr(routers, "KEPT_BYTES", kept)
    found = assign(LogitTiles(*real, read_rows=read_rows), real_plans(), 5)
    for one, two in zip(whole, found, strict=True):
        assert one.sizes.tobytes() == two.sizes.tobytes()
        assert one.buckets.tobytes() == two.buckets.tobytes()
        assert one.entries == two.entries


@pytest.mark.parametrize("wanted", [[0], [2499], [7, 150, 151, 1023, 1024, 2047, 2048], list(range(90, 210))])
def test_wanted_vectors_have_the_buckets_they_have_among_all(real: tuple, wanted: list[int]):
    whole = assign(LogitTiles(*real), real_plans(), 5)
    found = assign(LogitTiles(*real), real_plans(), 5, np.array(wanted))
    for one, two in zip(whole, found, strict=True):
        assert one.sizes.tobytes() == two.sizes.tobytes()
        assert one.buckets[wanted].tobytes() == two.buckets.tobytes()


def test_plans_together_equal_each_alone(real: tuple):
    together = assign(LogitTiles(*real), real_plans(), 5)
    for plan, found in zip(real_plans(), together, strict=True):
        (alone,) = assign(LogitTiles(*real), [plan], 5)
        assert alone.buckets.tobytes() == found.buckets.tobytes()


def test_every_vector_is_stored_once_and_in_no_bucket_twice(real: tuple):
    for plan, found in zip(real_plans(), assign(LogitTiles(*real), real_plans(), 5), strict=True):
        lists = by_hand.lists_of(found.buckets)
        assert sum(map(len, lists)) == found.entries == found.sizes.sum() == 2500 + round(plan.percent * 2500)
        assert all(1 <= len(set(buckets)) == len(buckets) <= 5 for buckets in lists)


def test_progress_counts_two_passes(real: tuple):
    class Counter:
        done = 0

        def advance(self, n: int) -> None:
            self.done += n

    bar = Counter()
    assign(LogitTiles(*real), real_plans()[:1], 5, None, bar)
    assert bar.done == 2 * 2500


@given(st.integers(0, 2**32 - 1), st.integers(64, 300), st.integers(1, 4), st.sampled_from([3, 50, 10**6]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_top_of_many_buckets_is_a_stable_sort_cut_off(seed: int, columns: int, width: int, values: int):
    """Wide enough for groups of buckets to be passed over; 3 values: nothing but ties."""
    keys = np.random.default_rng(seed).integers(values, size=(4, columns)).astype(np.float32)
    expected = [sorted(range(columns), key=lambda b: (-row[b], b))[:width] for row in keys.tolist()]
    np.testing.assert_array_equal(top(keys, width), expected)


@pytest.mark.parametrize("rule", RULES)
def test_many_buckets_are_assigned_as_few(logit_table: Table, rule: str):
    z, m = random_logits(400, 213), uneven_use(213)
    check(logit_table(z), z, make_plan(rule, 0.8, 1.0, m), m, width=3)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=8), st.integers(1, 6))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_top_is_a_stable_sort_cut_off(rows: list, width: int):
    expected = [sorted(range(6), key=lambda b: (-row[b], b))[:width] for row in rows]
    np.testing.assert_array_equal(top(np.array(rows, np.float32), width), expected)


def test_mean_membership_is_the_mean_over_all_tiles(logit_table: Table):
    z = random_logits(2100, 7)
    found = mean_membership(logit_table(z), (0.5, 1.0, 3.0))
    assert list(found) == [0.5, 1.0, 3.0]
    for temperature, m in found.items():
        assert m.dtype == np.float64
        expected = by_hand.softmax(z, temperature).mean(axis=0)
        np.testing.assert_allclose(m, expected, rtol=1e-5)  # p is float32
        assert m.sum() == pytest.approx(1, abs=1e-6)


def test_use_of_a_bucket_counts_as_a_billionth_at_least():
    np.testing.assert_allclose(log_use(np.array([0.0, 1e-12, 1e-3])), np.log([1e-9, 1e-9, 1e-3]), rtol=1e-6)
