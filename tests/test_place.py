"""Where a base is stored, against one sorted list of all copies that its rule offers, in plain Python and float64."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.vectors import Points
from ivfast.route.distances import top
from ivfast.route.routers import Router, centers_router
from ivfast.route.search import Lists
from ivfast.route.tiles import LogitTiles, Tile
from ivfast.store.demand import Demand, find_probes
from ivfast.store.place import Plan, make_plans, place
from ivfast.store.reverse import reverse_of
from ivfast.store.rules import RULES
from ivfast.store.rules.rule import Rule, Terms
from tests import by_hand
from tests.conftest import points_of
from tests.test_rules import REFERENCES

Table = Callable[[np.ndarray], LogitTiles]


class Storing(NamedTuple):
    """A rule by name, and what it is made from."""

    rule: str
    copies: float
    storing_t: float
    m: np.ndarray

    @property
    def plan(self) -> Plan:
        return Plan(self.rule, self.copies, RULES[self.rule].make(Terms(self.copies, self.storing_t, self.m)))

    def offers(self, z: np.ndarray, width: int) -> by_hand.Offers:
        """By hand, where the router has no geometry."""
        scene = by_hand.Scene(z, width, self.copies, self.storing_t, self.m)
        return by_hand.offers(REFERENCES[self.rule], scene)


def check(tiles: LogitTiles, z: np.ndarray, storing: Storing, width: int) -> Lists:
    """Place, and compare all of the result with the sorted list."""
    (found,) = place(tiles, [storing.plan], width)
    budget = round(storing.copies * len(z))
    expected = by_hand.store(storing.offers(z, width), budget)
    assert by_hand.lists_of(found.buckets) == expected
    assert found.n == len(z)
    assert found.entries == len(z) + budget
    np.testing.assert_array_equal(found.sizes, by_hand.sizes_of(expected, z.shape[1]))
    assert found.buckets.shape == (len(z), width)
    return found


def by_ratio(copies: float) -> Storing:
    return Storing("ratio", copies, 1.0, np.ones(1))


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
    check(logit_table(z), z, Storing(rule, percent, temperature, m), width=4)


@pytest.mark.parametrize("n", [1, 2, 3, 1023, 1024, 1025])
@pytest.mark.parametrize("percent", [0.5, 1.25])
def test_budget_is_exact_for_any_number_of_vectors(logit_table: Table, n: int, percent: float):
    z = random_logits(n, 5, seed=n)
    check(logit_table(z), z, by_ratio(percent), width=3)


@given(st.lists(st.lists(st.integers(1, 4), min_size=4, max_size=4), min_size=1, max_size=12), st.integers(0, 24))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_ties_go_to_the_smaller_vector_then_the_smaller_bucket(logit_table: Table, rows: list, extras: int):
    """All d_1 are 1 and d^2 small integers, so that equal ratios are equal floats."""
    z = -np.array([[*row[:2], 1, *row[2:]] for row in rows], np.float32)
    percent = min(extras, 2 * len(z)) / len(z)
    check(logit_table(z), z, by_ratio(percent), width=3)


@given(
    st.sampled_from(sorted(RULES)), st.lists(st.integers(0, 3), min_size=2, max_size=30),
    st.floats(0, 2), st.integers(0, 99), st.integers(3, 6),
)  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=100)
def test_duplicates_are_split_at_the_border_by_number(
    logit_table: Table, rule: str, rows: list, percent: float, seed: int, nlist: int
):
    z, m = random_logits(4, nlist, seed)[rows], uneven_use(nlist)
    check(logit_table(z), z, Storing(rule, percent, 1.0, m), width=3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("percent", [0.0, 0.4, 0.8, 2.0])
def test_all_vectors_equal_fill_the_budget_from_the_first(logit_table: Table, rule: str, percent: float):
    z = np.repeat(random_logits(1, 4), 1100, axis=0)
    m = uneven_use(4)
    found = check(logit_table(z), z, Storing(rule, percent, 1.0, m), width=3)
    counts = (found.buckets >= 0).sum(axis=1)
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("percent", [0.0, 0.2, 0.5, 1.0, 1.4, 2.0])
def test_distance_zero_is_ratio_1_where_shared_and_infinite_where_alone(logit_table: Table, percent: float):
    z = -np.array([[0, 4, 9], [4, 0, 0], [1, 1.1, 9], [0, 0, 0], [9, 1, 0]], np.float32)
    found = check(logit_table(z), z, by_ratio(percent), width=3)
    if percent == 0.2:  # the one copy: both distances 0, so nothing is better
        assert by_hand.lists_of(found.buckets)[1] == [1, 2]


def test_minus_zero_is_zero(logit_table: Table):
    z = np.array([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0], [-4.0, -4.0, -5.0]], np.float32)
    check(logit_table(z), z, by_ratio(2 / 3), width=2)


@pytest.mark.parametrize("rule", RULES)
def test_one_bucket_takes_all(logit_table: Table, rule: str):
    z = random_logits(50, 1)
    found = check(logit_table(z), z, Storing(rule, 0.0, 1.0, np.ones(1)), width=1)
    assert found.sizes.tolist() == [50]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("percent", [0.0, 0.5, 1.0])
def test_two_points(logit_table: Table, rule: str, percent: float):
    z, m = random_logits(2, 2), np.array([0.9, 0.1])
    check(logit_table(z), z, Storing(rule, percent, 1.0, m), width=2)


@pytest.mark.parametrize("rule", RULES)
def test_bucket_that_nobody_wants_stays_empty(logit_table: Table, rule: str):
    z, m = random_logits(300, 6), np.array([0.2, 0.2, 0.0, 0.2, 0.2, 0.2])
    z[:, 2] = -80  # p about e^-80: below every p / m even with m at its least
    found = check(logit_table(z), z, Storing(rule, 0.8, 1.0, m), width=4)
    assert found.sizes[2] == 0


def test_benefit_moves_vectors_out_of_crowded_buckets(logit_table: Table):
    z = np.log(np.array([[0.6, 0.4]] * 3, np.float32))
    (found,) = place(logit_table(z), [Storing("benefit", 0.0, 1.0, np.array([0.9, 0.1])).plan], 1)
    assert found.sizes.tolist() == [0, 3]


@pytest.fixture(params=["IP", "L2"])
def real(request: pytest.FixtureRequest) -> tuple[Router, Points]:
    """Vectors with duplicates and copies of centers, over three tiles, and a router."""
    metric = request.param
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2500, 16))
    x[100:200] = x[0]
    centers = np.concatenate([x[:20], rng.standard_normal((4, 16))])
    if metric == "IP":
        x, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centers))
    router = centers_router("centers", centers.astype(np.float32), metric, 1e-9, 12.0)
    return router, points_of(x.astype(np.float32), metric)


def real_plans(demand: Demand | None = None) -> list[Plan]:
    m = uneven_use(24)
    plans = make_plans(RULES, [Terms(copies, 0.7, m, demand) for copies in (0.0, 0.8, 1.5, 4.0)])
    return plans + make_plans(RULES, [Terms(0.8, 2.0, m, demand)])


def assert_same(found: list[Lists], expected: list[Lists]) -> None:
    """To the bit."""
    for one, two in zip(found, expected, strict=True):
        assert one.sizes.tobytes() == two.sizes.tobytes()
        assert one.buckets.tobytes() == two.buckets.tobytes()
        assert one.n == two.n


@pytest.mark.parametrize("read_rows", [1024, 1500, 2048, 10_000])
@pytest.mark.parametrize("cached_bytes", [0, 1 << 30])
def test_rows_read_at_once_never_change_a_bit(real: tuple[Router, Points], read_rows: int, cached_bytes: int):
    whole = place(LogitTiles(*real, read_rows=1), real_plans(), 5)
    tiles = LogitTiles(*real, read_rows=read_rows, cached_bytes=cached_bytes)
    assert_same(place(tiles, real_plans(), 5), whole)


@pytest.mark.parametrize("wanted", [[0], [2499], [7, 150, 151, 1023, 1024, 2047, 2048], list(range(90, 210))])
def test_wanted_vectors_have_the_buckets_they_have_among_all(real: tuple[Router, Points], wanted: list[int]):
    whole = place(LogitTiles(*real), real_plans(), 5)
    found = place(LogitTiles(*real), real_plans(), 5, np.array(wanted))
    for one, two in zip(whole, found, strict=True):
        assert one.sizes.tobytes() == two.sizes.tobytes()
        assert one.buckets[wanted].tobytes() == two.buckets.tobytes()


def test_plans_together_equal_each_alone(real: tuple[Router, Points]):
    together = place(LogitTiles(*real), real_plans(), 5)
    assert_same(together, [place(LogitTiles(*real), [plan], 5)[0] for plan in real_plans()])


def test_every_vector_is_stored_once_and_in_no_bucket_twice(real: tuple[Router, Points]):
    for plan, found in zip(real_plans(), place(LogitTiles(*real), real_plans(), 5), strict=True):
        lists = by_hand.lists_of(found.buckets)
        assert sum(map(len, lists)) == found.entries == found.sizes.sum() == 2500 + round(plan.copies * 2500)
        assert all(1 <= len(set(buckets)) == len(buckets) <= 5 for buckets in lists)


class Counter:
    """A bar that is watched."""

    done = 0

    def advance(self, n: int) -> None:
        self.done += n


@pytest.mark.parametrize("ranked_bytes", [0, 1 << 30])
def test_progress_counts_two_passes(real: tuple[Router, Points], ranked_bytes: int):
    bar = Counter()
    place(LogitTiles(*real), real_plans()[:1], 5, None, bar, ranked_bytes=ranked_bytes)
    assert bar.done == 2 * 2500


class Written:
    """A rule whose buckets and keys are written down, and how often it is asked."""

    def __init__(self, buckets: np.ndarray, keys: np.ndarray) -> None:
        self.buckets, self.keys = buckets.astype(np.int32), keys.astype(np.float32)
        self.asked = 0

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked += 1
        rows = slice(tile.start, tile.start + len(tile.z))
        return self.buckets[rows, :width], self.keys[rows, :width]

    def offers(self) -> by_hand.Offers:
        rows = zip(self.keys.tolist(), self.buckets.tolist(), strict=True)
        return [[(key, b) for key, b in zip(*row, strict=True) if b >= 0] for row in rows]


# some share their upper 16 bits, some are equal though written otherwise
KEYS = np.array([3.0, 1.0, 1.0 + 2**-20, 1.0 - 2**-20, 0.0, -0.0, 1e-30, -1e-30, -2.5, -np.inf], np.float32)


def written_rule(rng: np.random.Generator, n: int, nlist: int, width: int, *, short: bool) -> Written:
    """Keys of few values in no order. short: rows that have fewer buckets, filled up with -1 of the largest keys"""
    buckets = np.argsort(rng.random((n, nlist)), axis=1)[:, :width]
    keys = rng.choice(KEYS, (n, width))
    if short:
        none = np.arange(width) >= rng.integers(1, width + 1, n)[:, None]
        buckets[none], keys[none] = -1, np.inf
    return Written(buckets, keys)


def copies_sorted(stored: by_hand.Lists) -> by_hand.Lists:
    return [[buckets[0], *sorted(buckets[1:])] for buckets in stored]


def check_written(
    tiles: LogitTiles, rule: Written, copies: float, width: int, sample: np.ndarray | None = None
) -> Lists:
    n = len(rule.buckets)
    (found,) = place(tiles, [Plan("written", copies, rule)], width, sample=sample)
    rows = np.arange(n) if sample is None else sample
    budget, offers = round(copies * len(rows)), rule.offers()
    expected = by_hand.store(offers, budget, rows.tolist())
    assert copies_sorted(by_hand.lists_of(found.buckets)) == copies_sorted(expected)
    assert (found.buckets[:, 0] >= 0).all()
    of_sample = [expected[i] for i in rows.tolist()]
    assert found.n == len(rows)
    np.testing.assert_array_equal(found.sizes, by_hand.sizes_of(of_sample, tiles.router.nlist))
    offered = sum(len(offers[i]) - 1 for i in rows.tolist())
    assert found.entries == len(rows) + min(budget, offered)  # whatever there is of it
    return found


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6), st.floats(0, 1.2), st.booleans(),
    st.sampled_from([None, 0.2, 0.7, 1.0]),
)  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_rule_s_copies_are_the_best_of_one_sorted_list(
    logit_table: Table, seed: int, n: int, width: int, part: float, short: bool, sampled: float | None
):
    """Equal keys by the dozen. The budget is the sample's, and so are the sizes; others get copies that are as good."""
    rng = np.random.default_rng(seed)
    sample = None if sampled is None else np.sort(rng.choice(n, max(1, round(sampled * n)), replace=False))
    rule = written_rule(rng, n, 6, width, short=short)
    check_written(logit_table(np.zeros((n, 6))), rule, part * (width - 1), width, sample)


@pytest.mark.parametrize("copies", [0.0, 0.01, 0.8, 2.2, 3.0])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("sampled", [None, 1, 400, 2500])
def test_copies_of_any_rule_over_three_tiles(
    logit_table: Table, rng: np.random.Generator, copies: float, short: bool, sampled: int | None
):
    sample = None if sampled is None else np.sort(rng.choice(2500, sampled, replace=False))
    tiles = logit_table(np.zeros((2500, 6)))
    check_written(tiles, written_rule(rng, 2500, 6, 4, short=short), copies, 4, sample)


@pytest.mark.parametrize("copies", [0.5, 3.0])
def test_a_rule_may_offer_fewer_buckets_than_there_is_room_for(
    logit_table: Table, rng: np.random.Generator, copies: float
):
    rule = written_rule(rng, 100, 6, 2, short=True)
    found = check_written(logit_table(np.zeros((100, 6))), rule, copies, 5)
    assert found.buckets.shape == (100, 5)
    assert (found.buckets[:, 2:] == -1).all()


def test_where_no_copy_is_offered_every_vector_is_stored_once(logit_table: Table):
    buckets = np.array([[2, -1, -1], [0, -1, -1]])
    rule = Written(buckets, np.full((2, 3), 7.0))
    (found,) = place(logit_table(np.zeros((2, 3))), [Plan("written", 1.5, rule)], 3)
    assert found.buckets.tolist() == buckets.tolist()
    assert found.sizes.tolist() == [1, 0, 1]


@pytest.mark.parametrize("wanted", [[0], [7, 150, 151, 1023, 1024, 2047, 2048], list(range(90, 210))])
def test_wanted_vectors_of_a_sample_have_the_buckets_they_have_among_all(
    real: tuple[Router, Points], rng: np.random.Generator, wanted: list[int]
):
    sample = np.sort(rng.choice(2500, 300, replace=False))
    whole = place(LogitTiles(*real), real_plans(), 5, sample=sample)
    found = place(LogitTiles(*real), real_plans(), 5, np.array(wanted), sample=sample)
    for one, two in zip(whole, found, strict=True):
        assert one.sizes.tobytes() == two.sizes.tobytes()
        assert one.buckets[wanted].tobytes() == two.buckets.tobytes()


@pytest.mark.parametrize("sampled", [None, 300])
def test_what_was_ranked_may_be_kept_or_ranked_again(
    real: tuple[Router, Points], rng: np.random.Generator, sampled: int | None
):
    """By demand too, which is known tile by tile."""
    sample = None if sampled is None else np.sort(rng.choice(2500, sampled, replace=False))
    tiles = LogitTiles(*real)
    near = np.argsort(rng.random((2500, 40)), axis=1)[:, :3] + np.arange(2500)[:, None] // 40 * 40 % 2460
    demand = Demand(reverse_of(near, np.array([0.9, 0.5, 0.2])), find_probes(tiles, 3))
    kept = place(tiles, real_plans(demand), 5, sample=sample)
    plans = real_plans(demand)
    n_rules = len({id(plan.rule) for plan in plans})
    for ranked_bytes in (0, 2500 * 5 * 8 * n_rules - 1, 2500 * 5 * 8 * n_rules):
        assert_same(place(tiles, plans, 5, sample=sample, ranked_bytes=ranked_bytes), kept)


@pytest.mark.parametrize(("ranked_bytes", "passes"), [(1500 * 3 * 8, 1), (1500 * 3 * 8 - 1, 2)])
def test_plans_that_share_a_rule_rank_a_tile_once_a_pass(
    logit_table: Table, rng: np.random.Generator, ranked_bytes: int, passes: int
):
    rule = written_rule(rng, 1500, 4, 3, short=False)
    plans = [Plan("written", copies, rule) for copies in (0.0, 0.8, 1.5)]
    place(logit_table(np.zeros((1500, 4))), plans, 3, ranked_bytes=ranked_bytes)
    assert rule.asked == 2 * passes


def test_plans_are_every_rule_named_for_every_number_of_copies(real: tuple[Router, Points]):
    """They share a rule where nothing that it takes differs but the number of copies above 0."""
    m = uneven_use(24)
    demand = Demand(reverse_of(np.zeros((2500, 1), int), np.ones(1)), find_probes(LogitTiles(*real), 3))
    terms = [Terms(0.0, 1.0, m), Terms(0.8, 1.0, m), Terms(1.5, 1.0, m), Terms(2.0, 0.5, m), Terms(3.0, 1.0, m, demand)]
    plans = make_plans(RULES, terms)
    assert [(plan.name, plan.copies) for plan in plans] == [(name, t.copies) for name in RULES for t in terms]
    groups = {"ratio": [0, 1, 1, 1, 1], "membership": [0, 1, 1, 2, 1], "benefit": [0, 1, 1, 2, 3]}
    for i, name in enumerate(RULES):
        own: list[Rule] = [plan.rule for plan in plans[5 * i : 5 * i + 5]]
        assert [[one is two for two in own] for one in own] == [
            [one == two for two in groups[name]] for one in groups[name]
        ]
        assert type(own[3]) is type(RULES[name].make(terms[3]))


@given(st.integers(0, 2**32 - 1), st.integers(64, 300), st.integers(1, 4), st.sampled_from([3, 50, 10**6]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_top_of_many_buckets_is_a_stable_sort_cut_off(seed: int, columns: int, width: int, values: int):
    """Wide enough for groups of buckets to be passed over; 3 values: nothing but ties."""
    keys = np.random.default_rng(seed).integers(values, size=(4, columns)).astype(np.float32)
    np.testing.assert_array_equal(top(keys, width), by_hand.best_probes(keys, width))


@pytest.mark.parametrize("rule", RULES)
def test_many_buckets_are_assigned_as_few(logit_table: Table, rule: str):
    z, m = random_logits(400, 213), uneven_use(213)
    check(logit_table(z), z, Storing(rule, 0.8, 1.0, m), width=3)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=8), st.integers(1, 6))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_top_is_a_stable_sort_cut_off(rows: list, width: int):
    keys = np.array(rows, np.float32)
    np.testing.assert_array_equal(top(keys, width), by_hand.best_probes(keys, width))


def test_rules_of_other_mean_memberships_are_not_shared():
    """Two numbers of copies may have m of their own at one storing_t: fitted on different learn vectors, say."""
    even, uneven = np.full(3, 1 / 3), np.array([0.8, 0.1, 0.1])
    plans = make_plans(["benefit"], [Terms(0.5, 1.0, even), Terms(0.8, 1.0, even.copy()), Terms(0.8, 1.0, uneven)])
    assert plans[0].rule is plans[1].rule
    assert plans[0].rule is not plans[2].rule


def test_keys_in_another_dtype_are_refused(logit_table: Table):
    """A budget is spent by the bits of float32 keys."""

    class Wide(NamedTuple):
        def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((len(tile.z), width), np.int32), np.zeros((len(tile.z), width))

    with pytest.raises(AssertionError, match="float64"):
        place(logit_table(np.zeros((5, 4))), [Plan("wide", 0.8, Wide())], 3)
