"""Codes of an index: what they stand against, and what the benchmark of codes measures, against NumPy."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from benchmarks import codes
from ivfast.index.codes import COUNT, bucket_means, centers_in, flats_of, plain_is_closer
from ivfast.index.fill import add_entries, empty_index, finish, merge_shards
from ivfast.index.probing import search_distinct, search_lists
from ivfast.spread.lists import _write as write_shard
from ivfast.spread.lists import read_lists
from tests import by_hand

DIM, NLIST = 16, 8


def make_unit(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(3).normal(0, 1, (NLIST, DIM))[np.random.default_rng(seed).integers(0, NLIST, n)]
    rows = rows + np.random.default_rng(seed).normal(0, 1, (n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_rows(n: int, seed: int, metric: str) -> np.ndarray:
    return make_unit(n, seed) if metric == "IP" else 5 + 3 * make_unit(n, seed)


def make_centers() -> np.ndarray:
    centers = np.random.default_rng(3).normal(0, 1, (NLIST, DIM))
    return (centers / np.linalg.norm(centers, axis=1, keepdims=True)).astype(np.float32)


def off_center(metric: str) -> np.ndarray:
    """Centers that lie beside the middle of their buckets, as trained ones do."""
    centers = make_centers() + 0.3 * np.random.default_rng(5).normal(0, 1, (NLIST, DIM)).astype(np.float32)
    return centers / np.linalg.norm(centers, axis=1, keepdims=True) if metric == "IP" else 5 + 3 * centers


def nearest_of(rows: np.ndarray, centers: np.ndarray, metric: str) -> np.ndarray:
    return (rows @ centers.T if metric == "IP" else -by_hand.distances(rows, centers)).argmax(axis=1)


def filled(metric: str, kind: str, *, means: bool = True) -> Any:
    """All rows in the bucket of their nearest center; means: whether codes stand against means."""
    centers, rows = off_center(metric), make_rows(3000, 1, metric)
    if means:
        index: Any = empty_index(centers, metric, kind, rows, 1)
    else:
        index = faiss.index_factory(DIM, f"IVF{NLIST},{kind}", faiss.METRIC_INNER_PRODUCT if metric == "IP" else 1)
        index.quantizer.add(centers)
        index.train(rows)
    add_entries(index, rows, np.arange(len(rows)), nearest_of(rows, centers, metric))
    return index


def held_by(index: Any) -> np.ndarray:
    index.make_direct_map()
    return index.reconstruct_n(0, index.ntotal)


@pytest.mark.parametrize("kind", ["PQ4x4", "SQ8", "RaBitQ"])
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_codes_stand_against_means_and_centers_say_what_is_probed(kind: str, metric: str):
    centers, rows, query = off_center(metric), make_rows(3000, 1, metric), make_rows(50, 2, metric)
    index, at_centers = filled(metric, kind), filled(metric, kind, means=False)
    np.testing.assert_array_equal(centers_in(index), centers)
    nearest = nearest_of(rows, centers, metric)
    wanted = [(rows[nearest == b].sum(axis=0) + 2 * centers[b]) / ((nearest == b).sum() + 2) for b in range(NLIST)]
    np.testing.assert_allclose(index.quantizer.reconstruct_n(0, NLIST), wanted, atol=1e-5)
    for nprobe in (1, 3):
        theirs, ours = (one.quantizer.search(query, nprobe)[1] for one in (at_centers, index))
        np.testing.assert_array_equal(np.sort(theirs, axis=1), np.sort(ours, axis=1))
    lost = [np.square(held_by(one) - rows).sum(axis=1).mean() for one in (index, at_centers)]
    assert lost[0] < 0.95 * lost[1]


@pytest.mark.parametrize("kind", ["PQ4x4", "PQ4x4fs", "SQ8", "RaBitQ"])
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_a_search_of_chosen_lists_scores_as_plain_faiss_does(kind: str, metric: str, tmp_path: Path):
    """Handed distances to centers, codes that stand against means would be off by a term a bucket."""
    index, query = finish(filled(metric, kind.removesuffix("fs")), kind), make_rows(50, 2, metric)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    plain: Any = faiss.read_index(str(tmp_path / "index.faiss"))
    plain.nprobe = 3
    buckets = plain.quantizer.search(query, 3)[1]
    nonsense = np.full(buckets.shape, 7, np.float32)
    scores, ids = search_lists(index, query, 5, np.append(buckets, np.full((50, 1), -1), axis=1), nonsense[:, [0] * 4])
    expected, theirs = plain.search(query, 5)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert (ids == theirs).mean() > 0.99
    if kind in ("PQ4x4", "SQ8"):
        held = held_by(filled(metric, kind))[ids]
        own = np.einsum("qd,qkd->qk", query, held) if metric == "IP" else ((query[:, None] - held) ** 2).sum(axis=2)
        np.testing.assert_allclose(scores, own, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_vectors_as_they_are_need_no_means(metric: str):
    index = empty_index(off_center(metric), metric, "Flat", make_rows(3000, 1, metric), 1)
    assert len(flats_of(index)) == 1
    np.testing.assert_array_equal(centers_in(index), off_center(metric))


def test_a_bucket_that_nobody_lies_in_keeps_its_center():
    rows, centers = make_unit(10, 1), make_centers()
    means = bucket_means(rows, np.zeros(10, np.int64), centers)
    np.testing.assert_allclose(means[1:], centers[1:], atol=1e-7)
    np.testing.assert_allclose(means[0], (rows.sum(axis=0) + COUNT * centers[0]) / (COUNT + 10), atol=1e-6)


def test_vectors_of_few_parts_are_coded_as_they_are():
    """Each quarter of a vector is one of 16: codes of 4 bits hold all of it, but not what it differs by."""
    rng = np.random.default_rng(1)
    parts = rng.normal(0, 1, (4, 16, DIM // 4))
    rows = np.concatenate([part[rng.integers(0, 16, 3000)] for part in parts], axis=1).astype(np.float32)
    index: Any = empty_index(rows[:NLIST].copy(), "L2", "PQ4x4", rows, 1)
    assert not index.by_residual
    assert len(flats_of(index)) == 1
    clumps: Any = empty_index(off_center("L2"), "L2", "PQ4x4", make_rows(3000, 1, "L2"), 1)
    assert clumps.by_residual


@pytest.mark.parametrize("n", [16, 17, 40])
def test_few_rows_are_enough_to_try_codes_on(n: int):
    rows = make_unit(n, 1)
    assert plain_is_closer(faiss.ProductQuantizer(DIM, 4, 4), rows, 0.1 * rows, 1) in (True, False)
    assert not plain_is_closer(faiss.ProductQuantizer(DIM, 4, 4), make_unit(300, 1), 0.1 * make_unit(300, 1), 1)


def test_what_codes_lose_is_measured_as_numpy_does():
    rows = make_unit(3000, 1)
    index = filled("IP", "PQ4x4")
    buckets = nearest_of(rows, off_center("IP"), "IP")
    lost = np.square(held_by(index).astype(np.float64) - rows).sum() / np.square(rows.astype(np.float64)).sum()
    assert codes.error_of(index, rows, np.arange(3000), buckets) == pytest.approx(lost, rel=1e-4)


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_refining_copies_names_no_vector_twice_and_keeps_the_nearest(metric: str):
    centers, rows, query = off_center(metric), make_rows(3000, 1, metric), make_rows(40, 2, metric)
    vectors = (faiss.IndexFlatIP if metric == "IP" else faiss.IndexFlatL2)(DIM)
    vectors.add(rows)
    index: Any = empty_index(centers, metric, "PQ4x4", rows, 1)
    near = np.argsort(by_hand.distances(rows, centers), axis=1)[:, :2]
    add_entries(index, np.repeat(rows, 2, axis=0), np.repeat(np.arange(3000), 2), near.ravel())
    every = np.tile(np.arange(NLIST), (40, 1))
    found = search_distinct(index, query, 100, every, np.zeros(every.shape, np.float32), 1.0)[1]
    best = codes.ranked_anew(found, vectors, query, 10)
    exact = by_hand.distances(query, rows)
    for row, (ids, few) in enumerate(zip(found, best, strict=True)):
        assert len(set(few.tolist())) == 10
        np.testing.assert_allclose(np.sort(exact[row, few]), np.sort(exact[row, ids])[:10], rtol=1e-4, atol=1e-5)


def test_answers_that_are_missing_are_ranked_last():
    rows = make_unit(50, 1)
    vectors = faiss.IndexFlatIP(DIM)
    vectors.add(rows)
    ids = np.full((2, 20), -1)
    ids[:, :12] = np.arange(12)
    assert codes.ranked_anew(ids, vectors, rows[:2].copy(), 10).min() >= 0


def test_a_curve_is_read_between_its_settings():
    curve = [codes.Point(0.01, 0.5, 10, 0.7, 20), codes.Point(0.03, 0.7, 30, 0.9, 60)]
    assert codes.at_recall(curve, 0.6, refined=False) == "20 (2.00)"
    assert codes.at_recall(curve, 0.8, refined=True) == "40 (2.00)"
    assert codes.at_recall(curve, 0.8, refined=False) == "-"
    assert codes.at_recall(curve, 0.7, refined=True) == "at most 20 (1.00)"
    assert [codes.at_time(curve, budget) for budget in (10, 40, 99)] == ["-", "0.800", "0.900"]


@pytest.mark.parametrize("kind", ["SQ8", "PQ4x4"])
def test_shards_without_centers_are_merged_into_what_one_index_holds(kind: str, tmp_path: Path):
    rows, whole = make_rows(3000, 1, "L2"), filled("L2", kind)
    buckets = nearest_of(rows, off_center("L2"), "L2")
    faiss.write_index(empty_index(off_center("L2"), "L2", kind, rows, 1), str(tmp_path / "empty.faiss"))
    shard, merged = (read_lists(tmp_path / "empty.faiss") for _ in range(2))
    for part in (slice(0, 1000), slice(1000, 3000)):
        add_entries(shard, rows[part], np.arange(3000)[part], buckets[part])
        write_shard(shard, tmp_path / f"{part.start}.faiss")
        shard.reset()
    merge_shards(merged, [str(tmp_path / f"{start}.faiss") for start in (0, 1000)], tmp_path / "lists")
    every = np.tile(np.arange(NLIST), (50, 1))
    ours, theirs = (search_lists(one, rows[:50], 5, every, np.zeros(every.shape)) for one in (merged, whole))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_array_equal(centers_in(merged), off_center("L2"))
