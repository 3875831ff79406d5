"""Vectors that are stored several times: told by their bytes, learned once, stored together. Against brute force."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pytest

from ivfast.choose.facts import fit_facts
from ivfast.choose.held_out import HeldOut, held_out_demand, make_held_out
from ivfast.data import twins as module
from ivfast.data.centers import n_in_one_place, tell_one_place
from ivfast.data.twins import Distinct, are_among, columns_of_rows, distinct_of, distinct_rows
from ivfast.data.vectors import Points, Vectors, measure_space
from ivfast.front.aside import set_aside
from ivfast.route.routers import ROUTERS, Router, centers_router
from ivfast.route.tiles import make_tiles
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.start.descent import Means
from ivfast.start.kmeans import train_kmeans
from ivfast.start.neighbors import LearnSet, find_neighbors
from ivfast.store.demand import Demand, find_probes
from ivfast.store.place import place
from ivfast.store.records import Facts, router_plans
from ivfast.store.reverse import count_twins, reverse_of_base
from ivfast.train.pairs import PairSource, epoch_pairs
from run_dcnet import main
from tests import by_hand
from tests.conftest import points_of

METRICS = ("IP", "L2")
COPIES = (0.0, 0.8, 1.5)


def vectors_of(rows: np.ndarray, **more: Any) -> Vectors:
    return Vectors("learn", Path("learn.npy"), rows, **more)


def lump(metric: str, seed: int, n: int = 1500, copies: int = 700) -> np.ndarray:
    """Normal rows, of which so many are equal."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 16))
    rows[rng.permutation(n - 1)[: copies - 1] + 1] = rows[0]
    return as_metric(rows, metric)


def doubled(metric: str, seed: int, n: int = 3000) -> np.ndarray:
    """Clumps, every row twice."""
    rng = np.random.default_rng(seed)
    half = 0.9 * rng.standard_normal((60, 16))[rng.integers(60, size=n // 2)] + rng.standard_normal((n // 2, 16))
    return as_metric(np.concatenate([half, half])[rng.permutation(n // 2 * 2)], metric)


def as_metric(rows: np.ndarray, metric: str) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "IP" else rows).astype(np.float32)


# who is equal


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
@pytest.mark.parametrize("sums", ["real", "all alike", "two kinds"])
def test_rows_are_twins_where_they_are_equal_as_float32(
    dtype: type, block_bytes: int, sums: str, monkeypatch: pytest.MonkeyPatch
):
    """Also where checksums of different rows agree, and where -0 meets 0 or float64 loses digits."""
    rng = np.random.default_rng(3)
    rows = rng.integers(-1, 2, (200, 4)).astype(dtype)
    rows[rng.integers(200, size=50)] *= -1  # makes -0
    if dtype is np.float64:
        rows += 1e-12 * rng.standard_normal(rows.shape)
    rows[50:] += rng.standard_normal((150, 4)).astype(dtype) * (rng.random((150, 1)) < 0.5)
    if sums != "real":
        mask = np.uint64(0 if sums == "all alike" else 1)
        real = faiss.checksum
        monkeypatch.setattr(module.faiss, "checksum", lambda block: real(block) & mask)
    found = distinct_rows(vectors_of(rows), block_bytes)
    expected = np.unique(rows.astype(np.float32) + np.float32(0), axis=0, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(found.rows, np.sort(expected[1]))
    np.testing.assert_array_equal(found.rows[found.of], expected[1][expected[2].ravel()])
    np.testing.assert_array_equal(found.counts, np.bincount(found.of))
    assert not found.all_differ


def test_rows_that_are_kept_and_normalised_count():
    rows = np.array([[1, 2], [2, 4], [5, 0], [1, 2], [-1, 0]], np.float32)
    kept = np.array([0, 1, 3, 4])
    assert distinct_rows(vectors_of(rows, rows_kept=kept)).of.tolist() == [0, 1, 0, 2]
    assert distinct_rows(vectors_of(rows, rows_kept=kept, normalize=True)).of.tolist() == [0, 0, 0, 1]
    assert distinct_rows(vectors_of(rows[:3])).all_differ


def test_those_with_no_more_twins_than_most_stand_for_queries():
    assert distinct_of(np.array([0, 1, 2, 0, 4, 4, 4])).rare_rows.tolist() == [1, 2]
    assert distinct_of(np.array([0, 1, 0, 1])).rare_rows.tolist() == [0, 1]
    assert distinct_of(np.arange(5)).rare.tolist() == [0, 1, 2, 3, 4]


def test_columns_are_taken_as_often_as_rows_hold_them():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, (50, 6)) + (np.arange(6) == 5) * 7
    found = columns_of_rows(counts, 7)
    assert found.tolist() == [np.repeat(np.arange(6), line)[:7].tolist() for line in counts]


# who asks for whom


def shared_places(d2: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How much each row asks for each other one: by its place, and equally where several are equally near. (n, n)"""
    asked = np.zeros_like(d2)
    for y, line in enumerate(d2):
        for near in np.unique(line[np.isfinite(line)]):
            before, ties = int((line < near).sum()), np.flatnonzero(line == near)
            asked[y, ties] = weights[before : before + len(ties)].sum() / len(ties)
    return asked


@pytest.mark.parametrize("metric", METRICS)
def test_twins_share_what_askers_ask_for(metric: str, tmp_path: Path):
    """In float64, tie by tie: 40 rows are one vector, 30 more are ten vectors."""
    rng = np.random.default_rng(1)
    rows = as_metric(rng.standard_normal((200, 5)), metric)
    rows[20:60], rows[100:130] = rows[20], np.repeat(rows[100:110], 3, axis=0)
    weights = np.linspace(0.9, 0.1, 20).astype(np.float32)
    vectors = vectors_of(rows, digest="rows")
    reverse = reverse_of_base(Means(tmp_path), Points(vectors, measure_space(vectors, metric)), weights, silent())
    twins = distinct_rows(vectors)
    once = np.round(np.square(rows[:, None] - rows[None].astype(np.float64)).sum(axis=2), 12)
    np.fill_diagonal(once, np.inf)
    expected = np.zeros((200, len(twins.rows)))  # of each row, by the vector that asks
    np.add.at(expected.T, twins.of, shared_places(once, np.r_[weights, np.zeros(200)]))
    assert reverse.twins is not None
    assert reverse.share is not None
    for row in range(200):
        vector = int(reverse.twins.of[row])
        at = slice(int(reverse.first[vector]) + 1, int(reverse.first[vector + 1]))
        assert twins.of[reverse.asker[at.start - 1]] == twins.of[row]
        found = np.zeros(len(twins.rows))
        np.add.at(found, twins.of[reverse.asker[at]], reverse.weights[reverse.place[at]] * reverse.share[at])
        np.testing.assert_allclose(found, expected[row], atol=1e-5)


def test_own_twins_come_first_and_near_vectors_as_often_as_rows_hold_them():
    count = np.array([3, 1, 2, 1])
    nearest = np.array([[2, 1, 3], [2, 0, 3], [1, 0, 3], [1, 2, 0]], np.int32)
    found = count_twins(nearest, np.arange(4), count, 5)
    assert found.tolist() == [[0, 0, 2, 2, 1], [2, 2, 0, 0, 0], [2, 1, 0, 0, 0], [1, 2, 2, 0, 0]]
    assert count_twins(nearest, np.arange(4), count, 20).shape == (4, 6)  # so many others there are


# what comes of it


class Fitted(NamedTuple):
    """k-means on rows, and all that is fitted for it."""

    points: Points
    held: HeldOut
    router: Router
    facts: Facts


def fitted(rows: np.ndarray, metric: str, nlist: int) -> Fitted:
    vectors = vectors_of(rows, digest="rows")
    points = Points(vectors, measure_space(vectors, metric))
    learn = LearnSet(points, find_neighbors(points, 10, 1, silent()))
    held = make_held_out(learn, nlist, 10, 1)
    centers = train_kmeans(points, nlist, 20, 1).centers
    router = centers_router("centers", centers, metric, 1e-6, 5.0)
    return Fitted(points, held, router, fit_facts(held, router, 5.0, COPIES))


def scanned_at_90(fit: Fitted, buckets: np.ndarray, query: np.ndarray) -> float:
    """Share scanned at 90 % of the ten nearest, by plain loops over nprobe. buckets: (n, width), -1 none"""
    rows = fit.points.x(slice(None)).astype(np.float64)
    asked = fit.points.space.inside(query).astype(np.float64)
    answers = np.argsort(
        -(asked @ rows.T) if fit.points.metric == "IP" else by_hand.distances(asked, rows), kind="stable"
    )
    order = np.argsort(-fit.router.logits(asked.astype(np.float32)), axis=1, kind="stable")
    place = np.argsort(order, axis=1)
    held = buckets[answers[:, :10]]
    place_of = np.where(held >= 0, place[np.arange(len(query))[:, None, None], held], fit.router.nlist).min(axis=2)
    sizes = np.bincount(buckets[buckets >= 0], minlength=fit.router.nlist)
    nprobes = np.arange(1, fit.router.nlist + 1)
    recall = np.array([(place_of < nprobe).mean() for nprobe in nprobes])
    scanned = np.cumsum(sizes[order], axis=1).mean(axis=0) / len(rows)
    return float(np.interp(0.9, recall, scanned))


def stored(fit: Fitted, tmp: Path) -> dict[tuple[str, float], np.ndarray]:
    """Buckets under the nearest center and benefit, by rule and number of copies."""
    reverse = reverse_of_base(Means(tmp), fit.points, fit.held.asking, silent())
    tiles = make_tiles(fit.router, fit.points)
    demand = Demand(reverse, find_probes(tiles, fit.facts.nprobe, twins=reverse.twins))
    plans = router_plans(ROUTERS["centers"], fit.facts, COPIES, demand)
    return {(plan.name, plan.copies): one.buckets for plan, one in zip(plans, place(tiles, plans, 10), strict=True)}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("make", "most"), [(lump, 1.01), (doubled, 1.03)])
def test_benefit_scans_no_more_than_the_nearest_center_where_rows_are_equal(
    metric: str, make: Any, most: float, tmp_path: Path
):
    """Each number of copies beside the same number by the nearest centers; and what was predicted comes true.

    T_s is chosen on 160 and 300 held-out vectors: that takes up to 3 % where nearest and benefit are as good.
    """
    shares: dict[tuple[str, float], list[float]] = {}
    predicted = []
    for seed in (1, 2):
        rows = make(metric, seed)
        fit = fitted(rows, metric, 16)
        query = make(metric, seed + 50, copies=1) if make is lump else doubled_queries(metric, seed)
        for plan, buckets in stored(fit, tmp_path / str(seed)).items():
            shares.setdefault(plan, []).append(scanned_at_90(fit, buckets, query))
        predicted.append([fit.facts.storing(copies).predicted["0.90"].scanned for copies in COPIES])  # pyright: ignore
    mean = {plan: float(np.mean(share)) for plan, share in shares.items()}
    for copies in COPIES:
        assert mean["benefit", copies] <= most * mean["ratio", copies]
    np.testing.assert_allclose(np.mean(predicted, axis=0), [mean["benefit", copies] for copies in COPIES], rtol=0.15)


def doubled_queries(metric: str, seed: int) -> np.ndarray:
    """From the clumps of `doubled`, other rows."""
    rng = np.random.default_rng(seed)
    middles = 0.9 * rng.standard_normal((60, 16))
    rng = np.random.default_rng(seed + 50)
    return as_metric(middles[rng.integers(60, size=1500)] + rng.standard_normal((1500, 16)), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_twins_lie_in_the_same_bucket(metric: str, tmp_path: Path):
    rows = doubled(metric, 3, n=1500)
    fit = fitted(rows, metric, 16)
    buckets = stored(fit, tmp_path)["benefit", 0.0][:, 0]
    twins = distinct_rows(fit.points.vectors)
    np.testing.assert_array_equal(buckets, buckets[twins.rows[twins.of]])


def test_held_out_vectors_have_no_twin_and_their_answers_count_twins():
    rows = lump("L2", 4, n=2000, copies=300)
    rows[-40:] = np.repeat(rows[-20:], 2, axis=0)
    fit = fitted(rows, "L2", 16)
    held, neighbors = fit.held, fit.held.learn.neighbors
    twins = distinct_rows(fit.points.vectors)
    assert (twins.counts[twins.of[held.rows]] == 1).all()
    d2 = by_hand.distances_of_others(fit.points.x(slice(None)), held.rows)
    for i in range(0, len(held.rows), 9):
        expected = np.sort(d2[i])[:10]
        np.testing.assert_allclose(d2[i, held.pool[held.answers.at[i]]], expected, rtol=1e-4)
    lumps = (rows[held.pool[held.answers.at]] == rows[0]).all(axis=2).sum(axis=1)
    assert (lumps > 1).any()  # as often as rows hold it
    assert neighbors.answers.shape == (len(held.rows), 10)
    assert held.sampled.sum() == len(twins.rows)  # m is over vectors that differ
    demand = held_out_demand(held, fit.router, 3)
    at = np.flatnonzero((rows[held.pool] == rows[0]).all(axis=1))
    assert demand.reverse.twins is not None
    (vector,) = np.unique(demand.reverse.twins.of[at])
    askers = demand.askers(int(at[0]) // 1024 * 1024, 1024)
    assert askers.twins is not None
    pairs = askers.row == askers.twins[1][at[0] % 1024]
    itself = int(demand.reverse.asker[demand.reverse.first[vector]])
    own = demand.reverse.asker[demand.reverse.first[vector] : demand.reverse.first[vector + 1]] == itself
    # of 300 rows each has all it asks for among its own twins
    np.testing.assert_allclose(askers.weight[pairs][own].sum(), 1 + held.asking.sum(), rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_no_pair_is_of_two_equal_vectors(metric: str):
    rows = lump(metric, 5)
    fit = fitted(rows, metric, 16)
    source = PairSource(fit.held.learn, 256, 0.0, 1)
    one, other = epoch_pairs(source, 3)
    assert (rows[one] != rows[other]).any(axis=1).all()
    assert len(one) == len(np.unique(rows, axis=0)) - len(fit.held.rows)
    x, x_pair = fit.held.pair_points()
    assert (x != x_pair).any(axis=1).all()


# whole runs


@pytest.mark.whole_run
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_run_over_copies_says_so_and_is_never_worse(backend: str, tmp_path: Path):
    rows, query = lump("L2", 1), lump("L2", 60, copies=1)
    (tmp_path / "s").mkdir()
    for name, array in (("learn", rows), ("s/base", rows), ("s/query", query)):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "s" / "gt.npy", np.argsort(by_hand.distances(query, rows), axis=1, kind="stable")[:, :10])
    flags = "--data_name s --learn_name learn --metric L2 --nlist 16 --param_list 16 16 --epochs 2 --warmup 0 --gpu -1"
    out = tmp_path / "out"
    more = ["--percents", "0", "0.8", "--batch_size", "256", "--backend", backend]
    assert main(["--data_path", str(tmp_path), "--save_path", str(out), *flags.split(), *more]) == 0
    log = (out / "train.log").read_text()
    assert "learn: 699 of 1,500 rows are twins of others; the 801 that differ train or are held out, each once" in log
    results = {
        (r["router"], r["rule"], r["percent"]): r["scanned_at"]["0.90"]
        for r in results_in(out)
        if r["probing"] == "fixed"
    }
    for copies in (0.0, 0.8):
        assert results["centers", "benefit", copies] <= 1.01 * results["kmeans", "ratio", copies]


def results_in(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "evaluation.json").read_text())["results"]


# centers in one place


def test_centers_in_one_place_are_counted():
    """Against all pairs in float64."""
    rng = np.random.default_rng(2)
    centers = rng.standard_normal((40, 6)).astype(np.float32)
    assert n_in_one_place(centers) == 0
    centers[5], centers[6] = centers[4], centers[4] * (1 + 1e-3)
    centers[20] = np.nextafter(centers[19], np.float32(9))
    centers[30] = centers[31] * np.float32(1.01)
    d = np.sqrt(by_hand.distances_of_others(centers)) / np.linalg.norm(centers, axis=1, keepdims=True)
    assert n_in_one_place(centers) == (d <= 2e-3).any(axis=1).sum() == 5
    assert n_in_one_place(centers[:1]) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_kmeans_on_too_few_different_vectors_is_told(metric: str):
    """FAISS splits the bucket of a lump again and again; all its halves stay in one place."""
    rng = np.random.default_rng(1)
    rows = as_metric(np.repeat(rng.standard_normal((20, 16)), 30, axis=0), metric)
    vectors = vectors_of(rows)
    points = Points(vectors, measure_space(vectors, metric))
    centers = train_kmeans(points, 30, 20, 1).centers
    told: list[str] = []
    progress = silent()
    progress.note = told.append  # pyright: ignore
    tell_one_place("k-means", centers, progress)
    assert n_in_one_place(centers) >= 10
    assert len(told) == 1
    assert f"{n_in_one_place(centers)} of 30 centers have another one in their place" in told[0]
    tell_one_place("k-means", np.eye(16, dtype=np.float32), progress)
    assert len(told) == 1


# rows set aside


def test_rows_with_more_twins_than_most_are_not_set_aside():
    distinct = distinct_rows(vectors_of(lump("L2", 6)))
    rows = set_aside(distinct, 1, test=True).rows
    assert (distinct.counts[distinct.of[rows]] == 1).all()
    assert len(rows) == 150
    same = Distinct(np.arange(3000), np.arange(3000), np.ones(3000, np.int64))
    drawn = generator(1, 0, "sample", 3).choice(3000, 300, replace=False)
    assert set_aside(same, 1, test=True).calibrate.tolist() == np.sort(drawn[:150]).tolist()


def test_too_few_rows_that_differ_cannot_be_set_aside():
    distinct = distinct_of(np.r_[np.zeros(1499, np.int64), 1499])  # two vectors, one of them rare
    with pytest.raises(UserError, match=r"base: only 2 of 1,500 rows differ, too few to set 2 .* leave copies out"):
        set_aside(distinct, 1, test=True)


@pytest.mark.parametrize("block_bytes", [4 * 8, 1 << 20])
@pytest.mark.parametrize("alike", [False, True])
def test_rows_among_others_are_told_digit_by_digit(alike: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch):
    """Also where checksums of different rows agree. No distance in float32 tells these rows apart."""
    rng = np.random.default_rng(5)
    rows = np.tile(rng.normal(size=(1, 8)).astype(np.float32), (200, 1))
    rows.view(np.int32)[:, 3] += np.arange(200, dtype=np.int32)
    rows[:, 0] = 0.0
    x, there = rows[rng.permutation(200)], rng.random(200) < 0.4
    points = points_of(np.concatenate([x[there], x[there][:5]]))
    x[:, 0] = -0.0  # which is equal
    if alike:
        monkeypatch.setattr(module.faiss, "checksum", lambda block: np.zeros(len(block), np.uint64))
    np.testing.assert_array_equal(are_among(x, points, block_bytes), there)
