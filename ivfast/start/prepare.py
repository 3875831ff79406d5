"""What training needs before its first step: k-means and neighbours, computed or from the cache."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import Space, Vectors, measure_space
from ivfast.method import COUNTED
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.config import Config
from ivfast.runtime.progress import Progress
from ivfast.start.kinship import HEAP, OWN_NEAREST, SURELY_KIN, VALLEY
from ivfast.start.kmeans import Buckets, measure_buckets, train_kmeans
from ivfast.start.neighbors import LEAST_ASKED, Neighbors, find_neighbors


class Prepared(NamedTuple):
    """Learn, and what was found in it. Vectors and centers are inside (see Space)."""

    learn: Vectors
    space: Space
    kmeans: np.ndarray  # (nlist, dim) float32
    neighbors: Neighbors
    buckets: "Buckets"


def prepare(config: Config, learn: Vectors, progress: Progress) -> Prepared:
    """Cluster learn and search it for neighbours, or take both from save_path/cache.

    raises: UserError where learn is too small for the settings
    """
    space = measure_space(learn, config.metric)
    cache = config.save_path / "cache"
    facts = {"learn": learn.digest, "metric": config.metric, "seed": config.seed, "faiss": faiss.__version__}

    def cluster() -> dict[str, np.ndarray]:
        progress.note(f"k-means: clustering {len(learn):,} vectors into {config.nlist} buckets")
        found = train_kmeans(learn, space, config.nlist, config.niter, config.seed)
        return {"centers": found.centers, "counts": np.array([found.n_iterations, found.n_points])}

    key = fingerprint(**facts, nlist=config.nlist, niter=config.niter)
    found, old = cached(cache, "kmeans", key, cluster)
    iterations, points = found["counts"].tolist()
    progress.note(
        f"k-means: {config.nlist} centers, {iterations} iterations of at most {config.niter} "
        f"on {points:,} vectors{', from the cache' if old else ''}"
    )
    neighbors = _neighbors(config, learn, space, facts, progress)
    return Prepared(
        learn, space, found["centers"], neighbors, measure_buckets(learn, space, found["centers"], config.seed)
    )


def _neighbors(config: Config, learn: Vectors, space: Space, facts: dict[str, object], progress: Progress) -> Neighbors:
    def search() -> dict[str, np.ndarray]:
        return find_neighbors(learn, space, config.ftopk, config.seed, progress)._asdict()

    rules = {"asked_for": LEAST_ASKED, "answers": COUNTED, "kinship": [OWN_NEAREST, SURELY_KIN, HEAP, VALLEY]}
    key = fingerprint(**facts, ftopk=config.ftopk, **rules)
    found, old = cached(config.save_path / "cache", "neighbors", key, search)
    neighbors = Neighbors(**found)
    progress.note(
        f"neighbours: {neighbors.train_nearest.shape[1]} of each of {len(neighbors.train):,} training and "
        f"{neighbors.answers.shape[1]} of "
        f"{len(neighbors.held_out):,} held-out vectors{', from the cache' if old else ''}"
    )
    if neighbors.strangers_apart:
        progress.note("neighbours: kin and strangers among them stand apart: pairs count by the nearest in common")
    return neighbors
