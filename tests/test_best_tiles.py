"""The best buckets alone, found on a device, against all logits in float64: where buckets are many."""

from typing import NamedTuple

import numpy as np
import pytest

from ivfast.data.vectors import Points
from ivfast.network.backend import load_ranker
from ivfast.route.routers import Router, centers_router
from ivfast.route.tiles import BEST_BUCKETS, BestTiles, LogitTiles, make_tiles
from ivfast.store.demand import Demand, find_probes
from ivfast.store.place import make_plans, place
from ivfast.store.reverse import reverse_of
from ivfast.store.rules.rule import Terms
from tests import by_hand
from tests.conftest import points_of

NLIST, DIM, K = 2100, 12, 9.0
TEMPERATURES = (0.5, 1.0, 4.0)


class Case(NamedTuple):
    """Points of 40 clusters, more than one tile of them, and centers near them."""

    points: Points
    router: Router
    z: np.ndarray  # float64, all logits


@pytest.fixture(params=[("IP", "jax"), ("L2", "jax"), ("IP", "torch"), ("L2", "torch")], ids="-".join)
def case(request: pytest.FixtureRequest, rng: np.random.Generator) -> Case:
    metric, backend = request.param
    middle = rng.standard_normal((40, DIM))
    x, centers = (
        (middle[rng.integers(40, size=n)] + 0.4 * rng.standard_normal((n, DIM))).astype(np.float32)
        for n in (1500, NLIST)
    )
    if metric == "IP":
        x, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centers))
    router = centers_router("centers", centers, metric, 1e-9, K, load_ranker(backend, -1))
    points = points_of(x, metric)
    return Case(points, router, by_hand.logits(points.x(slice(None)), centers, K))


def test_few_buckets_keep_all_their_logits(rng: np.random.Generator):
    centers = rng.standard_normal((2000, 4)).astype(np.float32)
    router = centers_router("centers", centers, "L2", 1e-9, K, load_ranker("jax", -1))
    assert router.rank is None
    assert isinstance(make_tiles(router, points_of(centers, "L2")), LogitTiles)


def test_the_best_buckets_their_logits_and_memberships_are_those_of_float64(case: Case):
    log_p = {t: by_hand.log_softmax(case.z, t) for t in TEMPERATURES}
    n = 0
    for tile in BestTiles(case.router, case.points, temperatures=TEMPERATURES).tiles():
        assert tile.buckets is not None
        rows = case.z[tile.start : tile.start + len(tile.z)]
        np.testing.assert_allclose(tile.z, -np.sort(-rows, axis=1)[:, :BEST_BUCKETS], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(tile.z, np.take_along_axis(rows, tile.buckets, axis=1), rtol=1e-4, atol=1e-4)
        for t in TEMPERATURES:
            expected = np.take_along_axis(log_p[t][tile.start : tile.start + len(tile.z)], tile.buckets, axis=1)
            np.testing.assert_allclose(tile.log_p(t), expected, rtol=2e-4, atol=2e-4)
        n += len(tile.z)
    assert n == len(case.z)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_mean_membership_counts_the_rows_that_are_asked_for(case: Case, rng: np.random.Generator, share: float):
    counted = None if share == 1 else rng.random(len(case.z)) < share
    found = BestTiles(case.router, case.points, temperatures=TEMPERATURES, counted=counted).use(TEMPERATURES, counted)
    rows = case.z if counted is None else case.z[counted]
    for t in TEMPERATURES:
        expected = by_hand.softmax(rows, t).mean(axis=0)
        np.testing.assert_allclose(found[t], expected, rtol=1e-3, atol=1e-7)
        assert found[t].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("read_rows", "cached_bytes"), [(1, 0), (16384, 1 << 30)])
def test_bits_do_not_depend_on_blocks_or_on_what_is_kept(case: Case, read_rows: int, cached_bytes: int):
    whole = BestTiles(case.router, case.points, temperatures=(1.0,))
    parts = BestTiles(case.router, case.points, None, (1.0,), None, read_rows, cached_bytes)
    for again in range(2):
        for one, other in zip(whole.tiles(), parts.tiles(), strict=True):
            assert one.z.tobytes() == other.z.tobytes(), again
            assert one.log_p(1.0).tobytes() == other.log_p(1.0).tobytes(), again
    assert whole.use((1.0,))[1.0].tobytes() == parts.use((1.0,))[1.0].tobytes()


def test_a_base_is_stored_as_by_all_logits(case: Case):
    """Benefit with copies, with askers and crossing; rounding alone may move a vector."""
    near = np.argsort(by_hand.distances_of_others(case.points.x(slice(None))), axis=1)[:, :3]
    reverse = reverse_of(near, np.array([0.9, 0.5, 0.2], np.float32))
    all_logits = case.router._replace(rank=None)
    m = by_hand.softmax(case.z).mean(axis=0)
    stored = []
    for router in (case.router, all_logits):
        tiles = make_tiles(router, case.points, temperatures=(1.0,))
        terms = [Terms(copies, 1.0, m, Demand(reverse, find_probes(tiles, 3))) for copies in (0.0, 0.8)]
        stored.append(place(tiles, make_plans(["ratio", "membership", "benefit"], terms), 5))
    for best, whole in zip(*stored, strict=True):
        assert best.entries == whole.entries
        same = (np.sort(best.buckets, axis=1) == np.sort(whole.buckets, axis=1)).all(axis=1)
        assert same.mean() > 0.98


def test_probes_are_not_changed_by_being_asked_for_twice(case: Case):
    tiles = make_tiles(case.router, case.points)
    first, second = find_probes(tiles, 3), find_probes(tiles, 3)
    np.testing.assert_array_equal(first.above, second.above)


def test_rules_may_ask_for_more_buckets_than_are_mostly_known(case: Case):
    """With --ftopk 40, say."""
    tiles = make_tiles(case.router, case.points, temperatures=(1.0,), width=40)
    m = by_hand.softmax(case.z).mean(axis=0)
    (found,) = place(tiles, make_plans(["membership"], [Terms(30.0, 1.0, m)]), 40)
    assert found.entries == 31 * len(case.z)
    buckets = np.where(found.buckets >= 0, found.buckets, NLIST + np.arange(40))
    assert (np.diff(np.sort(buckets, axis=1), axis=1) > 0).all()  # nowhere twice
