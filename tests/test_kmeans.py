"""k-means: what FAISS does with the same settings, on all vectors or a drawn part."""

import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import ivfast_jax
import ivfast_torch
from ivfast.data.vectors import Points, Vectors, measure_space
from ivfast.runtime.errors import StopRequestedError, UserError
from ivfast.runtime.progress import Progress, silent
from ivfast.runtime.signals import handled
from ivfast.start.kmeans import train_kmeans
from tests import by_hand
from tests.conftest import plain_space, points_of

DIM = 6


def clumps(n: int, k: int, spread: float, metric: str = "L2") -> np.ndarray:
    rng = np.random.default_rng(n + k)
    rows = rng.normal(0, 4, (k, DIM))[np.arange(n) % k] + rng.normal(0, spread, (n, DIM))
    if metric == "IP":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def in_its_space(rows: np.ndarray, metric: str) -> Points:
    """Points in the space that is measured on them."""
    vectors = points_of(rows).vectors
    return Points(vectors, measure_space(vectors, metric))


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
def test_centers_are_those_of_faiss_on_every_vector(metric: str, niter: int):
    learn = in_its_space(clumps(3000, 30, 2.0, metric), metric)  # 750 a bucket: FAISS' own limit would be 256
    found = train_kmeans(learn, 4, niter, seed=5)
    np.testing.assert_array_equal(found.centers, faiss_centers(learn.x(slice(None)), 4, niter, 5, metric))
    assert found.n_points == 3000
    assert found.centers.dtype == np.float32


def test_centers_are_of_unit_norm_under_ip_only():
    for metric, unit in (("IP", True), ("L2", False)):
        learn = in_its_space(clumps(500, 30, 2.0, metric), metric)
        norms = np.linalg.norm(train_kmeans(learn, 7, 10, 1).centers, axis=1)
        assert np.allclose(norms, 1, atol=1e-6) == unit


def test_stops_early_where_nothing_moves(metric: str):
    learn = in_its_space(clumps(600, 3, 0.01, metric), metric)
    found = train_kmeans(learn, 3, 128, seed=1)
    assert 1 <= found.n_iterations < 20
    x = learn.x(slice(None))
    own = by_hand.distances(x, found.centers).argmin(axis=1)
    for bucket, center in enumerate(found.centers):  # each center is the mean of its vectors
        mean = x[own == bucket].mean(axis=0)
        mean = mean / np.linalg.norm(mean) if metric == "IP" else mean
        np.testing.assert_allclose(center, mean, atol=1e-2)


def test_niter_is_the_most():
    assert train_kmeans(in_its_space(clumps(2000, 300, 3.0), "L2"), 50, 2, seed=1).n_iterations == 2


def test_seeds_differ_and_repeat():
    learn = in_its_space(clumps(400, 40, 2.0), "L2")
    one, two, other = (train_kmeans(learn, 9, 3, seed).centers for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize(("nlist", "expected"), [(4, 300), (9, 450), (20, 900)])
def test_above_all_points_a_part_is_drawn_with_enough_for_each_bucket(nlist: int, expected: int):
    learn = in_its_space(clumps(900, 30, 2.0), "L2")
    found = train_kmeans(learn, nlist, 5, seed=1, all_points=300, per_bucket=50)
    assert found.n_points == expected
    whole = faiss_centers(learn.x(slice(None)), nlist, 5, 1, "L2")
    assert np.array_equal(found.centers, whole) == (expected == 900)


def test_up_to_all_points_nothing_is_left_out():
    learn = in_its_space(clumps(900, 30, 2.0), "L2")
    assert train_kmeans(learn, 4, 5, seed=1, all_points=900, per_bucket=5).n_points == 900


def test_fewer_vectors_than_buckets_is_an_error_that_names_the_file():
    learn = Vectors("learn", Path("few.npy"), clumps(8, 2, 1.0))
    with pytest.raises(UserError, match=r"few\.npy has 8 vectors, fewer than --nlist 9"):
        train_kmeans(Points(learn, plain_space(DIM)), 9, 5, 1)


def test_as_many_buckets_as_vectors_puts_a_center_on_each():
    learn = in_its_space(clumps(12, 12, 1.0), "L2")
    centers = train_kmeans(learn, 12, 10, 1).centers
    np.testing.assert_allclose(np.sort(centers, axis=0), np.sort(learn.x(slice(None)), axis=0), atol=1e-5)


def test_bar_counts_the_iterations_while_faiss_works(monkeypatch: pytest.MonkeyPatch):
    """Each once, and none that is not done."""
    counted: list[int] = []

    class Counted:
        def advance(self, n: int) -> None:
            counted.append(n)

    class Counting(Progress):
        @contextmanager
        def bar(self, title: str, total: int, unit: str = "rows"):
            assert (title, total, unit) == ("k-means", 30, "iterations at most")
            yield Counted()

    monkeypatch.setattr("ivfast.start.kmeans.LOOKED_AT", 0.001)
    rows = np.random.default_rng(0).standard_normal((20_000, DIM)).astype(np.float32)
    found = train_kmeans(in_its_space(rows, "L2"), 100, 30, 1, Counting(None, silent().console))
    assert len(counted) > 2
    assert 0 < sum(counted) <= found.n_iterations


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_kmeans_between_two_looks(number: int):
    """FAISS asks for signals in the main thread alone."""
    rows = np.random.default_rng(0).standard_normal((100_000, DIM)).astype(np.float32)
    learn, main = in_its_space(rows, "L2"), threading.main_thread().ident
    assert main is not None
    before = threading.active_count()
    threading.Timer(0.5, signal.pthread_kill, (main, number)).start()
    started = time.monotonic()
    with handled(), pytest.raises(StopRequestedError):
        train_kmeans(learn, 2000, 10_000, 1)
    assert time.monotonic() - started < 10
    assert threading.active_count() <= before + 1  # nobody watches any more; the timer may still end


@pytest.mark.parametrize("backend", [ivfast_jax, ivfast_torch], ids=["jax", "torch"])
def test_on_an_accelerator_by_the_same_rules(backend: Any, metric: str):
    """Other draws than FAISS', so other centers: the same objective, as means of their buckets, nobody empty."""
    learn = in_its_space(clumps(4000, 40, 2.0, metric), metric)
    x = learn.x(slice(None)).astype(np.float64)
    search = partial(backend.find_nearest, gpu=-1)
    found = train_kmeans(learn, 40, 100, seed=5, search=search)
    again = train_kmeans(learn, 40, 100, seed=5, search=search)
    np.testing.assert_array_equal(found.centers, again.centers)
    assert 3 < found.n_iterations < 100
    d2 = by_hand.distances(x, found.centers)
    own = d2.argmin(axis=1)
    counts = np.bincount(own, minlength=40)
    assert counts.min() > 0
    means = np.stack([x[own == i].mean(axis=0) for i in range(40)])
    if metric == "IP":
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert np.square(means - found.centers).sum(axis=1).mean() < 0.01 * d2.min(axis=1).mean()
    theirs = by_hand.distances(x, faiss_centers(x.astype(np.float32), 40, 100, 5, metric)).min(axis=1).mean()
    assert d2.min(axis=1).mean() < 1.1 * theirs


def test_an_empty_center_on_an_accelerator_takes_half_of_another_bucket():
    rows = np.repeat(clumps(50, 50, 0.0), 20, axis=0)  # 50 different rows: many of 40 drawn ones are equal
    learn = in_its_space(rows + 0.01 * clumps(1000, 1, 1.0), "L2")
    found = train_kmeans(learn, 40, 50, seed=1, search=partial(ivfast_torch.find_nearest, gpu=-1))
    counts = np.bincount(by_hand.distances(learn.x(slice(None)), found.centers).argmin(axis=1), minlength=40)
    assert counts.min() > 0
