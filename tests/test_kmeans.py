"""k-means: what FAISS does with the same settings, on all vectors or a drawn part."""

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from ivfast.data.vectors import Space, Vectors, measure_space
from ivfast.runtime.errors import UserError
from ivfast.start import kmeans
from ivfast.start.kmeans import train_kmeans
from tests import by_hand

DIM = 6


def clumps(n: int, k: int, spread: float, metric: str = "L2") -> np.ndarray:
    rng = np.random.default_rng(n + k)
    rows = rng.normal(0, 4, (k, DIM))[np.arange(n) % k] + rng.normal(0, spread, (n, DIM))
    if metric == "IP":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def faiss_centers(x: np.ndarray, nlist: int, niter: int, seed: int, metric: str) -> np.ndarray:
    """faiss.Kmeans on all of x: no sampling, stop where the objective falls by under 1e-4 of itself."""
    clustering = faiss.Kmeans(
        DIM, nlist, niter=niter, seed=seed, spherical=metric == "IP", min_points_per_centroid=1,
        max_points_per_centroid=len(x), early_stop_threshold=1e-4,
    )  # fmt: skip
    clustering.train(x)
    assert clustering.centroids is not None
    return clustering.centroids


@pytest.fixture(params=["IP", "L2"])
def metric(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("niter", [15, 200])  # 200: both stop long before, by the same rule
def test_centers_are_those_of_faiss_on_every_vector(
    metric: str, niter: int, as_vectors: Callable[[np.ndarray], Vectors]
):
    learn = as_vectors(clumps(3000, 30, 2.0, metric))  # 750 a bucket: FAISS' own limit would be 256
    space = measure_space(learn, metric)
    found = train_kmeans(learn, space, 4, niter, seed=5)
    np.testing.assert_array_equal(found.centers, faiss_centers(space.inside(learn.rows), 4, niter, 5, metric))
    assert found.n_points == 3000
    assert found.centers.dtype == np.float32


def test_centers_are_of_unit_norm_under_ip_only(as_vectors: Callable[[np.ndarray], Vectors]):
    for metric, unit in (("IP", True), ("L2", False)):
        learn = as_vectors(clumps(500, 30, 2.0, metric))
        norms = np.linalg.norm(train_kmeans(learn, measure_space(learn, metric), 7, 10, 1).centers, axis=1)
        assert np.allclose(norms, 1, atol=1e-6) == unit


def test_stops_early_where_nothing_moves(metric: str, as_vectors: Callable[[np.ndarray], Vectors]):
    learn = as_vectors(clumps(600, 3, 0.01, metric))
    space = measure_space(learn, metric)
    found = train_kmeans(learn, space, 3, 128, seed=1)
    assert 1 <= found.n_iterations < 20
    x = space.inside(learn.rows)
    own = by_hand.distances(x, found.centers).argmin(axis=1)
    for bucket, center in enumerate(found.centers):  # each center is the mean of its vectors
        mean = x[own == bucket].mean(axis=0)
        mean = mean / np.linalg.norm(mean) if metric == "IP" else mean
        np.testing.assert_allclose(center, mean, atol=1e-2)


def test_niter_is_the_most(as_vectors: Callable[[np.ndarray], Vectors]):
    learn = as_vectors(clumps(2000, 300, 3.0))
    assert train_kmeans(learn, measure_space(learn, "L2"), 50, 2, seed=1).n_iterations == 2


def test_seeds_differ_and_repeat(as_vectors: Callable[[np.ndarray], Vectors]):
    learn = as_vectors(clumps(400, 40, 2.0))
    space = measure_space(learn, "L2")
    one, two, other = (train_kmeans(learn, space, 9, 3, seed).centers for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize(("nlist", "expected"), [(4, 300), (9, 450), (20, 900)])
def test_above_all_points_a_part_is_drawn_with_enough_for_each_bucket(
    nlist: int, expected: int, as_vectors: Callable[[np.ndarray], Vectors], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kmeans, "ALL_POINTS", 300)
    monkeypatch.setattr(kmeans, "POINTS_PER_BUCKET", 50)
    learn = as_vectors(clumps(900, 30, 2.0))
    space = measure_space(learn, "L2")
    found = train_kmeans(learn, space, nlist, 5, seed=1)
    assert found.n_points == expected
    whole = faiss_centers(space.inside(learn.rows), nlist, 5, 1, "L2")
    assert np.array_equal(found.centers, whole) == (expected == 900)


def test_up_to_all_points_nothing_is_left_out(
    as_vectors: Callable[[np.ndarray], Vectors], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kmeans, "ALL_POINTS", 900)
    monkeypatch.setattr(kmeans, "POINTS_PER_BUCKET", 5)
    learn = as_vectors(clumps(900, 30, 2.0))
    assert train_kmeans(learn, measure_space(learn, "L2"), 4, 5, seed=1).n_points == 900


def test_fewer_vectors_than_buckets_is_an_error_that_names_the_file():
    learn = Vectors("learn", Path("few.npy"), clumps(8, 2, 1.0))
    with pytest.raises(UserError, match=r"few\.npy has 8 vectors, fewer than --nlist 9"):
        train_kmeans(learn, Space("L2", np.zeros(DIM, np.float32), np.float32(1)), 9, 5, 1)


def test_as_many_buckets_as_vectors_puts_a_center_on_each(as_vectors: Callable[[np.ndarray], Vectors]):
    learn = as_vectors(clumps(12, 12, 1.0))
    space = measure_space(learn, "L2")
    centers = train_kmeans(learn, space, 12, 10, 1).centers
    np.testing.assert_allclose(np.sort(centers, axis=0), np.sort(space.inside(learn.rows), axis=0), atol=1e-5)
