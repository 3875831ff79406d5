"""Vectors of base that stand for queries: against plain loops, and what is said of a base that is not like learn."""

from pathlib import Path

import numpy as np
import pytest

from ivfast.choose.held_out import HeldOut
from ivfast.choose.own_queries import STAND_FOR_ALL, stand_ins, told_by_base, without_askers
from ivfast.data.exact import nearest_of
from ivfast.data.twins import distinct_rows
from ivfast.data.vectors import Points, Vectors
from ivfast.evaluate.result import ByBase, Fulfilled, Result
from ivfast.evaluate.trust import in_one_line, off_by
from ivfast.route.routers import Router
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import nearest_of_all
from ivfast.store.demand import demand_of_base
from ivfast.store.records import Facts, Storing
from ivfast.store.reverse import ReverseNeighbors, reverse_of
from tests import by_hand
from tests.conftest import plain_space
from tests.test_report import result

NLIST, WIDTH, N = 12, 4, 2400
WEIGHTS = np.array([0.9, 0.6, 0.4, 0.2, 0.1], np.float32)


def stored(name: str, rows: np.ndarray) -> Points:
    hashed = Vectors(name, Path(f"{name}.npy"), rows, digest=str(hash(rows.tobytes())))
    return Points(hashed, plain_space(rows.shape[1], "L2"))


def draw(n: int, seed: int) -> np.ndarray:
    return (2 * np.random.default_rng(seed).standard_normal((n, NLIST))).astype(np.float32)


@pytest.fixture(scope="module")
def base() -> Points:
    return stored("base", draw(N, 1))


@pytest.fixture(scope="module")
def learn() -> Points:
    return stored("learn", draw(500, 2))


@pytest.fixture(scope="module")
def reverse(base: Points) -> ReverseNeighbors:
    return reverse_of(nearest_of_all(base, len(WEIGHTS), silent()), WEIGHTS)


@pytest.fixture(scope="module")
def asked(base: Points, learn: Points, reverse: ReverseNeighbors) -> HeldOut:
    found = stand_ins(base, learn, reverse, WIDTH, 1, silent())
    assert found is not None
    return found


def facts(base: Points) -> Facts:
    m = by_hand.softmax(base.x(slice(None))).mean(axis=0)
    return Facts(1.0, 1.0, 2.0, tuple(Storing(copies, {}, 1.0, m) for copies in (0.0, 0.8)), 0.0)


ROUTER = Router("table", NLIST, lambda x: x)


def test_what_vectors_of_base_find_and_scan_by_the_nearest_bucket(base: Points, asked: HeldOut) -> None:
    z, rows = base.x(slice(None)), asked.rows
    assert len(rows) == round(0.05 * N)
    assert len(base) < STAND_FOR_ALL
    (told,) = told_by_base(asked, ROUTER, "ratio", facts(base), (0.0,), None)
    bucket = z.argmax(axis=1)
    sizes = np.bincount(bucket, minlength=NLIST)
    d2 = np.square(z[rows][:, None] - z).sum(axis=2)
    d2[np.arange(len(rows)), rows] = np.inf
    right = np.argsort(d2, axis=1)[:, :10]
    for nprobe, recall, scanned in zip(told.nprobe, told.recall, told.scanned, strict=True):
        order = np.argsort(-z[rows], axis=1)[:, :nprobe]
        found = (bucket[right][:, :, None] == order[:, None]).any(axis=2)
        assert recall == pytest.approx(found.mean())
        assert scanned == pytest.approx(sizes[order].sum(axis=1).mean() / N)
    predicted = told.predicted()["0.90"]
    assert told.recall_at(predicted.nprobe)[0] == pytest.approx(0.9)
    assert told.n == len(rows)


def test_those_that_stand_for_queries_ask_for_nobody(base: Points, asked: HeldOut, reverse: ReverseNeighbors) -> None:
    """As where base is stored by the others alone; else their nearest would be copied to where they look."""
    nearest = nearest_of_all(base, len(WEIGHTS), silent())
    tiles, found = LogitTiles(ROUTER, base), []
    for one in (reverse, reverse_of(nearest, WEIGHTS, silent=asked.rows)):
        demand = demand_of_base(tiles, one, 2.0)
        found.append(told_by_base(asked, ROUTER, "benefit", facts(base), (0.0, 0.8), demand))
    for told, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(told.recall, expected.recall)
        np.testing.assert_array_equal(told.scanned, expected.scanned)


@pytest.mark.parametrize("twins", [False, True])
def test_askers_without_those_that_keep_silent(twins: bool) -> None:
    rng = np.random.default_rng(3)
    x = draw(60, 4)
    if twins:
        x[40:] = x[:20]
    distinct = distinct_rows(Vectors("base", Path("base.npy"), x)) if twins else None
    n = 40 if twins else 60
    near = np.array([rng.choice(np.setdiff1d(np.arange(n), [i]), 5, replace=False) for i in range(n)])
    whole = reverse_of(near, WEIGHTS, twins=distinct)
    rows, quiet = np.array([2, 3, 17, 33, 59]), np.array([1, 3, 8, 20])
    few = without_askers(whole, rows, quiet)
    for i, row in enumerate(rows):
        vector = row if distinct is None else distinct.of[row]
        expected = [
            (whole.asker[at], whole.place[at], None if whole.share is None else whole.share[at])
            for at in range(whole.first[vector], whole.first[vector + 1])
            if whole.place[at] == 0 or whole.asker[at] not in quiet
        ]
        here = range(few.first[i], few.first[i + 1])
        assert [(few.asker[j], few.place[j], None if few.share is None else few.share[j]) for j in here] == expected


def test_rows_that_trained_do_not_stand_for_queries(base: Points, reverse: ReverseNeighbors) -> None:
    x = base.x(slice(None))
    some = stored("learn", x[::2][::-1].copy())
    drawn = stand_ins(stored("base", np.concatenate([x, x + 1])), some, None, WIDTH, 1, silent())
    assert drawn is not None
    assert 100 <= len(drawn.rows) < round(0.05 * 2 * N)
    assert ((drawn.rows % 2 == 1) | (drawn.rows >= N)).all()
    for whole in (x, x[::-1].copy()):
        assert stand_ins(base, stored("learn", whole), reverse, WIDTH, 1, silent()) is None


def test_twins_do_not_stand_for_queries(learn: Points) -> None:
    x = draw(N, 6)
    x[N // 2 :] = x[0]
    points = stored("base", x)
    reverse = reverse_of(
        nearest_of_all(points.only(np.arange(N // 2)), len(WEIGHTS), silent()),
        WEIGHTS,
        twins=distinct_rows(points.vectors),
    )
    found = stand_ins(points, learn, reverse, WIDTH, 1, silent())
    assert found is not None
    assert (found.rows > 0).all()
    assert (found.rows < N // 2).all()
    expected = nearest_of(found.rows, points, np.arange(N), 10, "", silent())
    np.testing.assert_array_equal(found.pool[found.answers.at], expected)


def told(found: float, error: float = 0.006, nprobe: float = 4.0) -> list[Result]:
    """Results of a run whose learn foretells an nprobe, at which vectors of base found so much."""
    predicted = {"0.90": Fulfilled(nprobe, 0.05, 0.9, 0.05)}
    one = ByBase(1000, {"0.90": found}, {"0.90": error}, {"0.90": Fulfilled(6.5, 0.06, 0.9, 0.06)})
    return [
        result("kmeans", "ratio", 0.0, 0.06),
        result("centers", "benefit", 0.8, 0.04)._replace(predicted=predicted, by_base=one),
    ]


def test_a_base_unlike_learn_is_warned_of() -> None:
    line = in_one_line(told(0.845), 0.9) or ""
    assert line.startswith("warning: base is not like learn")
    for said in ("nprobe 4.0", "84.5 %", "nprobe 6.5"):
        assert said in line
    assert off_by(told(0.845), 0.9) == pytest.approx(-0.055)
    assert (in_one_line(told(0.95), 0.9) or "").startswith("warning")


@pytest.mark.parametrize(
    ("found", "error", "nprobe"), [(0.889, 0.006, 4.0), (0.91, 0.006, 4.0), (0.86, 0.03, 4.0), (0.99, 0.006, 1.0)]
)
def test_no_warning_where_it_may_be_chance_or_one_bucket_finds_more(found: float, error: float, nprobe: float) -> None:
    line = in_one_line(told(found, error, nprobe), 0.9) or ""
    assert "warning" not in line
    assert f"{100 * found:.1f} %" in line


def test_nothing_is_said_where_nobody_stood_for_queries() -> None:
    results = [r._replace(by_base=None) for r in told(0.9)]
    assert in_one_line(results, 0.9) is None
    assert off_by(results, 0.9) is None
