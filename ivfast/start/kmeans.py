"""Where training starts: FAISS k-means on learn, and the units of its buckets."""

from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import Space, Vectors, rows_per_block
from ivfast.method import NEAR
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError

ALL_POINTS = 1_000_000  # up to here k-means sees every learn vector
POINTS_PER_BUCKET = 256  # above, at least so many a bucket
LEAST_IMPROVEMENT = 1e-4  # of the objective, per iteration; below it k-means stops

LEAST_RADIUS = 1 / 50  # of the median bucket's


class KMeans(NamedTuple):
    """What k-means found."""

    centers: np.ndarray  # (nlist, dim) float32, inside; unit rows under IP
    n_iterations: int
    n_points: int


def train_kmeans(learn: Vectors, space: Space, nlist: int, niter: int, seed: int) -> KMeans:
    """Cluster learn with FAISS (spherical under IP).

    raises: UserError where there are fewer vectors than buckets
    """
    if len(learn) < nlist:
        raise UserError(
            f"learn: {learn.path} has {len(learn)} vectors, fewer than --nlist {nlist}; "
            "use more vectors or fewer buckets"
        )
    n_points = len(learn) if len(learn) <= ALL_POINTS else max(ALL_POINTS, POINTS_PER_BUCKET * nlist)
    if n_points < len(learn):
        index = np.sort(generator(seed, 0, "kmeans").choice(len(learn), n_points, replace=False))
        x = learn.take(space, index)
    else:
        n_points = len(learn)
        x = learn.take(space, slice(None))
    clustering = faiss.Clustering(learn.dim, nlist)
    clustering.niter = niter
    clustering.seed = seed
    clustering.spherical = space.metric == "IP"
    clustering.early_stop_threshold = LEAST_IMPROVEMENT
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = n_points
    index_type = faiss.IndexFlatIP if space.metric == "IP" else faiss.IndexFlatL2
    clustering.train(x, index_type(learn.dim))
    centers = faiss.vector_float_to_array(clustering.centroids).reshape(nlist, learn.dim).copy()
    iterations: Any = clustering.iteration_stats  # a vector of C++
    return KMeans(centers, iterations.size(), n_points)


class Buckets(NamedTuple):
    """k-means' buckets, measured on learn."""

    share: np.ndarray  # (nlist,) float64, of learn
    radius: np.ndarray  # (nlist,) float32, root mean square distance to the center per dimension
    delta_floor: float


def measure_buckets(learn: Vectors, space: Space, centers: np.ndarray, seed: int) -> Buckets:
    """Shares, radii and delta of the buckets over learn (above 1 M: over a sample)."""
    nlist, dim = centers.shape
    n = min(len(learn), max(ALL_POINTS, POINTS_PER_BUCKET * nlist))
    rows = (
        np.arange(n)
        if n == len(learn)
        else np.sort(generator(seed, 0, "sample", 1).choice(len(learn), n, replace=False))
    )
    near = min(NEAR, nlist)
    index = faiss.IndexFlatIP(dim) if space.metric == "IP" else faiss.IndexFlatL2(dim)
    index.add(centers)
    counts, squares, deltas = np.zeros(nlist), np.zeros(nlist), 0.0
    step = rows_per_block(dim)
    for start in range(0, n, step):
        distances, nearest = index.search(learn.take(space, rows[start : start + step]), near)
        d2 = np.maximum(2 - 2 * distances if space.metric == "IP" else distances, 0).astype(np.float64)
        counts += np.bincount(nearest[:, 0], minlength=nlist)
        squares += np.bincount(nearest[:, 0], weights=d2[:, 0], minlength=nlist)
        deltas += float(d2.mean(axis=1).sum())
    radius = np.sqrt(squares / np.maximum(counts, 1) / dim)
    spread = radius[radius > 0]  # a bucket of one vector has none
    median = float(np.median(spread)) if len(spread) else 0.0
    radius = np.where(counts > 0, np.maximum(radius, median * LEAST_RADIUS), median)
    floor = max(1e-6 * deltas / n, float(np.finfo(np.float32).tiny))
    return Buckets(counts / n, radius.astype(np.float32), floor)
