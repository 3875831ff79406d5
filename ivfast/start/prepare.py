"""What training needs before its first step: k-means and neighbours, computed or from the cache."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import Points
from ivfast.method import CELLS, COUNTED
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.progress import Progress
from ivfast.start.cells import POWER_STEPS, Cells, find_cells
from ivfast.start.descent import ALONE, Means
from ivfast.start.kinship import HEAP, OWN_NEAREST, SURELY_KIN, VALLEY
from ivfast.start.kmeans import train_kmeans
from ivfast.start.neighbors import LIMITS, N_ASKED, Neighbors, find_neighbors


class Cache(NamedTuple):
    """Where k-means and neighbours of learn are kept, and who says what they belong to."""

    folder: Path
    learn: Points
    seed: int
    progress: Progress
    means: Means = ALONE

    def key(self, **settings: object) -> str:
        """A name for learn and the settings that something was computed with."""
        learn, metric = self.learn.vectors.digest, self.learn.metric
        return fingerprint(learn=learn, metric=metric, seed=self.seed, faiss=faiss.__version__, **settings)


def find_kmeans(cache: Cache, nlist: int, niter: int) -> np.ndarray:
    """k-means' centers on learn, (nlist, dim) float32, inside.

    niter: iterations at most
    raises: UserError where learn has fewer vectors than buckets
    """

    def cluster() -> dict[str, np.ndarray]:
        cache.progress.note(f"k-means: clustering {len(cache.learn):,} vectors into {nlist} buckets")
        with cache.progress.stage("k-means"):
            found = train_kmeans(cache.learn, nlist, niter, cache.seed, cache.progress)
        return {"centers": found.centers, "counts": np.array([found.n_iterations, found.n_points])}

    found, old = cached(cache.folder, "kmeans", cache.key(nlist=nlist, niter=niter), cluster)
    iterations, points = found["counts"].tolist()
    cache.progress.note(
        f"k-means: {nlist} centers, {iterations} iterations of at most {niter} "
        f"on {points:,} vectors{', from the cache' if old else ''}"
    )
    return found["centers"]


def find_learn_neighbors(cache: Cache, ftopk: int) -> Neighbors:
    """Neighbours in learn of each training and each held-out vector."""

    def search() -> dict[str, np.ndarray]:
        return find_neighbors(cache.learn, ftopk, cache.seed, cache.progress, cache.means)._asdict()

    rules: dict[str, object] = {"asked_for": N_ASKED, "answers": COUNTED}
    rules["kinship"] = [OWN_NEAREST, SURELY_KIN, HEAP, VALLEY]
    if len(cache.learn) > LIMITS.exact_learn:
        rules["graph"] = cache.means.rules(len(cache.learn))
    found, old = cached(cache.folder, "neighbors", cache.key(ftopk=ftopk, **rules), search)
    neighbors = Neighbors(**found)
    cache.progress.note(
        f"neighbours: {neighbors.train_nearest.shape[1]} of each of {len(neighbors.train):,} training and "
        f"{neighbors.answers.shape[1]} of "
        f"{len(neighbors.held_out):,} held-out vectors{', from the cache' if old else ''}"
    )
    if neighbors.strangers_apart:
        cache.progress.note(
            "neighbours: kin and strangers stand apart among them: pairs count by what they have in common"
        )
    return neighbors


def find_learn_cells(cache: Cache, kmeans: np.ndarray, niter: int) -> Cells:
    """Which bucket of k-means each learn vector lies in. kmeans: (nlist, dim) float32, of niter iterations at most"""

    def search() -> dict[str, np.ndarray]:
        return find_cells(cache.learn, kmeans, cache.progress)._asdict()

    key = cache.key(
        nlist=len(kmeans),
        niter=niter,
        power_steps=POWER_STEPS,
        near=CELLS,
        kmeans=hashlib.blake2b(kmeans.tobytes(), digest_size=8).hexdigest(),
    )
    return Cells(**cached(cache.folder, "cells", key, search)[0])
