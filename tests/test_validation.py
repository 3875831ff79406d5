"""The held-out judgement against searches in plain Python and float64."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from ivfast.choose.facts import COPY_STORING_TS, ONLY_STORING_TS, WAITS, choose_storings
from ivfast.choose.held_out import HeldOut, HeldOutTiles, held_out_demand, held_out_tiles, make_held_out, sample_use
from ivfast.choose.judgement import Curves, judge, judge_kmeans, measure, scanned_share, value
from ivfast.evaluate.refit import held_out_of
from ivfast.route.routers import Router, centers_router
from ivfast.route.search import scanned_at
from ivfast.start.neighbors import LearnSet, Neighbors, make_neighbors
from ivfast.store.demand import Demand
from ivfast.store.place import make_plans
from ivfast.store.rules.rule import Terms
from tests import by_hand
from tests.conftest import points_of
from tests.test_rules import REFERENCES

NLIST, WIDTH, FTOPK, N, K = 9, 4, 5, 400, 12.0
PERCENTS = (0.0, 0.8, 1.5)
MOVED_ENTRY = 2e-3  # float32 keys may order two of 400 vectors the other way: less than one entry in 400


class Case(NamedTuple):
    """A tiny learn, its held-out vectors, and two sets of centers."""

    x: np.ndarray  # (N, 6) float64
    neighbors: Neighbors
    held: HeldOut
    start: np.ndarray  # (NLIST, 6) float32
    trained: np.ndarray


@pytest.fixture(scope="module", params=["whole", "sampled"])
def case(request: pytest.FixtureRequest) -> Case:
    """sampled: bucket sizes are told from 150 of the 400 vectors."""
    rng = np.random.default_rng(11)
    clumps = rng.normal(0, 1.5, (25, 6))
    x = (clumps[rng.integers(25, size=N)] + rng.normal(0, 0.7, (N, 6))).astype(np.float32)
    d2 = by_hand.distances_of_others(x)
    held_out = np.arange(3, N, 5)
    train = np.setdiff1d(np.arange(N), held_out)
    answers = np.argsort(d2[held_out], axis=1)[:, :FTOPK]
    nearest = train[np.argsort(d2[np.ix_(train, train)], axis=1)[:, :FTOPK]]
    neighbors = make_neighbors(train, nearest, held_out, answers, answers.shape[1])
    sizes: dict[str, Any] = {"per_bucket": 1, "least": 150} if request.param == "sampled" else {}
    held = make_held_out(LearnSet(points_of(x), neighbors), NLIST, WIDTH, 1, **sizes)
    wide = x.astype(np.float64)
    return Case(wide, neighbors, held, x[:NLIST] + np.float32(0.1), x[100 : 100 + NLIST] + np.float32(0.1))


def share_by_hand(case: Case, centers: np.ndarray, rule: str, percent: float, temperature: float = 1.0) -> float:
    """Scanned at recall 0.9 of the held-out vectors, by rule at percent: mean of answers alike and by kinship."""
    z = by_hand.logits(case.x, centers, K)
    sample = case.held.pool[case.held.sample]
    m = by_hand.softmax(z[sample], temperature).mean(axis=0)
    k_over_delta = K / by_hand.delta(by_hand.distances(case.x, centers))[:, 0]
    crossing = by_hand.crossings(case.x, centers, k_over_delta, temperature)
    offers = by_hand.offers(REFERENCES[rule], by_hand.Scene(z, WIDTH, percent, temperature, m, crossing))
    stored = by_hand.store(offers, round(percent * len(sample)), sample.tolist())
    sizes = by_hand.sizes_of([stored[v] for v in sample], NLIST)
    neighbors = case.neighbors
    alike, by_worth = [], []
    for nprobe in range(1, NLIST + 1):
        hits = recall = scanned = 0.0
        for row, answers, kin in zip(neighbors.held_out, neighbors.answers, neighbors.answers_kinship, strict=True):
            probed = set(np.argsort(-z[row])[:nprobe].tolist())
            found = [bool(probed & set(stored[answer])) for answer in answers]
            hits += sum(found)
            recall += (found * kin).sum() / kin.sum()
            scanned += sizes[list(probed)].sum() / len(sample)
        n = len(neighbors.held_out)
        alike.append((hits / neighbors.answers.size, scanned / n))
        by_worth.append((recall / n, scanned / n))
    return (by_hand.scanned_at(alike, 0.9) + by_hand.scanned_at(by_worth, 0.9)) / 2


def router_of(centers: np.ndarray, name: str = "centers") -> Router:
    return centers_router(name, centers, "L2", 1e-9, K)


def test_value_is_the_mean_over_kmeans_at_its_better_percent(case: Case):
    kmeans = judge_kmeans(case.held, router_of(case.start), PERCENTS)
    judged = judge(case.held, router_of(case.trained), PERCENTS)
    base = min(share_by_hand(case, case.start, "ratio", percent) for percent in PERCENTS)
    shares = [share_by_hand(case, case.trained, "benefit", percent) for percent in PERCENTS]
    shares.append(share_by_hand(case, case.trained, "ratio", 0.0))  # nearest
    for curves, expected in zip([*judged.by_rule, judged.nearest], shares, strict=True):
        assert curves is not None
        assert scanned_share(curves) == pytest.approx(expected, rel=MOVED_ENTRY)
    assert value(judged, kmeans) == pytest.approx(sum(shares) / len(shares) / base, rel=MOVED_ENTRY)


def test_value_of_a_net_has_no_nearest(case: Case):
    kmeans = judge_kmeans(case.held, router_of(case.start), PERCENTS)
    judged = judge(case.held, router_of(case.trained, "net"), (0.8,))
    assert judged.nearest is None
    base = min(share_by_hand(case, case.start, "ratio", percent) for percent in PERCENTS)
    expected = share_by_hand(case, case.trained, "benefit", 0.8) / base
    assert value(judged, kmeans) == pytest.approx(expected, rel=MOVED_ENTRY)


def test_kmeans_is_measured_at_percent_0_even_where_it_is_not_asked_for(case: Case):
    curves = judge_kmeans(case.held, router_of(case.start), (1.5,))
    shares = sorted(scanned_share(one) for one in curves)
    expected = sorted(share_by_hand(case, case.start, "ratio", percent) for percent in (0.0, 1.5))
    assert shares == pytest.approx(expected, rel=MOVED_ENTRY)


def test_storing_temperature_is_the_one_nearest_1_within_half_a_percent_of_the_least(case: Case):
    percents = (0.0, 0.2, 0.5, 0.8)  # whole: at 0.2 the least is not the one to take
    found = choose_storings(case.held, held_out_tiles(case.held, router_of(case.trained)), percents)
    for percent, chosen in zip(percents, found, strict=True):
        grid = COPY_STORING_TS if percent else ONLY_STORING_TS
        shares = {t: share_by_hand(case, case.trained, "benefit", percent, t) for t in grid}
        good = [t for t, share in shares.items() if share <= 1.005 * min(shares.values())]
        assert chosen.storing_t == min(good, key=lambda t: abs(math.log(t)))


def scanned_for(case: Case, tiles: HeldOutTiles, terms: Terms) -> float:
    """At the recall of the terms: the mean of answers alike and by kinship."""
    (curves,) = measure(case.held, tiles, make_plans(["benefit"], [terms]))
    found = [
        scanned_at(one.mean(axis=0), curves.scanned.mean(axis=0), terms.recall)
        for one in (curves.found / curves.n_answers, curves.recall)
    ]
    return float(np.mean(found))


def test_whether_second_copies_wait_is_chosen_at_a_recall_above_0_95(case: Case):
    """By searches at that recall, with each storing_t and wait; up to 0.95 none waits."""
    percents = (0.4, 0.6, 0.8)
    tiles, waits = held_out_tiles(case.held, router_of(case.trained)), []
    use = sample_use(case.held, tiles, COPY_STORING_TS)
    for recall in (0.95, 0.99):
        found = choose_storings(case.held._replace(recall=recall), tiles, percents)
        for percent, chosen in zip(percents, found, strict=True):
            tried = WAITS if recall == 0.99 else (0.0,)
            ways = [
                Terms(percent, t, use[t], None, recall, wait) for t, wait in itertools.product(COPY_STORING_TS, tried)
            ]
            shares = [scanned_for(case, tiles, one) for one in ways]
            good = [one for one, share in zip(ways, shares, strict=True) if share <= 1.005 * min(shares)]
            best = min(good, key=lambda one: (one.wait, abs(math.log(one.storing_t))))
            assert (chosen.storing_t, chosen.wait) == (best.storing_t, best.wait)
            waits.append(chosen.wait)
    assert set(waits) == set(WAITS)  # else nothing was chosen here


def test_misleading_askers_leave_vectors_with_their_nearest_center(case: Case):
    router = router_of(case.trained)
    tiles, demand = held_out_tiles(case.held, router), held_out_demand(case.held, router, 2.0)
    strangers = np.random.default_rng(0).permutation(demand.reverse.asker)
    misled = Demand(demand.reverse._replace(asker=strangers), demand.probes)
    chosen = choose_storings(case.held, tiles, (0.0,), misled)[0].storing_t
    use = sample_use(case.held, tiles, (1.0, chosen))
    plans = make_plans(["ratio"], [Terms(0.0)])
    plans += make_plans(["benefit"], [Terms(0.0, t, use[t], misled) for t in (1.0, chosen)])
    nearest, at_1, at_chosen = (scanned_share(curves) for curves in measure(case.held, tiles, plans))
    assert at_1 > 1.1 * nearest
    assert at_chosen < 1.01 * nearest


def test_pool_holds_the_sample_and_all_answers_once(case: Case):
    held = case.held
    assert (np.diff(held.pool) > 0).all()
    np.testing.assert_array_equal(held.pool[held.answers.at], case.neighbors.answers)
    assert len(np.unique(held.pool[held.sample])) == len(held.sample) in (150, N)
    assert set(held.pool) == set(held.pool[held.sample]) | set(case.neighbors.answers.ravel())


def test_pairs_are_held_out_vectors_with_their_answers_each_once(case: Case):
    known = {
        (int(row), int(answer))
        for row, answers in zip(case.neighbors.held_out, case.neighbors.answers, strict=True)
        for answer in answers
    }
    pairs = list(zip(*(side.tolist() for side in case.held.pairs), strict=True))
    assert len(pairs) == len(set(pairs)) == len(known)
    assert set(pairs) == known


def test_nprobes_on_a_grid_are_enough_to_reach_full_recall(case: Case):
    for curves in judge_kmeans(case.held, router_of(case.start), PERCENTS):
        assert (curves.found[:, -1] == curves.n_answers).all()
        np.testing.assert_allclose(curves.recall[:, -1], 1)
        assert (np.diff(curves.found, axis=1) >= 0).all()


def test_weights_count_vectors_again(rng: np.random.Generator):
    found = np.minimum(np.cumsum(rng.integers(0, 4, (30, 4)), axis=1), 9)
    found[:, -1] = 9
    curves = Curves(found, np.sqrt(found / 9), np.cumsum(rng.random((30, 4)), axis=1), 9)
    weights = rng.integers(0, 3, 30)
    again = np.repeat(np.arange(30), weights)
    repeated = Curves(curves.found[again], curves.recall[again], curves.scanned[again], 9)
    assert scanned_share(curves, weights.astype(float)) == pytest.approx(scanned_share(repeated))
    scanned = curves.scanned.mean(axis=0).tolist()
    alike, by_worth = (found.sum(axis=0) / 270).tolist(), curves.recall.mean(axis=0).tolist()
    both = [by_hand.scanned_at(zip(recall, scanned, strict=True), 0.9) for recall in (alike, by_worth)]
    assert both[0] != both[1]
    assert scanned_share(curves) == pytest.approx(sum(both) / 2)


@pytest.mark.parametrize("distinct", [N, 6])
def test_budget_of_the_sample_is_exact_even_among_duplicates(distinct: int):
    """All buckets probed scan every entry: 1 + percent of the sample."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((distinct, 6)).astype(np.float32)[np.arange(N) % distinct]
    rows = np.arange(0, N, 5)
    neighbors = make_neighbors(
        np.setdiff1d(np.arange(N), rows), np.zeros((320, 2), np.int64), rows, rows[:, None] + [1, 2], 2
    )
    held = make_held_out(LearnSet(points_of(x), neighbors), NLIST, WIDTH, 1)
    centers = rng.standard_normal((NLIST, 6)).astype(np.float32)
    curves = [*judge(held, router_of(centers, "net"), PERCENTS).by_rule]
    curves += judge_kmeans(held, router_of(centers), PERCENTS)
    for one, percent in zip(curves, 2 * PERCENTS, strict=True):
        np.testing.assert_allclose(one.scanned[:, -1], 1 + percent)


@pytest.mark.parametrize("most", [500, 5000])
def test_a_large_learn_is_drawn_from(most: int) -> None:
    """As many as are asked for, each a row of learn, and the same ones again for the same seed."""
    x = np.random.default_rng(4).standard_normal((3000, 6)).astype(np.float32)
    held = held_out_of(points_of(x), 5, NLIST, 1, most)
    rows = held.learn.points.x(slice(None))
    assert len(rows) == min(most, 3000)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in x}
    again = held_out_of(points_of(x), 5, NLIST, 1, most)
    np.testing.assert_array_equal(again.learn.points.x(slice(None)), rows)
