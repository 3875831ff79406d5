"""Whole assignments and evaluations of drawn vectors against brute force in float64, from DESIGN sections 4 and 5.

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

from ivfast.data.vectors import EvaluationSet, Space, Vectors
from ivfast.evaluate.results import Result, RouterSetting, evaluate_router
from ivfast.route.routers import LogitTiles, Router, centers_router
from ivfast.runtime.progress import silent
from ivfast.store.budget import Assignment, assign
from ivfast.store.rules import Plan, log_use

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
    use = log_use(np.array(drawn.m)) if drawn.rule == "benefit" else None
    return Plan(drawn.rule, drawn.percent, drawn.temperature, use)


def router_of(drawn: Drawn) -> Router:
    return centers_router("centers", np.array(drawn.centers, np.float32), drawn.metric, FLOOR, K)


def space_of(drawn: Drawn) -> Space:
    return Space(drawn.metric, np.zeros(len(drawn.centers[0]), np.float32), np.float32(1))


def vectors_of(rows: list[list[float]]) -> Vectors:
    return Vectors("base", Path("base.npy"), np.array(rows, np.float32))


def squares(x: list[float], centers: list[list[float]]) -> list[float]:
    """Squared distances to all centers, exact."""
    return [sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in centers]


def logits(d2: list[float]) -> list[float]:
    """z = - k d^2 / delta"""
    near = sorted(d2)[:4]
    delta = max(sum(near) / len(near), FLOOR)
    return [-K * d / delta for d in d2]


def log_softmax(z: list[float], temperature: float) -> list[float]:
    high = max(z)
    total = math.log(sum(math.exp((value - high) / temperature) for value in z))
    return [(value - high) / temperature - total for value in z]


def log_keys(d2: list[float], drawn: Drawn) -> list[float]:
    """Of the three rules, larger is better: log d_1 / d_j, log p_b, log p_b / m_b."""
    if drawn.rule == "ratio":
        first = min(d2)
        return [0.0 if d == first else -math.inf if first == 0 else 0.5 * math.log(first / d) for d in d2]
    log_p = log_softmax(logits(d2), drawn.temperature)
    if drawn.rule == "membership":
        return log_p
    return [p - math.log(max(m, 1e-9)) for p, m in zip(log_p, drawn.m, strict=True)]


def crossings(x: list[float], drawn: Drawn) -> list[list[float]]:
    """What bucket b loses under benefit where bucket a is taken: k <r_a, r_b>^2 / (2 T |r_a|^2 delta)."""
    d2 = squares(x, drawn.centers)
    near = sorted(d2)[:4]
    delta = max(sum(near) / len(near), FLOOR)
    r = [[a - b for a, b in zip(x, c, strict=True)] for c in drawn.centers]
    return [
        [
            K * sum(u * v for u, v in zip(r_a, r_b, strict=True)) ** 2 / (2 * drawn.temperature * d_a * delta)
            if d_a
            else 0.0
            for r_b in r
        ]
        for d_a, r_a in zip(d2, r, strict=True)
    ]


def worths(x: list[float], keys: list[float], buckets: list[int], drawn: Drawn) -> list[dict[int, float]]:
    """What every candidate is worth beside the first 0, 1, .. of `buckets`; among the best `width` by key."""
    least = sorted(keys)[-drawn.width]
    crossing = crossings(x, drawn) if drawn.rule == "benefit" and drawn.percent > 0 else None
    found = []
    for n in range(len(buckets) + 1):
        before = buckets[:n]
        # at the border of the candidates, rounding says which of nearly equal ones is one
        likely = [b for b in range(len(keys)) if b not in before and (b in buckets or keys[b] > least + 1e-3)]
        found.append({b: keys[b] - (sum(crossing[a][b] for a in before) if crossing else 0.0) for b in likely})
    return found


def as_good(key: float, other: float) -> bool:
    """Whether a key is no worse than another, but for float32's rounding."""
    return key >= other - 2e-4 - 1e-6 * abs(other)


def lists_of(assignment: Assignment) -> list[list[int]]:
    return [row[row >= 0].tolist() for row in assignment.buckets]


@given(draws())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_other_buckets_are_better_than_those_assigned(drawn: Drawn) -> None:
    (found,) = assign(LogitTiles(router_of(drawn), vectors_of(drawn.x), space_of(drawn)), [plan_of(drawn)], drawn.width)
    stored, n = lists_of(found), len(drawn.x)
    assert found.entries == n + round(drawn.percent * n)
    flat = [bucket for buckets in stored for bucket in buckets]
    assert found.sizes.tolist() == [flat.count(b) for b in range(len(drawn.centers))]
    taken, left = [math.inf], [-math.inf]  # keys of extras, and of those that there was room for
    for x, buckets in zip(drawn.x, stored, strict=True):
        keys = log_keys(squares(x, drawn.centers), drawn)
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
    (found,) = assign(LogitTiles(router_of(drawn), vectors_of(drawn.x), space_of(drawn)), [plan_of(drawn)], drawn.width)
    stored = lists_of(found)
    for i, (x, buckets) in enumerate(zip(drawn.x, stored, strict=True)):
        d2 = squares(x, drawn.centers)
        if drawn.rule == "membership" or (drawn.rule == "ratio" and min(d2) > 0):  # else d^2 alone does not rank
            ranked = sorted(range(len(d2)), key=lambda b: (d2[b], b))
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
    (assignment,) = assign(LogitTiles(router, base, space), [plan_of(drawn)], drawn.width)
    held_out = LogitTiles(router, vectors_of(case.held_out), space).all()
    data = EvaluationSet("drawn", Path("gt.npy"), base, query, np.array(case.gt))
    setting = RouterSetting(router, [plan_of(drawn)], TEMPERATURE, held_out)
    nprobes = tuple(range(1, len(drawn.centers) + 1))
    return lists_of(assignment), evaluate_router(setting, data, space, drawn.width, nprobes, 1024, silent())


def searched_by_hand(case: Searched, stored: list[list[int]], probes: list[set[int]]) -> tuple[float, float, float]:
    """Mean buckets probed, recall, share scanned."""
    found, answers, entries = 0, 0, 0
    for probed, row in zip(probes, case.gt, strict=True):
        right = [answer for answer in row[:10] if answer >= 0]
        answers += len(right)
        found += sum(bool(probed & set(stored[answer])) for answer in right)
        entries += sum(bucket in probed for buckets in stored for bucket in buckets)
    n_query = len(probes)
    return sum(map(len, probes)) / n_query, found / answers, entries / n_query / len(stored)


@given(searches())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_fixed_probing_finds_and_scans_what_brute_force_does(case: Searched) -> None:
    stored, (fixed, _) = evaluated(case)
    centers = case.stored.centers
    curve = []
    for nprobe, recall, scanned in zip(fixed.nprobe, fixed.recall, fixed.scanned, strict=True):
        probes = []
        for query in case.query:
            d2 = squares(query, centers)
            probes.append(set(sorted(range(len(centers)), key=lambda b: (d2[b], b))[: int(nprobe)]))
        expected = searched_by_hand(case, stored, probes)
        np.testing.assert_allclose((nprobe, recall, scanned), expected, rtol=1e-12)
        curve.append(expected[1:])
    assert curve[-1][0] == 1  # nprobe = nlist
    reached = next(i for i, (recall, _) in enumerate(curve) if recall >= 0.9)
    (low, cheap), (high, dear) = curve[max(0, reached - 1)], curve[reached]
    part = (0.9 - low) / (high - low) if reached else 1.0
    np.testing.assert_allclose(fixed.scanned_at["0.90"], cheap + part * (dear - cheap), rtol=1e-9)
    sizes = [sum(b in buckets for buckets in stored) for b in range(len(centers))]
    assert (fixed.largest, fixed.empty, fixed.entries) == (max(sizes), sizes.count(0), sum(sizes))


def gains_by_hand(x: list[float], sizes: list[int], n: int, centers: list[list[float]]) -> dict[int, float]:
    """log softmax(z / T)_b / (size_b / n) of buckets that hold something; the best is infinite."""
    z = logits(squares(x, centers))
    log_p = log_softmax(z, TEMPERATURE)
    gains = {b: log_p[b] - math.log(size / n) for b, size in enumerate(sizes) if size}
    gains[max(gains, key=lambda b: (z[b], -b))] = math.inf
    return gains


@given(searches())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_adaptive_probing_finds_and_scans_what_brute_force_does(case: Searched) -> None:
    """Between a threshold a little too high and one a little too low, since float32 rounds gains."""
    stored, (_, adaptive) = evaluated(case)
    centers, n = case.stored.centers, len(stored)
    sizes = [sum(b in buckets for buckets in stored) for b in range(len(centers))]
    held_out = [gains_by_hand(x, sizes, n, centers) for x in case.held_out]
    falling = sorted((g for gains in held_out for g in gains.values() if g < math.inf), reverse=True)
    for i, point in enumerate(zip(adaptive.nprobe, adaptive.recall, adaptive.scanned, strict=True)):
        extra = i * len(case.held_out)  # nprobe i + 1 on average, the best bucket apart
        threshold = falling[extra] if extra < len(falling) else -math.inf
        slack = 0.0 if math.isinf(threshold) else 2e-4 + 1e-6 * abs(threshold)
        bounds = []
        for border in (threshold + slack, threshold - slack):
            gains = [gains_by_hand(x, sizes, n, centers) for x in case.query]
            bounds.append(searched_by_hand(case, stored, [{b for b, g in row.items() if g > border} for row in gains]))
        for found, low, high in zip(point, *bounds, strict=True):
            assert low - 1e-9 <= found <= high + 1e-9
