"""Where training starts: FAISS k-means on learn, and the units of its buckets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import DeviceSearch, flat_index, searcher
from ivfast.data.vectors import Points, rows_per_block
from ivfast.method import NEAR
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Bar, Progress, silent
from ivfast.start.lloyd import cluster

ALL_POINTS = 1_000_000  # up to here k-means sees every learn vector
POINTS_PER_BUCKET = 256  # of a larger learn it sees so many a bucket, and no fewer than ALL_POINTS
LEAST_IMPROVEMENT = 1e-4  # k-means stops once an iteration improves its objective by less than this share
LOOKED_AT = 0.5  # seconds between two looks at how far k-means is
LEAST_RADIUS = 1 / 50  # a bucket's radius counts as at least this share of the median one


class KMeans(NamedTuple):
    """What k-means found."""

    centers: np.ndarray  # (nlist, dim) float32, inside; unit rows under IP
    n_iterations: int
    n_points: int


class Buckets(NamedTuple):
    """k-means' buckets, measured on learn."""

    share: np.ndarray  # (nlist,) float64, of learn
    radius: np.ndarray  # (nlist,) float32, root mean square distance to the center per dimension
    delta_floor: float


def n_sampled(n: int, nlist: int, all_points: int = ALL_POINTS, per_bucket: int = POINTS_PER_BUCKET) -> int:
    """How many of n learn vectors k-means and the measures of its buckets look at."""
    return min(n, max(all_points, per_bucket * nlist))


def most_a_bucket(n_points: int, nlist: int) -> int:
    """Points a bucket up to which FAISS draws none: as few as do, since it counts them in 32 bits."""
    return -(-n_points // nlist)


def train_kmeans(
    learn: Points, nlist: int, niter: int, seed: int, progress: Progress | None = None,
    all_points: int = ALL_POINTS, per_bucket: int = POINTS_PER_BUCKET, search: DeviceSearch | None = None,
) -> KMeans:  # fmt: skip
    """Cluster learn with FAISS (spherical under IP), or by its rules on an accelerator.

    niter: iterations at most; search: of an accelerator
    raises: UserError where there are fewer vectors than buckets
    """
    if len(learn) < nlist:
        raise UserError(
            f"learn: {learn.vectors.path} has {len(learn)} vectors, fewer than --nlist {nlist}; "
            "use more vectors or fewer buckets"
        )
    n_points = n_sampled(len(learn), nlist, all_points, per_bucket)
    x = learn.x(_sample(len(learn), n_points, seed, "kmeans", 0))
    progress = progress or silent()
    if search is not None:
        with progress.bar("k-means", niter, "iterations at most") as bar:
            centers, n = cluster(x, nlist, niter, seed, learn.metric, LEAST_IMPROVEMENT, search, bar)
        return KMeans(centers, n, n_points)
    clustering = faiss.Clustering(learn.dim, nlist)
    clustering.niter = niter
    clustering.seed = seed
    clustering.spherical = learn.metric == "IP"
    clustering.early_stop_threshold = LEAST_IMPROVEMENT
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = most_a_bucket(n_points, nlist)
    # in this thread, since FAISS looks for signals in the main one alone
    with progress.bar("k-means", niter, "iterations at most") as bar, _watched(clustering, bar):
        clustering.train(x, flat_index(learn.dim, learn.metric))
    centers = faiss.vector_float_to_array(clustering.centroids).reshape(nlist, learn.dim).copy()
    return KMeans(centers, _n_done(clustering), n_points)


def _n_done(clustering: faiss.Clustering) -> int:
    iterations: Any = clustering.iteration_stats  # a vector of C++
    return iterations.size()


@contextmanager
def _watched(clustering: faiss.Clustering, bar: Bar) -> Iterator[None]:
    """Inside, another thread tells the bar how many iterations are done."""
    over = threading.Event()

    def watch() -> None:
        shown = 0
        while not over.wait(LOOKED_AT):
            done = _n_done(clustering)  # while the vector grows it may be anything
            if shown < done <= clustering.niter:
                bar.advance(done - shown)
                shown = done

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def measure_buckets(learn: Points, centers: np.ndarray, seed: int, progress: Progress | None = None) -> Buckets:
    """Shares, radii and delta of the buckets over learn (above a million vectors: over a sample).

    centers: (nlist, dim) float32, inside
    """
    n = n_sampled(len(learn), len(centers))
    rows = _sample(len(learn), n, seed, "sample", 1)
    rows = np.arange(n) if isinstance(rows, slice) else rows
    find, sums = searcher(centers, learn.metric), BucketSums(len(centers), learn.metric)
    step = rows_per_block(learn.dim)
    with (progress or silent()).bar("measuring buckets", n) as bar:
        for start in range(0, n, step):
            found = find(learn.x(rows[start : start + step]), min(NEAR, len(centers)))
            sums.add(*found)
            bar.advance(len(found[0]))
    return sums.buckets(learn.dim)


class BucketSums:
    """What the measures of buckets are made from, added up block by block."""

    def __init__(self, nlist: int, metric: str) -> None:
        self._metric, self._deltas = metric, 0.0
        self._counts, self._squares = np.zeros(nlist), np.zeros(nlist)

    def add(self, distances: np.ndarray, nearest: np.ndarray) -> None:
        """Count rows. distances, nearest: (n, NEAR or more), those of the nearest centers as FAISS gives them"""
        d2 = np.maximum(2 - 2 * distances if self._metric == "IP" else distances, 0).astype(np.float64)
        self._counts += np.bincount(nearest[:, 0], minlength=len(self._counts))
        self._squares += np.bincount(nearest[:, 0], weights=d2[:, 0], minlength=len(self._counts))
        self._deltas += float(d2[:, :NEAR].mean(axis=1).sum())

    def buckets(self, dim: int) -> Buckets:
        """The measures over all rows that were counted."""
        counts, n = self._counts, self._counts.sum()
        radius = np.sqrt(self._squares / np.maximum(counts, 1) / dim)
        spread = radius[radius > 0]  # a bucket of one vector has none
        median = float(np.median(spread)) if len(spread) else 0.0
        radius = np.where(counts > 0, np.maximum(radius, median * LEAST_RADIUS), median)
        floor = max(1e-6 * self._deltas / n, float(np.finfo(np.float32).tiny))
        return Buckets(counts / n, radius.astype(np.float32), floor)


def _sample(n: int, wanted: int, seed: int, stream: str, part: int) -> np.ndarray | slice:
    """Rows of a draw of `wanted` out of n, ascending; all of them as a slice."""
    if wanted == n:
        return slice(None)
    return np.sort(generator(seed, 0, stream, part).choice(n, wanted, replace=False))
