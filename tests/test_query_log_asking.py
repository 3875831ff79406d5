"""Who asks for what is stored where a log of queries tells of it, against loops; and how other kinds are told."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ivfast.data.criticism import criticise
from ivfast.data.mapped import map_points
from ivfast.data.twins import distinct_rows
from ivfast.data.vectors import Vectors
from ivfast.data.with_queries import WithQueries
from ivfast.route.routers import centers_router
from ivfast.route.tiles import make_tiles
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.start.descent import Means
from ivfast.start.logged import Asked
from ivfast.store.dcnet_file import load_model, save_model
from ivfast.store.demand import demand_of_base, find_probes
from ivfast.store.reverse import AskingLog, ReverseNeighbors, reverse_of, reverse_of_base
from ivfast.train.follow import _opened, prepared
from ivfast.train.pairs import PairSource
from tests.conftest import points_of
from tests.test_export import make_model
from tests.test_query_log import METRICS, doubled, far, joined, nearest_of, rows_of

WEIGHTS = np.array([0.9, 0.7, 0.4, 0.3, 0.1], np.float32)


def weights_of(reverse: ReverseNeighbors, vector: int) -> dict[tuple[int, int], float]:
    """By asker and place, how much it counts."""
    pairs = range(reverse.first[vector], reverse.first[vector + 1])
    share = np.ones(len(reverse.asker)) if reverse.share is None else reverse.share
    found = {
        (int(reverse.asker[i]), int(reverse.place[i])): float(reverse.weights[reverse.place[i]] * share[i])
        for i in pairs
    }
    assert len(found) == len(pairs)
    return found


@pytest.mark.parametrize(("m", "each"), [(20, 2.5), (40, 1.25), (60, 1.0)])
@pytest.mark.parametrize("silent_ones", [None, [3, 7]])
def test_queries_ask_beside_stored_vectors(m: int, each: float, silent_ones: list[int] | None) -> None:
    """Each counts so that all together count as the 50 that are stored, and as one at least."""
    rng = np.random.default_rng(1)
    nearest = np.array([rng.permutation(np.delete(np.arange(50), i))[:4] for i in range(50)])
    logged = Asked(rows_of("L2", m, 2), np.array([rng.permutation(50)[:6] for _ in range(m)], np.int32))
    quiet = None if silent_ones is None else np.array(silent_ones)
    reverse = reverse_of(nearest, WEIGHTS, quiet, logged=logged)
    expected: list[dict[tuple[int, int], float]] = [{(i, 0): 1.0} for i in range(50)]
    for i in range(50):
        for place in range(4):
            if i not in (silent_ones or []):
                expected[nearest[i, place]][i, place + 1] = float(WEIGHTS[place])
    for i in range(m):
        for place in range(4):  # of six: stored ones ask for four
            expected[logged.nearest[i, place]][50 + i, place + 1] = each * float(WEIGHTS[place])
    for i in range(50):
        assert weights_of(reverse, i) == pytest.approx(expected[i])
    assert reverse.queries is logged.queries
    plain = reverse_of(nearest, WEIGHTS, quiet)
    assert plain.queries is None
    assert plain.share is None


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_each_row_is_asked_for_as_its_place_says(metric: str, twins: bool, tmp_path: Path) -> None:
    """Over all rows, one by one: of twins each has the mean of what is asked of all of them."""
    rows, queries = doubled(metric, 90, 3) if twins else rows_of(metric, 90, 3), rows_of(metric, 100, 4)
    reverse = reverse_of_base(Means(tmp_path), points_of(rows, metric), WEIGHTS, silent(), AskingLog(queries, 1))
    assert reverse.queries is not None
    np.testing.assert_array_equal(reverse.queries[:100], queries)
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    of = [int(np.flatnonzero((rows[first] == row).all(axis=1))[0]) for row in rows]
    expected: list[dict[int, float]] = [defaultdict(float) for _ in first]
    d_rows, d_queries = far(rows, rows, metric), far(reverse.queries, rows, metric)

    def ask(asker: int, order: np.ndarray, times: float) -> None:
        for place, row in enumerate(order[:5]):
            expected[of[row]][asker] += times * WEIGHTS[place] / of.count(of[row])

    for i in range(90):
        d_rows[i, [of[j] == of[i] for j in range(90)]] = -np.inf  # its own twins first
        order = np.argsort(d_rows[i], kind="stable")
        ask(int(first[of[i]]), order[order != i], 1)
    for i in range(len(reverse.queries)):
        ask(90 + i, np.argsort(d_queries[i], kind="stable"), max(1, len(first) / len(reverse.queries)))
    for vector, asked in enumerate(expected):
        found: dict[int, float] = defaultdict(float)
        for (asker, place), weight in weights_of(reverse, vector).items():
            if place:
                found[asker] += weight
        assert found == pytest.approx(asked)


def test_of_few_different_vectors_queries_ask_for_as_many_rows(tmp_path: Path) -> None:
    """Four vectors in 40 rows: each query's five nearest rows are all twins of one."""
    base = points_of(np.repeat(rows_of("L2", 4, 1), 10, axis=0))
    reverse = reverse_of_base(Means(tmp_path), base, WEIGHTS, silent(), AskingLog(rows_of("L2", 100, 2), 1))
    assert reverse.queries is not None
    asked = np.bincount(nearest_of(reverse.queries, base.x(slice(None)), "L2", 1)[:, 0] // 10, minlength=4)
    for vector in range(4):
        found = weights_of(reverse, vector)
        weight = sum(weight for (asker, _), weight in found.items() if asker >= 40)
        assert weight == pytest.approx(asked[vector] * WEIGHTS.sum() / 10)


@pytest.mark.parametrize("nlist", [24, 64])
@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_queries_look_where_stored_vectors_of_their_place_would(
    metric: str, twins: bool, nlist: int, tmp_path: Path
) -> None:
    """As over one array that holds both, in which each different vector stands once."""
    rows, queries = doubled(metric, 2000, 5) if twins else rows_of(metric, 2000, 5), rows_of(metric, 1100, 6)
    router = centers_router("centers", rows_of(metric, nlist, 7), metric, 1e-3, 5.0)
    points = points_of(rows, metric)
    reverse = reverse_of_base(Means(tmp_path), points, WEIGHTS, silent(), AskingLog(queries, 1))
    demand = demand_of_base(make_tiles(router, points), reverse, 3)
    distinct = distinct_rows(points.vectors)
    assert (len(distinct.rows) < 2000) == twins
    assert reverse.queries is not None
    once = np.concatenate([rows[distinct.rows], reverse.queries])
    expected = find_probes(make_tiles(router, points_of(once, metric)), 3)
    numbers = np.r_[distinct.of, len(distinct.rows) + np.arange(len(reverse.queries))]
    assert len(numbers) == len(demand.probes.buckets)
    np.testing.assert_array_equal(demand.probes.buckets, expected.buckets[numbers])
    np.testing.assert_allclose(demand.probes.above, expected.above[numbers], atol=1e-4)
    np.testing.assert_allclose(demand.probes.log_use, expected.log_use, rtol=1e-5)
    np.testing.assert_allclose(demand.probes.cost, expected.cost, rtol=1e-4)


# the file of a model


def test_a_log_is_kept_to_the_bit(tmp_path: Path) -> None:
    centers, path = tmp_path / "ivfast.npy", tmp_path / "dcnet.safetensors"
    model = make_model()
    np.save(centers, np.ones((5, 4), np.float32))
    log = rows_of("L2", 130, 1, dim=model.param_list[0])
    save_model(path, model._replace(log=log), centers)
    found = load_model(path, centers)
    assert found is not None
    assert found.log is not None
    assert found.log.tobytes() == log.tobytes()
    assert found.log.shape == log.shape
    assert found.asking_log is not None
    assert found.asking_log.seed == model.about["settings"]["seed"]
    save_model(path, model, centers)
    found = load_model(path, centers)
    assert found is not None
    assert found.log is None
    assert found.asking_log is None


@pytest.mark.parametrize("shape", [(130, 3), (130, 5), (520,), (13, 10, 4), (), (0, 4)])
def test_a_log_of_another_shape_is_refused_in_one_line(shape: tuple[int, ...], tmp_path: Path) -> None:
    centers, path = tmp_path / "ivfast.npy", tmp_path / "dcnet.safetensors"
    np.save(centers, np.ones((5, 4), np.float32))
    save_model(path, make_model()._replace(log=np.ones(shape, np.float32)), centers)
    with pytest.raises(UserError, match=r"log has shape .*, expected \(\d+, 4\)") as told:
        load_model(path, centers)
    assert "\n" not in str(told.value)


# queries of another kind


@pytest.mark.parametrize("moved", [0.0, 0.5, 3.0])
def test_farther_than_base_is_the_u_of_mann_and_whitney(moved: float) -> None:
    rng = np.random.default_rng(1)
    base, query = np.round(2 * rng.standard_normal((2, 400, 8))).astype(np.float32) / 2  # so that distances tie
    query = query[:150] + np.float32(moved) * np.eye(8, dtype=np.float32)[0]
    query[:30] = base[7:37]  # at 0 from base
    stored, asking = (Vectors(name, Path(f"{name}.npy"), x) for name, x in (("base", base), ("query", query)))
    found = criticise(stored, asking, nearest_of(query, base, "L2", 10))["queries_beside_base"]["farther_than_base"]
    asked = np.linspace(0, 149, 100).astype(int)
    own = np.linspace(0, 399, 100).astype(int)
    to_base = np.sqrt(far(query[asked], base, "L2").min(axis=1))
    others = far(base[own], base, "L2")
    others[others == 0] = np.inf  # itself, and twins
    to_others = np.sqrt(others.min(axis=1))
    u = sum((a > b) + (a == b) / 2 for a in to_base for b in to_others)
    assert found == pytest.approx(u / 100**2, abs=1e-9)
    stats = pytest.importorskip("scipy.stats")
    assert u == stats.mannwhitneyu(to_base, to_others).statistic


# other processes


@pytest.mark.parametrize("metric", METRICS)
def test_other_processes_see_the_same_x(metric: str, tmp_path: Path) -> None:
    _, training, held_out, both = joined(metric, rows_of(metric, 600, 1), rows_of(metric, 120, 2))
    points = map_points(both.points, tmp_path / "cache", silent())
    assert isinstance(points, WithQueries)
    backend: Any = SimpleNamespace(setup=None, state_dict=lambda state: state)
    config: Any = SimpleNamespace(save_path=tmp_path, log_interval=7)
    source = PairSource(both._replace(points=points), 50, 0.0, 1)
    opened = _opened(prepared(backend, "float32", {}, source, config))
    numbers = np.r_[np.arange(600), 600 + np.arange(len(training.queries) + len(held_out.queries))]
    numbers = np.random.default_rng(0).permutation(numbers)
    np.testing.assert_array_equal(opened.x(numbers), both.points.x(numbers))
    assert len(opened) == 600
