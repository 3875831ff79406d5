"""Every rule of storing against a reference of its own in float64. A new rule takes one row of REFERENCES."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.route.routers import centers_router
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import nearest_of_all
from ivfast.store.demand import Demand, find_probes
from ivfast.store.reverse import reverse_of
from ivfast.store.rules import RULES
from ivfast.store.rules.rule import Terms, log_use
from tests import by_hand
from tests.conftest import points_of

REFERENCES: dict[str, by_hand.Reference] = {
    "ratio": by_hand.ratio,
    "membership": by_hand.membership,
    "benefit": by_hand.benefit,
}

each_rule = pytest.mark.parametrize("name", RULES)


def test_every_rule_has_a_reference() -> None:
    assert REFERENCES.keys() == RULES.keys()


NLIST, WIDTH, K = 12, 4, 5


class Case:
    """Clumped vectors over two tiles, with hubs and duplicates, and centers among them."""

    def __init__(self, metric: str, n: int = 1100, *, twins: bool = True) -> None:
        rng = np.random.default_rng(5)
        x = rng.standard_normal((20, 6))[rng.integers(20, size=n)] + 0.5 * rng.standard_normal((n, 6))
        if twins:
            x[50:60] = x[0]
        centers = rng.standard_normal((NLIST, 6))
        if metric == "IP":
            x, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centers))
        self.x, self.centers = x.astype(np.float32), centers.astype(np.float32)
        self.points = points_of(self.x, metric)
        self.router = centers_router("centers", self.centers, metric, 1e-9, 9.0)
        self.nearest = nearest_of_all(self.points, K, silent())
        self.asking = np.linspace(0.9, 0.2, K).astype(np.float32)
        self.use = np.arange(1.0, NLIST + 1) / np.arange(1.0, NLIST + 1).sum()

    @property
    def tiles(self) -> LogitTiles:
        return LogitTiles(self.router, self.points)

    def demand(self, nprobe: float = 3, stands_for: float = 1.0) -> Demand:
        return Demand(reverse_of(self.nearest, self.asking), find_probes(self.tiles, nprobe), stands_for)

    def terms(self, copies: float, storing_t: float = 1.0, demand: Demand | None = None) -> Terms:
        return Terms(copies, storing_t, self.use, demand)

    def scene(self, copies: float, storing_t: float, width: int = WIDTH, nprobe: int | None = None) -> by_hand.Scene:
        """The same by hand. nprobe: of those who ask; None: nobody is known to"""
        z = self.tiles.all().astype(np.float64)
        # -z_b / |r_b|^2 is k / delta, whatever the bucket
        k_over_delta = -z[:, 0] / by_hand.distances(self.x, self.centers)[:, 0]
        crossing = by_hand.crossings(self.x, self.centers, k_over_delta, storing_t)
        asked = None if nprobe is None else by_hand.asked(z, self.nearest, self.asking, nprobe)
        return by_hand.Scene(z, width, copies, storing_t, self.use, crossing, asked)


@pytest.fixture(scope="module", params=["IP", "L2"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@each_rule
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("copies", "width"), [(0.0, WIDTH), (0.8, WIDTH), (0.0, 1), (2.0, NLIST)])
@pytest.mark.parametrize("storing_t", [1.0, 0.6])
@pytest.mark.parametrize(("recall", "power", "wait"), [(0.9, 1.0, 0.0), (0.99, 0.1, 2.0)])
def test_buckets_are_ranked_and_valued_as_the_reference_says(
    case: Case, name: str, asked: bool, copies: float, width: int, storing_t: float, recall: float, power: float,
    wait: float,
) -> None:  # fmt: skip
    """Each bucket is the best beside those before it; keys are float32's."""
    scene = replace(case.scene(copies, storing_t, width, 3 if asked else None), power=power, wait=wait)
    terms = case.terms(copies, storing_t, case.demand(3) if asked else None)
    rule = RULES[name].make(terms._replace(recall=recall, wait=wait))
    compared = 0
    for tile in case.tiles.tiles():
        buckets, keys = rule.rank(tile, width)
        assert (buckets.dtype, keys.dtype) == (np.int32, np.float32)
        assert buckets.shape == keys.shape == (len(tile.z), min(width, buckets.shape[1]))
        for row in range(0, len(tile.z), 3):
            found = [b for b in buckets[row].tolist() if b >= 0]
            assert len(set(found)) == len(found) >= 1
            for place, b in enumerate(found):
                worth = REFERENCES[name](scene, tile.start + row, found[:place])
                best = max(key for other, key in worth.items() if other not in found[:place])
                assert worth[b] >= best - max(1e-4, 2e-6 * abs(best))
                assert keys[row, place] == pytest.approx(worth[b], abs=1e-4, rel=2e-6)
            assert len(found) == width or not REFERENCES[name](scene, tile.start + row, found).keys() - set(found)
            compared += 1
    assert compared > 360


@each_rule
@given(st.lists(st.lists(st.integers(1, 4), min_size=6, max_size=6), min_size=1, max_size=8), st.integers(1, 6))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_ties_go_to_the_smaller_bucket(
    logit_table: Callable[[np.ndarray], LogitTiles], name: str, rows: list, width: int
) -> None:
    """Logits are few whole numbers and m is even, so that equal keys are equal floats."""
    z, m = -np.array(rows, np.float32), np.full(6, 1 / 8)
    for copies in (0.0, 0.5):
        rule = RULES[name].make(Terms(copies, 1.0, m))
        (tile,) = logit_table(z).tiles()
        for i, row in enumerate(rule.rank(tile, width)[0].tolist()):
            scene = by_hand.Scene(z, width, copies, 1.0, m)
            expected = [b for _, b in by_hand.in_order(REFERENCES[name], scene, i)]
            assert [b for b in row if b >= 0] == expected


@each_rule
@pytest.mark.parametrize("copies", [0.0, 0.8])
def test_the_table_says_what_a_rule_is_made_from(case: Case, name: str, copies: float) -> None:
    """What it is not fitted for, or does not ask, changes nothing; what it says it takes does."""

    def ranked(terms: Terms) -> list[bytes]:
        rule = RULES[name].make(terms)
        return [array.tobytes() for tile in case.tiles.tiles() for array in rule.rank(tile, WIDTH)]

    kind, plain = RULES[name], case.terms(copies)
    assert (ranked(plain) != ranked(plain._replace(demand=case.demand()))) == kind.asks
    assert (ranked(plain) != ranked(plain._replace(storing_t=0.5))) == kind.fitted
    if not kind.fitted:
        assert ranked(Terms(copies)) == ranked(plain)


@pytest.mark.parametrize("copies", [0.0, 0.8])
@pytest.mark.parametrize("size", [60, 5000])
def test_benefit_stores_rows_far_outside_learn_in_the_nearest_bucket_alone(copies: float, size: float) -> None:
    """Their logits are all about equal; what is found of the other rows does not change."""
    case, rows = Case("L2"), [5, 700, 1030]
    x = case.x.copy()
    x[rows] += np.float32(size)
    tiles = LogitTiles(case.router, points_of(x))
    rule, expected = (RULES["benefit"].make(case.terms(copies, 1.0, case.demand())) for _ in range(2))
    for _ in range(2):  # from the points, then from what is known of them
        for tile, before in zip(tiles.tiles(), case.tiles.tiles(), strict=True):
            for found, same in zip(rule.rank(tile, WIDTH), expected.rank(before, WIDTH), strict=True):
                others = np.setdiff1d(np.arange(len(found)), np.array(rows) - tile.start)
                assert found[others].tobytes() == same[others].tobytes()
            here = np.array([row for row in rows if tile.start <= row < tile.start + len(tile.z)])
            buckets = rule.rank(tile, WIDTH)[0][here - tile.start]
            assert (buckets[:, 0] == by_hand.distances(x[here], case.centers).argmin(axis=1)).all()
            assert (buckets[:, 1:] == -1).all()


def test_where_a_router_has_no_geometry_copies_go_by_gain_alone(
    case: Case, logit_table: Callable[[np.ndarray], LogitTiles]
) -> None:
    z = case.tiles.all()
    scene = replace(case.scene(0.8, 1.0), crossing=None)
    rule = RULES["benefit"].make(case.terms(0.8, 1.0, case.demand()))
    (tile, _) = logit_table(z).tiles()
    buckets, keys = rule.rank(tile, WIDTH)
    for i in range(0, 1024, 10):
        expected = by_hand.in_order(REFERENCES["benefit"], scene, i)
        assert buckets[i].tolist() == [b for _, b in expected]
        np.testing.assert_allclose(keys[i], [key for key, _ in expected], atol=1e-4)


def test_mean_membership_is_the_mean_over_all_tiles(logit_table: Callable[[np.ndarray], LogitTiles]) -> None:
    z = -np.square(np.random.default_rng(0).normal(2, 1, (2100, 7))).astype(np.float32)
    found = logit_table(z).use((0.5, 1.0, 3.0))
    assert list(found) == [0.5, 1.0, 3.0]
    for temperature, m in found.items():
        assert m.dtype == np.float64
        expected = by_hand.softmax(z, temperature).mean(axis=0)
        np.testing.assert_allclose(m, expected, rtol=1e-5)  # p is float32
        assert m.sum() == pytest.approx(1, abs=1e-6)


def test_use_of_a_bucket_counts_as_a_billionth_at_least() -> None:
    np.testing.assert_allclose(log_use(np.array([0.0, 1e-12, 1e-3])), np.log([1e-9, 1e-9, 1e-3]), rtol=1e-6)
