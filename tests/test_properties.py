"""Whole bases and evaluations of drawn vectors against brute force in float64, by the formulas of docs/formats.md.

Vectors come from two small sets whose distances float32 holds exactly: whole numbers under L2, and the 24 unit
vectors with entries 0, 1 and -1, or all of them a half, under IP. So duplicates, equal distances, vectors that are
centers and empty buckets are the rule.
"""

import math
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.space import Space
from ivfast.data.vectors import EvaluationSet, Points, Vectors
from ivfast.evaluate.result import Result
from ivfast.evaluate.results import RouterSetting, evaluate_router
from ivfast.route.routers import Router, RouterKind, centers_router
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.progress import silent
from ivfast.store.place import Plan, make_plans, place
from ivfast.store.records import Facts, Storing
from ivfast.store.rules.rule import Terms
from tests import by_hand

K, FLOOR, TEMPERATURE = 12.0, 1e-9, 1.5
RULES = ("ratio", "membership", "benefit")
POOLS = {
    "L2": [list(map(float, v)) for v in product((-1, 0, 1, 2), repeat=2)],
    "IP": [[0.0] * i + [s] + [0.0] * (3 - i) for i in range(4) for s in (1.0, -1.0)]
    + [list(v) for v in product((0.5, -0.5), repeat=4)],
}


class Drawn(NamedTuple):
    """One way to store vectors."""

    metric: str
    x: list[list[float]]
    centers: list[list[float]]
    width: int
    rule: str
    percent: float
    temperature: float
    m: list[float]


@st.composite
def draws(draw: st.DrawFn, most: int = 30) -> Drawn:
    metric = draw(st.sampled_from(("L2", "IP")))
    rows = st.sampled_from(POOLS[metric])
    x = draw(st.one_of(st.lists(rows, min_size=1, max_size=most), rows.map(lambda row: [row] * 7)))
    centers = draw(st.lists(rows, min_size=1, max_size=6))
    nlist = len(centers)
    width = draw(st.integers(1, nlist))
    percent = draw(st.one_of(st.sampled_from((0.0, float(width - 1))), st.floats(0, width - 1)))
    m = draw(st.lists(st.sampled_from((0.0, 0.1, 0.5, 0.9)), min_size=nlist, max_size=nlist))
    return Drawn(
        metric, x, centers, width, draw(st.sampled_from(RULES)), percent, draw(st.sampled_from((0.5, 1.0, 3.0))), m
    )


def plan_of(drawn: Drawn) -> Plan:
    return make_plans([drawn.rule], [Terms(drawn.percent, drawn.temperature, np.array(drawn.m))])[0]


def router_of(drawn: Drawn) -> Router:
    return centers_router("centers", np.array(drawn.centers, np.float32), drawn.metric, FLOOR, K)


def space_of(drawn: Drawn) -> Space:
    return Space(drawn.metric, np.zeros(len(drawn.centers[0]), np.float32), np.float32(1))


def vectors_of(rows: list[list[float]]) -> Vectors:
    return Vectors("base", Path("base.npy"), np.array(rows, np.float32))


def tiles_of(drawn: Drawn) -> LogitTiles:
    return LogitTiles(router_of(drawn), Points(vectors_of(drawn.x), space_of(drawn)))


def squares(x: list[float], centers: list[list[float]]) -> np.ndarray:
    """Squared distances to all centers, exact."""
    return by_hand.distances(np.array([x]), np.array(centers))[0]


def logits_of(rows: list[list[float]], centers: list[list[float]]) -> np.ndarray:
    return by_hand.logits(np.array(rows), np.array(centers), K, FLOOR)


def crossings(x: list[float], drawn: Drawn) -> np.ndarray:
    """What one bucket loses beside another under benefit."""
    k_over_delta = K / by_hand.delta(squares(x, drawn.centers)[None], FLOOR)[:, 0]
    return by_hand.crossings(np.array([x]), np.array(drawn.centers), k_over_delta, drawn.temperature)[0]


def worths(x: list[float], keys: np.ndarray, buckets: list[int], drawn: Drawn) -> list[dict[int, float]]:
    """What every candidate is worth beside the first 0, 1, .. of `buckets`; among the best `width` by key."""
    least = np.sort(keys)[-drawn.width]
    crossing = crossings(x, drawn) if drawn.rule == "benefit" and drawn.percent > 0 else None
    found = []
    for n in range(len(buckets) + 1):
        before = buckets[:n]
        # at the border of the candidates, rounding says which of nearly equal ones is one
        likely = [b for b in range(len(keys)) if b not in before and (b in buckets or keys[b] > least + 1e-3)]
        found.append({b: keys[b] - (0.0 if crossing is None else crossing[before, b].sum()) for b in likely})
    return found


def as_good(key: float, other: float) -> bool:
    """Whether a key is no worse than another, but for float32's rounding."""
    return key >= other - 2e-4 - 1e-6 * abs(other)


@given(draws())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_other_buckets_are_better_than_those_assigned(drawn: Drawn) -> None:
    (found,) = place(tiles_of(drawn), [plan_of(drawn)], drawn.width)
    stored, n = by_hand.lists_of(found.buckets), len(drawn.x)
    assert found.entries == n + round(drawn.percent * n)
    np.testing.assert_array_equal(found.sizes, by_hand.sizes_of(stored, len(drawn.centers)))
    taken, left = [math.inf], [-math.inf]  # keys of extras, and of those that there was room for
    all_keys = by_hand.log_keys(logits_of(drawn.x, drawn.centers), drawn.rule, drawn.temperature, np.array(drawn.m))
    for x, keys, buckets in zip(drawn.x, all_keys, stored, strict=True):
        assert 1 <= len(set(buckets)) == len(buckets) <= drawn.width
        assert as_good(keys[buckets[0]], max(keys))
        worth = worths(x, keys, buckets, drawn)
        for b, beside in zip(buckets[1:], worth[1:], strict=False):
            assert as_good(beside[b], max(beside.values()))
        taken += [beside[b] for b, beside in zip(buckets[1:], worth[1:], strict=False)]
        left += worth[-1].values() if len(buckets) < drawn.width else []
    assert as_good(min(taken), max(left))


@given(draws())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_equal_distances_go_to_the_smaller_bucket_and_equal_vectors_to_the_smaller_number(drawn: Drawn) -> None:
    (found,) = place(tiles_of(drawn), [plan_of(drawn)], drawn.width)
    stored = by_hand.lists_of(found.buckets)
    for i, (x, buckets) in enumerate(zip(drawn.x, stored, strict=True)):
        d2 = squares(x, drawn.centers)
        if drawn.rule == "membership" or (drawn.rule == "ratio" and min(d2) > 0):  # else d^2 alone does not rank
            ranked = by_hand.ranked(-d2)
            assert buckets == ranked[: len(buckets)]
        for other, later in zip(drawn.x[i + 1 :], stored[i + 1 :], strict=True):
            if other == x:
                assert buckets[: len(later)] == later


class Searched(NamedTuple):
    """Queries for what is stored."""

    stored: Drawn
    query: list[list[float]]
    held_out: list[list[float]]
    gt: list[list[int]]


@st.composite
def searches(draw: st.DrawFn) -> Searched:
    stored = draw(draws(most=12))
    rows = st.sampled_from(POOLS[stored.metric])
    query, held_out = (draw(st.lists(rows, min_size=1, max_size=5)) for _ in range(2))
    columns = draw(st.integers(1, 12))
    answer = st.integers(-1, len(stored.x) - 1)
    some = st.lists(st.lists(answer, min_size=columns, max_size=columns), min_size=len(query), max_size=len(query))
    gt = draw(some)
    if all(a < 0 for row in gt for a in row[:10]):
        gt[-1][0] = 0
    return Searched(stored, query, held_out, gt)


def evaluated(case: Searched) -> tuple[list[list[int]], list[Result]]:
    """Buckets of base, and the results of fixed and adaptive probing at every nprobe."""
    drawn, router, space = case.stored, router_of(case.stored), space_of(case.stored)
    base, query = vectors_of(drawn.x), vectors_of(case.query)
    (lists,) = place(tiles_of(drawn), [plan_of(drawn)], drawn.width)
    held_out = LogitTiles(router, Points(vectors_of(case.held_out), space)).all()
    data = EvaluationSet("drawn", Path("gt.npy"), base, query, np.array(case.gt))
    kind = RouterKind(
        "centers", "centers", "black", trained=True, linear=True, rules=(drawn.rule,), default_rule=drawn.rule
    )
    storing = Storing(drawn.percent, {}, drawn.temperature, np.array(drawn.m))
    facts = Facts(K, TEMPERATURE, 1.0, (storing,), 0.0)
    setting = RouterSetting(router, kind, (drawn.percent,), facts, held_out)
    nprobes = tuple(range(1, len(drawn.centers) + 1))
    stored = by_hand.lists_of(lists.buckets)
    return stored, evaluate_router(setting, data, space, drawn.width, nprobes, 1024, silent())


def searched_by_hand(case: Searched, stored: by_hand.Lists, probes: by_hand.Lists) -> tuple[float, float, float]:
    """Mean buckets probed, recall, share scanned."""
    recall, scanned = by_hand.search(stored, np.array(case.gt)[:, :10], probes)
    return float(np.mean([len(probed) for probed in probes])), recall, float(np.mean(scanned))


@given(searches())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_fixed_probing_finds_and_scans_what_brute_force_does(case: Searched) -> None:
    stored, (fixed, _) = evaluated(case)
    nlist = len(case.stored.centers)
    nearness = -by_hand.distances(np.array(case.query), np.array(case.stored.centers))
    curve = []
    for nprobe, recall, scanned in zip(fixed.nprobe, fixed.recall, fixed.scanned, strict=True):
        expected = searched_by_hand(case, stored, by_hand.best_probes(nearness, int(nprobe)))
        np.testing.assert_allclose((nprobe, recall, scanned), expected, rtol=1e-12)
        curve.append(expected[1:])
    assert curve[-1][0] == 1  # nprobe = nlist
    np.testing.assert_allclose(fixed.scanned_at["0.90"], by_hand.scanned_at(curve, 0.9), rtol=1e-9)
    sizes = by_hand.sizes_of(stored, nlist)
    assert (fixed.largest, fixed.empty, fixed.entries) == (sizes.max(), (sizes == 0).sum(), sizes.sum())


@given(searches())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_adaptive_probing_finds_and_scans_what_brute_force_does(case: Searched) -> None:
    """Between a threshold a little too high and one a little too low, since float32 rounds gains."""
    stored, (_, adaptive) = evaluated(case)
    sizes = by_hand.sizes_of(stored, len(case.stored.centers))
    held_out, query = (
        by_hand.log_gains(logits_of(rows, case.stored.centers), TEMPERATURE, sizes, len(stored))
        for rows in (case.held_out, case.query)
    )
    for i, point in enumerate(zip(adaptive.nprobe, adaptive.recall, adaptive.scanned, strict=True)):
        above = by_hand.threshold(held_out, i + 1)
        slack = 0.0 if math.isinf(above) else 2e-4 + 1e-6 * abs(above)
        bounds = [
            searched_by_hand(case, stored, by_hand.adaptive_probes(query, border))
            for border in (above + slack, above - slack)
        ]
        for found, low, high in zip(point, *bounds, strict=True):
            assert low - 1e-9 <= found <= high + 1e-9
