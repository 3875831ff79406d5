"""What neighbours have in common, against sets in plain Python, and whether strangers are told by it."""

import numpy as np
import pytest

from ivfast.data.vectors import Points, space_of
from ivfast.runtime.progress import silent
from ivfast.start.kinship import in_common, kinship, strangers_apart
from ivfast.start.neighbors import find_neighbors
from tests.conftest import points_of


def in_their_space(rows: np.ndarray) -> Points:
    return Points(points_of(rows.astype(np.float32)).vectors, space_of(rows, "L2"))


def counts_by_hand(near: dict[int, list[int]], known: dict[int, list[int]], ftopk: int) -> list[list[int]]:
    return [
        [1 + len({row, *own[:20]} & set(known.get(other, [])[:20])) for other in own[:ftopk]]
        for row, own in near.items()
    ]


@pytest.mark.parametrize("ftopk", [1, 4, 30])
def test_common_nearest_are_counted_each_vector_among_its_own(ftopk: int):
    rows = np.random.default_rng(6).standard_normal((600, 64)).astype(np.float32)
    rows[100:140] = rows[0]
    found = find_neighbors(in_their_space(rows), ftopk, 1, silent())
    train = dict(zip(found.train.tolist(), found.train_nearest.tolist(), strict=True))
    own = found.train, found.train_nearest
    held_out = dict(zip(found.held_out.tolist(), found.answers.tolist(), strict=True))
    counts = in_common(found.train, found.train_nearest, ftopk, own, compared=101 * ftopk)
    assert counts.tolist() == counts_by_hand(train, train, ftopk)
    both = own, (found.held_out, found.answers)
    counts = in_common(found.held_out, found.answers, 10, *both, compared=1010)
    assert counts.tolist() == counts_by_hand(held_out, train | held_out, 10)
    assert len(np.unique(counts)) > 2


def test_of_unknown_nearest_none_are_in_common():
    near = np.array([[1, 2], [0, 2], [0, 1]])
    found = in_common(np.array([7, 8, 9]), np.array([[0, 1], [8, 0], [5, 6]]), 2, (np.arange(3), near))
    assert found.tolist() == [[2, 2], [1, 1], [1, 1]]


def test_kinship_is_the_square_up_to_five_or_one():
    counts = np.array([[1, 2, 3], [5, 6, 22]], np.uint8)
    assert kinship(counts, apart=True).tolist() == [[1, 4, 9], [25, 25, 25]]
    assert kinship(counts, apart=False).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(("shares", "apart"), [
    ([10, 20, 30, 20, 10, 10], False),  # one heap
    ([30, 20, 10, 20, 20], True),  # a valley half as high as the lower heap
    ([30, 20, 15, 15, 20], True),  # or three quarters
    ([30, 20, 17, 17, 16], False),  # too shallow
    ([60, 30, 1, 4, 5], False),  # kin are too few
    ([4, 5, 1, 30, 60], False),  # strangers are too few
    ([0, 0, 0, 50, 0, 50], True),
    ([0, 0, 0, 100], False),  # all alike
])  # fmt: skip
def test_strangers_stand_apart_where_counts_fall_into_two_heaps(shares: list[int], apart: bool):
    counts = np.repeat(np.arange(1, len(shares) + 1), shares).astype(np.uint8)
    assert strangers_apart(counts[:, None]) is apart


@pytest.mark.parametrize(("images", "noise", "apart"), [(10, 1.0, True), (1, 1.0, False)])
def test_strangers_are_less_kin(images: int, noise: float, apart: bool):
    """Ten of each kind, so noisy that a third of the nearest are of another; or all of a kind of their own."""
    rng = np.random.default_rng(3)
    rows = np.repeat(rng.standard_normal((2000 // images, 64)), images, axis=0) + rng.normal(0, noise, (2000, 64))
    found = find_neighbors(in_their_space(rows), 10, 1, silent())
    assert found.strangers_apart is apart
    assert (found.answers_kinship > 1).any() == apart
    kin = found.train_neighbors // 10 == found.train[:, None] // 10
    if apart:
        assert 0.3 < kin.mean() < 0.8
        assert found.train_kinship[kin].sum() / found.train_kinship.sum() > kin.mean() + 0.1
