"""Logits against the formula of docs/formats.md in float64 loops; bits that never depend on blocks."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.vectors import Points
from ivfast.route.distances import center_logits, log_softmax, mean_nearest, squared_distances
from ivfast.route.routers import ROUTERS, TILE, Router, centers_router, net_router, tile_logits, trained_routers
from ivfast.route.tiles import LogitTiles
from ivfast.store.rules import RULES
from tests import by_hand
from tests.conftest import points_of

METRICS = ("IP", "L2")


def make(metric: str, n: int, nlist: int, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + nlist)
    x, centers = rng.standard_normal((n, dim)), rng.standard_normal((nlist, dim))
    if metric == "IP":
        x, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centers))
    return x.astype(np.float32), centers.astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nlist", [1, 2, 3, 4, 5, 17, 300])
def test_logits_follow_the_formula(metric: str, nlist: int):
    x, centers = make(metric, 40, nlist)
    z = tile_logits(centers_router("centers", centers, metric, 1e-9, 12.0), x)
    assert z.dtype == np.float32
    # unit rows are of unit norm to float32 rounding alone, so their d^2 is right to about 1e-6
    np.testing.assert_allclose(z, by_hand.logits(x, centers, 12.0, 1e-9), rtol=1e-5, atol=1e-5)


def test_beside_centers_that_coincide_with_a_row_others_have_no_chance():
    centers = np.repeat([[0, 0], [4, 0]], [4, 1], axis=0).astype(np.float32)
    z = center_logits(np.zeros((1, 2), np.float32), centers, "L2", 1e-40)
    assert z.tolist() == [[0, 0, 0, 0, -np.inf]]


@pytest.mark.parametrize("metric", METRICS)
def test_float64_stays_float64(metric: str):
    x, centers = (rows.astype(np.float64) for rows in make("L2", 30, 7))
    if metric == "IP":
        x, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centers))
    z = center_logits(x, centers, metric, 1e-9)
    assert z.dtype == np.float64
    np.testing.assert_allclose(z, by_hand.logits(x, centers, 1.0, 1e-9), rtol=1e-10)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_never_negative(metric: str):
    x, _ = make(metric, 300, 1, dim=96)
    assert squared_distances(x, x, metric).min() >= 0


def test_delta_is_at_least_its_floor():
    x = np.array([[0, 0], [3, 4]], np.float32)
    centers = np.zeros((5, 2), np.float32)
    z = center_logits(x, centers, "L2", 50.0)
    np.testing.assert_allclose(z, [[0] * 5, [-0.5] * 5])  # 0 / 50, 25 / 50


def test_mean_nearest_takes_the_four_smallest():
    d2 = np.array([[9, 1, 5, 2, 100, 4], [0, 0, 0, 8, 8, 8]], np.float64)
    np.testing.assert_array_equal(mean_nearest(d2), [[3.0], [2.0]])
    np.testing.assert_array_equal(mean_nearest(d2[:, :3]), [[5.0], [0.0]])


@pytest.mark.parametrize("nlist", [255, 256, 300, 1000])
def test_mean_nearest_of_many_buckets(nlist: int, rng: np.random.Generator):
    """From 256 buckets on, groups of buckets are passed over."""
    for d2 in (rng.random((50, nlist)), rng.integers(6, size=(50, nlist)).astype(np.float64)):
        np.testing.assert_allclose(mean_nearest(d2), by_hand.delta(d2), rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([1, 1e3]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_log_softmax_sums_to_one_and_does_not_overflow(seed: int, nlist: int, temperature: float, size: float):
    z = size * np.random.default_rng(seed).standard_normal((5, nlist))
    found = log_softmax(z, temperature)
    np.testing.assert_allclose(found, by_hand.log_softmax(z, temperature), atol=1e-9)
    assert log_softmax(z.astype(np.float32), temperature).dtype == np.float32


@pytest.fixture(params=METRICS)
def case(request: pytest.FixtureRequest) -> tuple[Router, Points]:
    """A router of real products, and points that fill two tiles and one row."""
    metric = request.param
    x, centers = make(metric, 2 * TILE + 1, 19, dim=24)
    return centers_router("centers", centers, metric, 1e-9, 12.0), points_of(x, metric)


def joined(tiles: LogitTiles) -> tuple[list[int], np.ndarray]:
    starts, parts = zip(*tiles, strict=True)
    return list(starts), np.concatenate(parts)


@pytest.mark.parametrize("cached_bytes", [0, 1 << 30])
def test_bits_and_tiles_never_depend_on_rows_read(case: tuple[Router, Points], cached_bytes: int):
    router, points = case
    x = points.x(slice(None))
    expected = np.concatenate([tile_logits(router, x[at : at + 1024]) for at in (0, 1024, 2048)])
    for read_rows in (1, 1024, 1500, 2048, 10_000):
        starts, z = joined(LogitTiles(*case, read_rows=read_rows, cached_bytes=cached_bytes))
        assert starts == [0, 1024, 2048]
        assert z.tobytes() == expected.tobytes()


@pytest.mark.parametrize("cached_bytes", [0, 1 << 30])
def test_second_pass_equals_the_first(case: tuple[Router, Points], cached_bytes: int):
    tiles = LogitTiles(*case, cached_bytes=cached_bytes)
    (starts, first), (again, second) = joined(tiles), joined(tiles)
    assert starts == again
    assert first.tobytes() == second.tobytes()


def test_pass_that_broke_off_does_not_spoil_the_next(case: tuple[Router, Points]):
    tiles = LogitTiles(*case)
    broken: Iterator = iter(tiles)
    next(broken)
    expected = joined(LogitTiles(*case))[1].tobytes()
    assert joined(tiles)[1].tobytes() == expected
    assert joined(tiles)[1].tobytes() == expected


def test_every_product_is_of_one_shape(case: tuple[Router, Points]):
    """BLAS rounds differently by shape: short tiles are padded."""
    router, points = case
    shapes = []

    def spy(x: np.ndarray) -> np.ndarray:
        shapes.append(x.shape)
        return router.logits(x)

    tiles = LogitTiles(router._replace(logits=spy), points, read_rows=1)
    assert len(tiles.all()) == 2049
    assert shapes == [(1024, 24)] * 3


def test_chosen_rows_come_in_their_order(case: tuple[Router, Points]):
    router, points = case
    index = np.array([5, 0, 2048, 7, 7])
    found = LogitTiles(router, points, index).all()
    np.testing.assert_allclose(found, LogitTiles(router, points).all()[index], rtol=1e-6)


def test_equal_rows_have_equal_bits_in_every_tile(case: tuple[Router, Points]):
    """At the same place of a tile: OpenBLAS without AVX-512 takes two kernels in turn within one."""
    router, points = case
    row = points.vectors.rows[3:4]
    z = LogitTiles(router, points_of(np.repeat(row, 1500, axis=0), points.metric)).all()
    assert (z[1024:] == z[: 1500 - 1024]).all()
    np.testing.assert_allclose(z, np.broadcast_to(z[0], z.shape), rtol=1e-5)


@pytest.mark.parametrize("cached_bytes", [0, 1 << 30])
@pytest.mark.parametrize("chosen", [False, True])
def test_tiles_know_their_rows(case: tuple[Router, Points], cached_bytes: int, chosen: bool):
    router, points = case
    index = np.random.default_rng(0).integers(len(points), size=1100) if chosen else np.arange(len(points))
    tiles = LogitTiles(router, points, index if chosen else None, cached_bytes=cached_bytes)
    starts, z = joined(tiles)
    for _ in range(2):
        found = list(tiles.tiles())
        assert [tile.start for tile in found] == starts
        assert np.concatenate([tile.z for tile in found]).tobytes() == z.tobytes()
        assert np.concatenate([tile.x for tile in found]).tobytes() == points.x(index).tobytes()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("net", [False, True])
def test_crossing_follows_the_formula(metric: str, net: bool):
    """Of a network too it is that of its own centers, whatever its logits."""
    x, centers = make(metric, 1030, 9)
    x[:3] = centers[:3]
    linear = centers_router("centers", centers, metric, 1e-9, 12.0)
    router = net_router(lambda x: -linear.logits(x), linear) if net else linear
    for tile in LogitTiles(router, points_of(x, metric)).tiles():
        buckets = np.argsort(np.random.default_rng(1).random((len(tile.z), 9)), axis=1)[:, :4]
        assert tile.crossing is not None
        found = tile.crossing(buckets)
        assert found.shape == (len(tile.z), 4, 4)
        k_over_delta = 12 / by_hand.delta(by_hand.distances(tile.x, centers))[:, 0]
        among_all = by_hand.crossings(tile.x, centers, k_over_delta, temperature=0.5)  # 2 T is 1
        expected = [crossing[np.ix_(row, row)] for crossing, row in zip(among_all, buckets, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_where_a_router_has_no_geometry_there_is_no_crossing():
    (tile,) = LogitTiles(Router("table", 3, lambda x: x), points_of(np.zeros((5, 3), np.float32))).tiles()
    assert tile.crossing is None


def test_a_row_of_the_table_says_all_that_sets_routers_apart():
    assert trained_routers(deep=False) == ("centers",)
    assert trained_routers(deep=True) == ("centers", "net")
    for name, kind in ROUTERS.items():
        assert kind.name == name
        assert kind.rules
        assert set(kind.rules) <= RULES.keys()
        assert kind.default_rule in kind.rules
    assert {name: kind.default_rule for name, kind in ROUTERS.items()} == {
        "kmeans": "ratio", "centers": "benefit", "net": "benefit",
    }  # fmt: skip
    assert len({kind.title for kind in ROUTERS.values()} | {kind.color for kind in ROUTERS.values()}) == 6
