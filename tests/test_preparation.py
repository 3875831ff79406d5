"""What is measured before the first step, against float64."""

import numpy as np
import pytest

from ivfast.start.kmeans import measure_buckets
from tests import by_hand
from tests.conftest import points_of


def test_floor_is_a_millionth_of_mean_delta(rng: np.random.Generator):
    x, centers = (rng.standard_normal((n, 6)).astype(np.float32) for n in (2500, 9))
    expected = 1e-6 * by_hand.delta(by_hand.distances(x, centers)).mean()
    assert measure_buckets(points_of(x), centers, 1).delta_floor == pytest.approx(expected, rel=1e-6)


def test_a_bucket_of_one_vector_has_a_fiftieth_of_the_usual_radius():
    """However many they are: of six buckets four hold their center alone."""
    centers = 100 * np.arange(6, dtype=np.float32)[:, None]
    x = np.concatenate([centers[:4], centers[4] + [[-2], [2]], centers[5] + [[-4], [4]]]).astype(np.float32)
    radius = measure_buckets(points_of(x), centers, 1).radius
    np.testing.assert_allclose(radius, [3 / 50] * 4 + [2, 4], rtol=1e-6)


def test_floor_is_above_zero_where_all_vectors_are_centers():
    x = np.ones((3, 2), np.float32)
    assert measure_buckets(points_of(x), x, 1).delta_floor > 0
