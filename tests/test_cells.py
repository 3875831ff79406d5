"""Where learn lies among k-means' buckets, and the line in which near buckets stand near each other."""

import itertools

import numpy as np
import pytest

from ivfast.data.vectors import BLOCK_BYTES
from ivfast.runtime.progress import silent
from ivfast.start.cells import find_cells, place_in_line
from ivfast.start.kmeans import measure_buckets
from tests import by_hand
from tests.conftest import points_of, unit_rows


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_every_vector_has_its_nearest_buckets_however_many_blocks(
    metric: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, centers = unit_rows(rng, 500, 6), unit_rows(rng, 20, 6) * (1 if metric == "IP" else 0.7)
    expected = by_hand.distances(x, centers).argsort(axis=1)[:, :5]
    for block_bytes in (BLOCK_BYTES, 6 * 4 * 7):
        monkeypatch.setattr("ivfast.start.cells.rows_per_block", lambda dim, b=block_bytes: b // (4 * dim))
        found, buckets = find_cells(points_of(x, metric), centers, silent(), near=5)
        assert found.nearest.tolist() == expected.tolist()
        alone = measure_buckets(points_of(x, metric), centers, seed=1)
        np.testing.assert_allclose(buckets.radius, alone.radius, rtol=1e-6)
        np.testing.assert_array_equal(buckets.share, alone.share)
        assert buckets.delta_floor == pytest.approx(alone.delta_floor, rel=1e-6)
        assert (found.nearest.dtype, found.place.dtype) == (np.int32, np.int32)


def test_the_line_holds_every_place_once_and_near_buckets_near_each_other() -> None:
    rng = np.random.default_rng(1)
    groups = np.array(list(itertools.product((-100, 100), (-30, 30), (-9, 9))))
    centers = (np.repeat(groups, 8, axis=0) + rng.standard_normal((64, 3)))[rng.permutation(64)]
    centers = centers.astype(np.float32)
    place = place_in_line(centers)
    assert sorted(place.tolist()) == list(range(64))
    in_line = centers[np.argsort(place)]
    of_group = by_hand.distances(in_line, groups.astype(np.float32)).argmin(axis=1)
    assert (of_group.reshape(8, 8) == of_group[::8, None]).all()  # eight at a time are of one group
    np.testing.assert_array_equal(place, place_in_line(centers))


def test_equal_centers_have_places_of_their_own() -> None:
    assert sorted(place_in_line(np.ones((7, 3), np.float32)).tolist()) == list(range(7))


def test_halves_of_halves_lie_together() -> None:
    at = np.random.default_rng(2).permutation(32)
    place = place_in_line(np.outer(at, [3.0, 4.0]).astype(np.float32))
    for size in (16, 8, 4, 2):
        together = at[np.argsort(place)].reshape(-1, size)
        assert (np.ptp(together, axis=1) == size - 1).all()
