"""Probing query by query and bucket by bucket, in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.route.search import (
    Answers,
    Lists,
    count_adaptive,
    first_found,
    imbalance,
    log_gains,
    router_order,
    scanned_at,
    scanned_shares,
    thresholds_for,
)
from tests import by_hand

SEEDS = st.integers(0, 2**32 - 1)
few = settings(derandomize=True, deadline=None, max_examples=60)


def draw_lists(rng: np.random.Generator, nlist: int, n: int = 12, width: int = 3) -> Lists:
    """Each of n vectors in 1 to width distinct buckets each; some buckets may be empty."""
    buckets = np.full((n, width), -1)
    for row in buckets:
        copies = rng.integers(1, min(width, nlist) + 1)
        row[:copies] = rng.permutation(max(1, nlist - 1) if nlist > width else nlist)[:copies]
    return Lists(n, np.bincount(buckets[buckets >= 0], minlength=nlist), buckets)


def draw_answers(rng: np.random.Generator, queries: int, n: int = 12, width: int = 4) -> Answers:
    valid = rng.random((queries, width)) < 0.8
    valid[0, 0] = True
    return Answers(rng.integers(n, size=(queries, width)), valid)


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=6))
@few
def test_order_is_best_first_with_ties_to_the_smaller_bucket(rows: list):
    order, place = router_order(np.array(rows, np.float32))
    for row, ranked, places in zip(rows, order.tolist(), place.tolist(), strict=True):
        assert ranked == sorted(range(5), key=lambda b: (-row[b], b))
        assert [places[b] for b in ranked] == [0, 1, 2, 3, 4]


@given(SEEDS, st.integers(1, 6))
@few
def test_answer_is_found_when_any_copys_bucket_is_probed(seed: int, nlist: int):
    rng = np.random.default_rng(seed)
    lists, answers = draw_lists(rng, nlist), draw_answers(rng, 5)
    order, place = router_order(rng.standard_normal((5, nlist)))
    found = first_found(place, lists, answers)
    for query in range(5):
        for column in range(4):
            copies = set(lists.buckets[answers.at[query, column]].tolist())
            expected = nlist + 1
            for nprobe in range(nlist, 0, -1):
                if answers.valid[query, column] and copies & set(order[query, :nprobe].tolist()):
                    expected = nprobe
            assert found[query, column] == expected


@given(SEEDS, st.integers(1, 6))
@few
def test_scanned_counts_copies_over_vectors(seed: int, nlist: int):
    rng = np.random.default_rng(seed)
    lists = draw_lists(rng, nlist)
    order, _ = router_order(rng.standard_normal((5, nlist)))
    shares = scanned_shares(order, lists)
    for query in range(5):
        for nprobe in range(1, nlist + 1):
            probed = order[query, :nprobe].tolist()
            entries = sum(int(b in probed) for row in lists.buckets.tolist() for b in row if b >= 0)
            assert shares[query, nprobe - 1] == pytest.approx(entries / 12)


@given(SEEDS, st.integers(1, 7), st.sampled_from([0.5, 1.0, 2.0]))
@few
def test_gains_follow_the_formula(seed: int, nlist: int, temperature: float):
    rng = np.random.default_rng(seed)
    lists = draw_lists(rng, nlist)
    z = rng.normal(0, 2, (6, nlist)).astype(np.float32)
    found = log_gains(z, temperature, lists)
    assert found.dtype == np.float32
    expected = by_hand.log_gains(z, temperature, lists.sizes, lists.n)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)  # float32


def test_best_bucket_of_all_empty_but_one_is_that_one():
    lists = Lists(4, np.array([0, 0, 4]), np.full((4, 1), 2))
    gains = log_gains(np.array([[9, 8, -50]], np.float32), 1.0, lists)
    assert gains.tolist() == [[-math.inf, -math.inf, math.inf]]


@given(SEEDS, st.integers(1, 7))
@few
def test_buckets_above_each_threshold_are_probed(seed: int, nlist: int):
    rng = np.random.default_rng(seed)
    lists, answers = draw_lists(rng, nlist), draw_answers(rng, 6)
    gains = log_gains(rng.normal(0, 2, (6, nlist)).astype(np.float32), 1.0, lists)
    finite = gains[np.isfinite(gains)]  # equal gains among the thresholds: they are not above
    thresholds = np.sort(np.r_[finite[:4], 3.0, 0.1, -2.0, -np.inf].astype(np.float32))[::-1]
    counts = count_adaptive(gains, thresholds, lists, answers)
    for i, threshold in enumerate(thresholds):
        probes = by_hand.adaptive_probes(gains, float(threshold))
        gt = np.where(answers.valid, answers.at, -1)
        recall, scanned = by_hand.search(by_hand.lists_of(lists.buckets), gt, probes)
        assert counts.probed[:, i].tolist() == [len(probed) for probed in probes]
        assert counts.scanned[:, i] == pytest.approx(lists.n * np.array(scanned))
        assert counts.found[i] == pytest.approx(recall * answers.valid.sum())


def test_equal_gain_is_not_above():
    lists = Lists(3, np.array([1, 1, 1]), np.array([[0], [1], [2]]))
    answers = Answers(np.array([[0, 1, 2]]), np.ones((1, 3), bool))
    gains = np.array([[np.inf, 0.5, 0.25]], np.float32)
    counts = count_adaptive(gains, np.array([0.5, 0.25, 0.125], np.float32), lists, answers)
    assert counts.probed.tolist() == [[1, 2, 3]]
    assert counts.found.tolist() == [1, 2, 3]


def test_empty_buckets_are_never_probed_and_the_best_always():
    lists = Lists(10, np.array([5, 0, 5]), np.array([[0], [2]]))
    z = np.array([[1, 9, 0], [0, 9, 1]], np.float32)
    answers = Answers(np.array([[0], [1]]), np.ones((2, 1), bool))
    thresholds = np.array([np.finfo(np.float32).max, -np.inf], np.float32)
    counts = count_adaptive(log_gains(z, 1.0, lists), thresholds, lists, answers)
    assert counts.probed.tolist() == [[1, 2], [1, 2]]
    assert counts.scanned.tolist() == [[5, 10], [5, 10]]
    assert counts.found.tolist() == [2, 2]


@given(SEEDS, st.integers(2, 8), st.integers(1, 40))
@few
def test_held_out_rows_probe_the_wanted_number_on_average(seed: int, nlist: int, rows: int):
    rng = np.random.default_rng(seed)
    lists = draw_lists(rng, nlist)
    filled = int((lists.sizes > 0).sum())
    gains = log_gains(rng.normal(0, 2, (rows, nlist)).astype(np.float32), 1.0, lists)
    wanted = np.sort(np.r_[1, rng.uniform(1, nlist, 5), nlist])
    thresholds = thresholds_for(gains, wanted)
    assert (np.diff(thresholds[np.isfinite(thresholds)]) <= 0).all()
    for n_probed, threshold in zip(wanted, thresholds, strict=True):
        mean = (gains > threshold).sum() / rows
        assert mean == pytest.approx(min(n_probed, filled), abs=0.5 / rows + 1e-9)  # whole buckets over rows


def test_threshold_for_all_buckets_is_minus_infinity():
    gains = np.array([[np.inf, 1.0, 2.0], [0.5, np.inf, -np.inf]], np.float32)
    assert thresholds_for(gains, np.array([1, 2, 3])).tolist() == [2.0, 0.5, -math.inf]


def test_one_bucket_needs_no_threshold():
    thresholds = thresholds_for(np.full((4, 1), np.inf, np.float32), np.array([1]))
    assert (np.full((4, 1), np.inf) > thresholds).all()


def test_scanned_at_is_linear_in_recall_between_points():
    recall, scanned = np.array([0.5, 0.7, 0.9, 1.0]), np.array([0.1, 0.2, 0.6, 0.9])
    assert scanned_at(recall, scanned, 0.8) == pytest.approx(0.4)
    assert scanned_at(recall, scanned, 0.95) == pytest.approx(0.75)
    assert scanned_at(recall, scanned, 0.9) == pytest.approx(0.6)
    assert scanned_at(recall, scanned, 1.0) == pytest.approx(0.9)


def test_scanned_at_takes_the_first_point_where_it_is_above_already():
    recall, scanned = np.array([0.92, 0.95]), np.array([0.3, 0.5])
    assert scanned_at(recall, scanned, 0.8) == 0.3
    assert scanned_at(recall, scanned, 0.92) == 0.3


def test_scanned_at_is_not_interpolated_from_points_that_find_nothing():
    """An empty bucket that is probed first costs nothing and finds nothing: no gain over one that finds all."""
    assert scanned_at(np.array([0, 0, 1.0, 1]), np.array([0, 0, 1.0, 1]), 0.9) == 1


def test_scanned_at_takes_the_cheapest_of_points_with_equal_recall():
    assert scanned_at(np.array([0.5, 0.9, 0.9]), np.array([0.1, 0.2, 0.8]), 0.9) == pytest.approx(0.2)


def test_recall_never_reached_is_nan():
    assert math.isnan(scanned_at(np.array([0.5, 0.7]), np.array([0.1, 0.2]), 0.8))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=64).filter(any))
@few
def test_imbalance_follows_the_formula_between_1_and_nlist(sizes: list[int]):
    found = imbalance(np.array(sizes))
    assert found == pytest.approx(by_hand.imbalance(np.array(sizes)))
    assert 1 - 1e-9 <= found <= len(sizes) + 1e-9


def test_imbalance_of_billions_does_not_overflow():
    assert imbalance(np.array([6_000_000_000, 0])) == pytest.approx(2)
