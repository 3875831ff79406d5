"""A log of queries: parted, drawn from, joined with learn, and who asks by it. Against brute force in float64."""

from collections import Counter

import numpy as np
import pytest

from ivfast.data.vectors import Points
from ivfast.data.with_queries import with_queries
from ivfast.runtime.draws import generator
from ivfast.runtime.progress import silent
from ivfast.start.cells import find_cells
from ivfast.start.logged import (
    DRAWN_FOR_BASE,
    DRAWN_FOR_LEARN,
    Asked,
    apply_map,
    ask,
    ask_like,
    between,
    fit_map,
    part_log,
    split_log,
    with_log,
)
from ivfast.start.neighbors import LearnSet, find_neighbors
from ivfast.train.pairs import PairSource, epoch_pairs
from tests.conftest import points_of

METRICS = ("IP", "L2")
DIM = 6


def rows_of(metric: str, n: int, seed: int, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "IP" else rows).astype(np.float32)


def doubled(metric: str, n: int, seed: int) -> np.ndarray:
    """Of n rows a third stands twice and a few stand four times, in any order."""
    rows = rows_of(metric, n, seed)
    rows[: n // 3] = rows[n // 3 : 2 * (n // 3)]
    rows[:3] = rows[n - 1]
    return rows[np.random.default_rng(seed).permutation(n)]


def far(x: np.ndarray, others: np.ndarray, metric: str) -> np.ndarray:
    """How far each is from each, smaller is nearer, in float64."""
    x, others = x.astype(np.float64), others.astype(np.float64)
    if metric == "IP":
        return -x @ others.T
    return np.square(x[:, None] - others).sum(axis=2)


def nearest_of(x: np.ndarray, others: np.ndarray, metric: str, k: int) -> np.ndarray:
    return np.argsort(far(x, others, metric), axis=1, kind="stable")[:, :k]


# a log is parted, and others are drawn like it


def test_a_log_is_parted_into_all_of_its_queries() -> None:
    for n, n_held in ((100, 50), (200, 100), (401, 100), (2000, 500), (20_000, 4000)):
        trains, held = split_log(n, seed=1)
        assert len(held) == n_held
        assert (np.diff(held) > 0).all()
        assert (np.diff(trains) > 0).all()
        assert np.array_equal(np.sort(np.r_[trains, held]), np.arange(n))
    assert not np.array_equal(split_log(400, 1)[1], split_log(400, 2)[1])


def off_segments(x: np.ndarray, queries: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each of x lies from the nearest of all segments from a query to those near it, and where on it."""
    one, other = np.repeat(queries, near.shape[1], axis=0), queries[near.ravel()]
    along = (other - one).astype(np.float64)
    t = np.einsum("nsd,sd->ns", x[:, None] - one, along) / np.square(along).sum(axis=1)
    gap = np.linalg.norm(x[:, None] - one - np.clip(t, 0, 1)[:, :, None] * along, axis=2)
    at = gap.argmin(axis=1)
    return gap.min(axis=1), t[np.arange(len(x)), at]


@pytest.mark.parametrize("metric", METRICS)
def test_queries_between_lie_on_a_segment_to_one_of_the_five_nearest(metric: str) -> None:
    queries = rows_of(metric, 80, 1)
    drawn = between(queries, 400, metric, np.random.default_rng(2))
    near = nearest_of(queries, queries, metric, 6)[:, 1:]
    gap, at = off_segments(drawn, queries, near)
    assert gap.max() < 1e-6
    assert at.min() < 0.1
    assert at.max() > 0.9
    assert (off_segments(drawn, queries, near[:, :4])[0] > 1e-6).any()  # the fifth is drawn too


def by_lstsq(middles: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The map of least squares with rows that say W should be 0, the offset aside."""
    n, dim = middles.shape
    x, y = middles.astype(np.float64), queries.astype(np.float64)
    ridge = 2.5 * np.mean([np.square(column - column.mean()).sum() for column in x.T])
    left = np.vstack([np.c_[x, np.ones(n)], np.c_[np.sqrt(ridge) * np.eye(dim), np.zeros(dim)]])
    return np.linalg.lstsq(left, np.vstack([y, np.zeros((dim, y.shape[1]))]), rcond=None)[0]


def test_the_map_from_middles_to_queries_is_that_of_least_squares() -> None:
    middles, queries = 3 + rows_of("L2", 70, 3), rows_of("L2", 70, 4) - 2
    weights = fit_map(middles, queries)
    np.testing.assert_allclose(weights, by_lstsq(middles, queries), atol=1e-6)
    expected = [[sum(m[i] * weights[i, j] for i in range(DIM)) + weights[DIM, j] for j in range(DIM)] for m in middles]
    np.testing.assert_allclose(apply_map(weights, middles), expected, atol=1e-9)
    same = np.repeat(middles[:1], 70, axis=0)  # nothing to learn a map from: the mean query
    np.testing.assert_allclose(apply_map(fit_map(same, queries), same), [queries.mean(axis=0)] * 70, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_ask_for_the_nearest_among_some(metric: str) -> None:
    rows, queries = rows_of(metric, 300, 5), rows_of(metric, 40, 6)
    among = np.arange(7, 300, 3)
    asked = ask(queries, points_of(rows, metric), among, 9, silent())
    assert asked.nearest.dtype == np.int32
    np.testing.assert_array_equal(asked.nearest, among[nearest_of(queries, rows[among], metric, 9)])
    assert np.array_equal(asked.queries, queries)


@pytest.mark.parametrize("metric", METRICS)
def test_drawn_queries_stand_behind_logged_ones(metric: str) -> None:
    rows, queries = rows_of(metric, 300, 7), rows_of(metric, 40, 8)
    points, among = points_of(rows, metric), np.arange(1, 300, 2)
    logged = ask(queries, points, among, 5, silent())
    found = ask_like(logged, points, among, 1, DRAWN_FOR_LEARN, silent())
    assert len(found.queries) == len(found.nearest) == len(among) == 150
    assert found.queries.dtype == np.float32
    assert np.array_equal(found.queries[:40], queries)
    np.testing.assert_array_equal(found.nearest, among[nearest_of(found.queries, rows[among], metric, 5)])
    again = ask_like(logged, points, among, 1, DRAWN_FOR_LEARN, silent())
    assert [part.tobytes() for part in again] == [part.tobytes() for part in found]
    for other in (ask_like(logged, points, among, 1, DRAWN_FOR_BASE, silent()),
                  ask_like(logged, points, among, 2, DRAWN_FOR_LEARN, silent())):  # fmt: skip
        same = (other.queries[40:, None] == found.queries[40:]).all(axis=2)
        assert same.sum() < 3  # some vector and the remains of some query may be drawn twice
    if metric == "IP":
        np.testing.assert_allclose(np.linalg.norm(found.queries, axis=1), 1, atol=1e-6)
    few = ask_like(logged, points, among[:30], 1, DRAWN_FOR_LEARN, silent())
    assert few is logged  # more of them than are stored


@pytest.mark.parametrize("metric", METRICS)
def test_half_of_the_drawn_lie_between_and_half_beside_what_is_stored(metric: str) -> None:
    """Beside: the map of the middle around some stored vector, and what remains of some logged query."""
    rows, queries = rows_of(metric, 120, 9), rows_of(metric, 20, 10)
    points, among = points_of(rows, metric), np.arange(0, 120, 2)
    drawn = ask_like(ask(queries, points, among, 5, silent()), points, among, 1, 5, silent()).queries[20:]
    assert len(drawn) == 40

    def middles(near: np.ndarray) -> np.ndarray:
        middle = rows[among[near[:, :3]]].astype(np.float64).mean(axis=1)
        return middle / np.linalg.norm(middle, axis=1, keepdims=True) if metric == "IP" else middle

    of_queries = middles(nearest_of(queries, rows[among], metric, 3))
    weights = by_lstsq(of_queries, queries)
    remains = queries - np.c_[of_queries, np.ones(20)] @ weights
    around = np.c_[middles(nearest_of(rows[among], rows[among], metric, 3)), np.ones(60)] @ weights
    all_beside = (around[:, None] + remains).reshape(-1, DIM)
    on_segments = between(queries, 4000, metric, np.random.default_rng(0))
    if metric == "IP":
        all_beside /= np.linalg.norm(all_beside, axis=1, keepdims=True)
        on_segments /= np.linalg.norm(on_segments, axis=1, keepdims=True)
    is_beside = np.sqrt(np.square(drawn[:, None] - all_beside).sum(axis=2)).min(axis=1) < 1e-5
    assert is_beside.tolist() == [False] * 20 + [True] * 20
    assert np.sqrt(np.square(drawn[:20, None] - on_segments).sum(axis=2)).min(axis=1).max() < 0.1


# queries behind points


@pytest.mark.parametrize("metric", METRICS)
def test_queries_have_numbers_behind_the_points(metric: str) -> None:
    rows, queries = rows_of(metric, 30, 1), rows_of(metric, 11, 2)
    points = points_of(rows, metric)
    both, all_of_them = with_queries(points, queries), np.concatenate([points.x(slice(None)), queries])
    assert len(both) == 30
    for numbers in (np.arange(41)[::-1], np.array([3, 35, 3, 30, 29, 40]), np.arange(5), np.arange(30, 41)):
        np.testing.assert_array_equal(both.x(numbers), all_of_them[numbers])
    np.testing.assert_array_equal(both.x(slice(None)), all_of_them[:30])
    np.testing.assert_array_equal(both.x(slice(25, 50)), all_of_them[25:30])
    some = both.only(np.array([4, 2]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.x(slice(None)), all_of_them[[4, 2]])
    assert type(some) is Points


# queries train beside learn


def joined(metric: str, rows: np.ndarray, queries: np.ndarray) -> tuple[LearnSet, Asked, Asked, LearnSet]:
    points = points_of(rows, metric)
    learn = LearnSet(points, find_neighbors(points, 7, 1, silent()))
    training, held_out = part_log(queries, learn, 1, silent())
    return learn, training, held_out, with_log(learn, training, held_out)


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_queries_train_and_are_held_out_behind_learn(metric: str, twins: bool) -> None:
    rows = doubled(metric, 600, 3) if twins else rows_of(metric, 600, 3)
    queries = rows_of(metric, 120, 4)
    learn, _, held_out, both = joined(metric, rows, queries)
    old, new = learn.neighbors, both.neighbors
    _, first = np.unique(rows, axis=0, return_index=True)  # by lines, the first row that holds each
    first = np.sort(first)
    n_training = len(first)  # 60 logged ones, and drawn ones
    assert len(held_out.queries) == 60
    assert both.n_pairs == learn.n_pairs == len(old.train)
    np.testing.assert_array_equal(new.train, np.r_[old.train, 600 + np.arange(n_training)])
    np.testing.assert_array_equal(new.held_out, 600 + n_training + np.arange(60))
    near = first[nearest_of(both.points.x(np.r_[new.train, new.held_out]), rows[first], metric, 20)]
    np.testing.assert_array_equal(new.train_nearest[len(old.train) :], near[len(old.train) : -60])
    np.testing.assert_array_equal(new.train_nearest[: len(old.train)], old.train_nearest)
    np.testing.assert_array_equal(new.answers, near[-60:, :10])
    np.testing.assert_array_equal(
        np.sort(queries[split_log(120, 1)[1]], axis=0), np.sort(both.points.x(new.held_out), 0)
    )
    assert (new.train_kinship[len(old.train) :] == 1).all()
    assert (new.answers_kinship == 1).all()
    if twins:
        np.testing.assert_array_equal(new.first, np.r_[old.first, 600 + np.arange(n_training + 60)])
    else:
        assert len(new.first) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_half_of_all_pairs_are_a_query_s(metric: str) -> None:
    learn, training, _, both = joined(metric, rows_of(metric, 900, 5), rows_of(metric, 150, 6))
    n, n_logged = learn.n_pairs, len(training.queries)
    source = PairSource(both, 50, 0.0, 1)
    for epoch in (1, 2):
        left, right = epoch_pairs(source, epoch)
        assert len(left) == len(right) == n
        logged = left >= 900
        assert logged.sum() == round(n / 2)
        assert abs(logged[: n // 2].mean() - 0.5) < 0.1  # mixed
        times = Counter(dict.fromkeys(range(900, 900 + n_logged), 0))
        times.update(left[logged].tolist())
        assert len(times) == n_logged
        assert max(times.values()) - min(times.values()) <= 1
        assert max(Counter(left[~logged].tolist()).values()) == 1
        near = dict(zip(both.neighbors.train.tolist(), both.neighbors.train_nearest[:, :7].tolist(), strict=True))
        assert all(b in near[a] for a, b in zip(left.tolist(), right.tolist(), strict=True))
    few = with_log(learn, Asked(training.queries[:13], training.nearest[:13]), Asked(*(x[:5] for x in training)))
    left, _ = epoch_pairs(PairSource(few, 50, 0.0, 1), 1)
    times = np.bincount(left[left >= 900] - 900, minlength=13)
    assert len(times) == 13
    assert times.sum() == round(n / 2)
    assert times.max() - times.min() == 1


def test_without_a_log_pairs_are_those_of_before() -> None:
    learn = joined("L2", rows_of("L2", 300, 5), rows_of("L2", 100, 6))[0]
    neighbors = learn.neighbors
    counts = np.random.default_rng(0).integers(1, 5, neighbors.train_kinship.shape).astype(np.uint8)
    learn = learn._replace(neighbors=neighbors._replace(train_kinship=counts))
    left, right = epoch_pairs(PairSource(learn, 50, 0.0, 9), 3)
    order = generator(9, 3, "order").permutation(len(neighbors.train))
    tickets = generator(9, 3, "pair").integers(counts.sum(axis=1, dtype=np.int64))
    for a, b, i in zip(left, right, order, strict=True):
        column = np.repeat(np.arange(counts.shape[1]), counts[i])[tickets[i]]
        assert (a, b) == (neighbors.train[i], neighbors.train_nearest[i, column])


@pytest.mark.parametrize("metric", METRICS)
def test_cells_of_queries_are_those_of_all_points_at_once(metric: str) -> None:
    rows, queries, centers = rows_of(metric, 200, 1), rows_of(metric, 50, 2), rows_of(metric, 40, 3)
    found = find_cells(points_of(rows, metric), centers, silent())[0].with_queries(queries, centers, metric)
    expected = find_cells(points_of(np.concatenate([rows, queries]), metric), centers, silent())[0]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
