"""Which vectors ask for which, and how much each counts, against loops in plain Python."""

import numpy as np
import pytest

from ivfast.data.vectors import Points, space_of
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import find_neighbors, make_neighbors
from ivfast.store.reverse import asking_weights, reverse_neighbors
from tests.conftest import points_of


def test_of_many_askers_those_that_have_the_vector_nearest_are_kept():
    stored, asker, place = np.array([1, 0, 1, 1, 1]), np.array([5, 6, 7, 8, 9]), np.array([0, 1, 1, 0, 2])
    found = reverse_neighbors(stored, asker, place, np.array([10, 11, 12]), np.array([0.5, 0.25, 0.125]), most=3)
    assert found.first.tolist() == [0, 2, 6, 7]
    assert found.asker.tolist() == [10, 6, 11, 5, 8, 7, 12]
    assert found.place.tolist() == [0, 2, 0, 1, 1, 2, 0]
    assert found.weights.tolist() == [1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_a_nearest_asks_as_often_as_it_is_an_answer_of_those_nearest_to_the_asker(metric: str):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((20, 6))[rng.integers(20, size=1100)] + 0.5 * rng.standard_normal((1100, 6))
    x[50:60] = x[0]
    if metric == "IP":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    neighbors = find_neighbors(points_of(x.astype(np.float32), metric), 5, 1, silent())
    right, n = np.zeros(20), 0
    for answers in neighbors.answers.tolist():
        nearest = next((row for row in answers if row in neighbors.train), None)
        if nearest is not None:
            near = neighbors.train_nearest[neighbors.train.tolist().index(nearest)].tolist()
            right += [row in answers for row in near]
            n += 1
    np.testing.assert_allclose(asking_weights(neighbors), right / n, rtol=1e-6)
    assert 0.9 > asking_weights(neighbors)[0] > 3 * asking_weights(neighbors)[-1] > 0


def test_identities_ask_up_to_their_number():
    """Four of a kind, one held out: of three that train two are nearest of the third, then come strangers."""
    rows = np.arange(400)
    train = rows[rows % 4 > 0]
    kin = [[r for r in range(row - row % 4, row - row % 4 + 4) if r != row] for row in rows.tolist()]
    near = np.array([[r for r in kin[row] if r % 4] + [(row + 41) // 4 * 4 % 400 + 1] for row in train.tolist()])
    neighbors = make_neighbors(train, near, rows[rows % 4 == 0], np.array([kin[row] for row in range(0, 400, 4)]), 3)
    assert asking_weights(neighbors).tolist() == [1, 1, 0]


@pytest.mark.parametrize("ftopk", [1, 10])
def test_who_asks_is_told_by_ten_answers_whatever_ftopk(ftopk: int):
    """Of one answer alone nobody else could be among the nearest."""
    rows = np.random.default_rng(2).standard_normal((400, 3)).astype(np.float32)
    points = Points(points_of(rows).vectors, space_of(rows, "L2"))
    found = find_neighbors(points, ftopk, 1, silent())
    assert asking_weights(found)[0] > 0.5


def test_where_no_answer_trains_all_askers_count_alike():
    neighbors = make_neighbors(
        np.arange(3), np.array([[1, 2], [0, 2], [0, 1]]), np.array([3, 4]), np.array([[4], [3]]), 1
    )
    assert asking_weights(neighbors).tolist() == [1, 1]
