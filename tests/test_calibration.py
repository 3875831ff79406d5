"""Sharpness: the formulas of docs/how-it-works.md in float64, and planted minima found again."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.choose.facts import PROBING_TS, fit_probing_t
from ivfast.choose.goal import K_GRID, HeldOutLogits, fit_goal, fit_k, least, meet, pair_logits, row_blocks
from tests import by_hand


@pytest.mark.parametrize("nlist", [1, 2, 7])
@pytest.mark.parametrize("size", [1.0, 300.0])  # 300: exp of a logit alone would underflow
def test_meet_follows_the_formula(rng: np.random.Generator, nlist: int, size: float):
    z, z_pair = (size * rng.standard_normal((50, nlist)) for _ in range(2))
    m = np.arange(nlist, dtype=np.float64)  # the first bucket is not used at all
    m = m / m.sum() if nlist > 1 else np.ones(1)
    assert meet(z, z_pair, m) == pytest.approx(by_hand.meet(z, z_pair, m), rel=1e-12)


def test_meet_does_not_depend_on_its_blocks(rng: np.random.Generator):
    z, z_pair = rng.standard_normal((101, 6)), rng.standard_normal((101, 6))
    m = np.full(6, 1 / 6)
    blocks = 20  # 3 rows a block, the last of 2
    assert meet(z, z_pair, m, blocks) == pytest.approx(by_hand.meet(z, z_pair, m), rel=1e-12)


def test_meet_is_0_where_pairs_share_evenly_used_buckets():
    z = 1e4 * np.eye(8)
    assert meet(z, z, np.full(8, 1 / 8)) == pytest.approx(0, abs=1e-12)


def test_meet_is_ln_nlist_at_collapse_and_where_p_does_not_depend_on_x():
    one_bucket = np.tile(1e4 * np.eye(8)[:1], (5, 1))
    assert meet(one_bucket, one_bucket, np.eye(8)[0]) == pytest.approx(math.log(8))
    p = np.arange(1.0, 9) / 36
    same = np.tile(np.log(p), (5, 1))
    assert meet(same, same, p) == pytest.approx(math.log(8))


def two_buckets(share: float, margin: float) -> HeldOutLogits:
    """1000 pairs, of which `share` lie on one side, half of them on either side of two buckets."""
    n = round(500 * share)
    left, right = np.array([0.0, -margin]), np.array([-margin, 0.0])
    half = np.tile(left, (500, 1)), np.concatenate([np.tile(left, (n, 1)), np.tile(right, (500 - n, 1))])
    return HeldOutLogits(*(np.concatenate([side, side[:, ::-1]]) for side in half))


@pytest.mark.parametrize("planted", [4.0, 12.0, 39.0, 85.0])
@pytest.mark.parametrize("share", [0.7, 0.95])
def test_fit_k_finds_the_planted_sharpness(planted: float, share: float):
    """The least of meet is where the chance to meet, p^2 + (1 - p)^2, is the share that does."""
    p = (1 + math.sqrt(2 * share - 1)) / 2
    margin = math.log(p / (1 - p)) / planted
    found = fit_k(two_buckets(share, margin), np.full(2, 0.5))
    assert found == pytest.approx(planted, rel=0.01)  # the parabola is off by 0.7 % at most


@pytest.mark.parametrize(("planted", "expected"), [(0.5, 3.0), (900.0, 100.0)])
def test_k_stays_within_3_and_100(planted: float, expected: float):
    p = (1 + math.sqrt(0.8)) / 2
    assert fit_k(two_buckets(0.9, math.log(p / (1 - p)) / planted), np.full(2, 0.5)) == pytest.approx(expected)


def test_fit_k_holds_m_as_it_is():
    """With m far from even the least of meet moves; a dense walk of the formula says where to."""
    rng = np.random.default_rng(2)
    z = -rng.random((200, 5))
    pairs = HeldOutLogits(z, z + rng.normal(0, 0.1, z.shape))
    m = np.array([0.6, 0.1, 0.1, 0.1, 0.1])
    dense = np.geomspace(3, 100, 400)
    expected = min(dense, key=lambda k: by_hand.meet(k * pairs.z[:60], k * pairs.z_pair[:60], m))
    pairs = HeldOutLogits(*(side[:60] for side in pairs))
    assert fit_k(pairs, m) == pytest.approx(expected, rel=0.02)
    assert fit_k(pairs, np.full(5, 0.2)) != pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("planted", [0.3, 1.0, 1.7, 6.0])
def test_fit_probing_t_recovers_the_planted_one(planted: float):
    """Answers of two buckets fall by softmax(z / T): 80 % to 20 % where z differs by T ln 4."""
    z = np.tile(np.array([[0.0, -planted * math.log(4)]], np.float32), (100, 1))
    targets = np.zeros((100, 10), np.int64)
    targets[:, :2] = 1
    assert fit_probing_t(z, targets) == pytest.approx(planted, rel=0.01)


def test_fit_probing_t_recovers_what_many_buckets_were_drawn_with(rng: np.random.Generator):
    z = rng.normal(0, 3, (4000, 20)).astype(np.float32)
    noise = rng.gumbel(size=(4000, 10, 20))
    targets = (z[:, None, :] / 2.2 + noise).argmax(axis=2)  # Gumbel: draws from softmax(z / 2.2)
    assert fit_probing_t(z, targets) == pytest.approx(2.2, rel=0.02)  # 40,000 draws


def test_fit_probing_t_does_not_depend_on_its_blocks(rng: np.random.Generator):
    z, targets = rng.normal(0, 3, (101, 6)).astype(np.float32), rng.integers(6, size=(101, 4))
    whole = fit_probing_t(z, targets)
    blocks = 20  # 3 rows a block, the last of 2
    assert fit_probing_t(z, targets, blocks) == pytest.approx(whole, rel=1e-9)


def test_blocks_are_all_rows_in_order_and_no_larger_than_said():
    for n, width, entries, sizes in ((101, 6, 20, [3] * 33 + [2]), (5, 6, 1, [1] * 5), (4, 1, 100, [4])):
        blocks = row_blocks(n, width, entries)
        assert [len(range(n)[rows]) for rows in blocks] == sizes
        assert [row for rows in blocks for row in range(n)[rows]] == list(range(n))


def full_walk(value: Callable[[float], float], grid: np.ndarray) -> float:
    """The least of all grid values, refined by the parabola through it and its neighbours in log."""
    values = [value(float(point)) for point in grid]
    i = int(np.argmin(values))
    if i in (0, len(grid) - 1):
        return float(grid[i])
    a, b, _ = np.polyfit(np.log(grid[i - 1 : i + 2]), values[i - 1 : i + 2], 2)
    return math.exp(-b / (2 * a))


@given(
    st.sampled_from([K_GRID, PROBING_TS, np.geomspace(1, 50, 23), np.geomspace(1, 2, 6)]),
    st.floats(-0.2, 1.2), st.sampled_from([1.0, 1.5, 2.0, 4.0]), st.floats(0.05, 20),
)  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=150)
def test_least_of_one_valley_is_that_of_the_full_walk(grid: np.ndarray, at: float, power: float, slope: float):
    low, high = math.log(grid[0]), math.log(grid[-1])
    bottom = low + at * (high - low)

    def valley(point: float) -> float:
        way = math.log(point) - bottom
        return abs(way) ** power * (slope if way > 0 else 1)

    assert least(valley, grid) == pytest.approx(full_walk(valley, grid), rel=1e-6)


def test_grids_are_those_of_the_design():
    assert (len(K_GRID), K_GRID[0], K_GRID[-1]) == (31, 3, pytest.approx(100))
    np.testing.assert_allclose(np.diff(np.log(K_GRID)), np.log(100 / 3) / 30)


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_pair_logits_are_float64_at_k_1(metric: str, rng: np.random.Generator):
    x, x_pair, centers = (rng.standard_normal((n, 5)) for n in (9, 9, 6))
    sides = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, x_pair, centers)]
    x, x_pair, centers = (rows.astype(np.float32) for rows in sides)
    found = pair_logits(x, x_pair, centers, metric, 1e-9)
    for side, z in ((x, found.z), (x_pair, found.z_pair)):
        assert z.dtype == np.float64
        np.testing.assert_allclose(
            z, by_hand.logits(side, centers, 1.0), rtol=2e-6, atol=2e-6
        )  # under IP unit norm to float32 alone


def test_goal_is_the_nprobe_that_reaches_90_percent_of_the_pairs():
    """100 pairs whose other sides' nearest buckets are at places 1, 2, .. 100 of their own order."""
    z = np.tile(-np.arange(100.0), (100, 1))
    z_pair = np.where(np.eye(100, dtype=bool), 0.0, -5.0)
    goal = fit_goal(HeldOutLogits(z, z_pair), np.full(100, 0.01))
    assert goal.k == fit_k(HeldOutLogits(z, z_pair), np.full(100, 0.01))
    assert goal.nprobe == pytest.approx(90, abs=0.5)
    assert goal.weight == 0.3
    assert goal.slope == 2.0  # (log 92.5 - log 87.5) / 0.05 is 1.1, below what is let through


def test_goal_s_slope_stays_within_its_bounds():
    best = HeldOutLogits(10 * np.eye(8), 10 * np.eye(8))  # all are found at nprobe 1
    assert fit_goal(best, np.full(8, 1 / 8))[1:] == (1.0, 2.0, 0.0)
    rng = np.random.default_rng(1)
    z, z_pair = rng.standard_normal((400, 2000)), rng.standard_normal((400, 2000))
    z_pair[:348] = z[:348]  # place 1 up to 87 %, then anywhere
    assert fit_goal(HeldOutLogits(z, z_pair), np.full(2000, 1 / 2000)).slope == 30.0
