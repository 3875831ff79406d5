"""Where training starts: FAISS k-means on learn."""

from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data import Space, Vectors
from ivfast.draws import generator
from ivfast.errors import UserError

ALL_POINTS = 1_000_000  # up to here k-means sees every learn vector
POINTS_PER_BUCKET = 256  # above, at least so many a bucket
LEAST_IMPROVEMENT = 1e-4  # of the objective, per iteration; below it k-means stops


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
