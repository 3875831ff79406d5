"""What training needs before its first step: k-means and neighbours, computed or from the cache."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.centers import tell_one_place
from ivfast.data.exact import DeviceSearch
from ivfast.data.vectors import Points
from ivfast.method import CELLS, COUNTED, NEAR
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.progress import Progress
from ivfast.start.cells import POWER_STEPS, Cells, find_cells
from ivfast.start.descent import ALONE, Means
from ivfast.start.kinship import HEAP, OWN_NEAREST, SURELY_KIN, VALLEY
from ivfast.start.kmeans import Buckets, train_kmeans
from ivfast.start.neighbors import LIMITS, N_ASKED, Neighbors, find_neighbors


class Cache(NamedTuple):
    """Where k-means and neighbours of learn are kept, and who says what they belong to."""

    folder: Path
    learn: Points
    seed: int
    progress: Progress
    means: Means = ALONE

    @property
    def device(self) -> DeviceSearch | None:
        """The accelerator's search, where learn is so large that it is used."""
        return self.means.search if len(self.learn) > LIMITS.exact_learn else None

    @property
    def near_by(self) -> dict[str, object] | None:
        """What finds near vectors in a large learn; None where the device plays no part in it."""
        if len(self.learn) <= LIMITS.exact_learn:
            return None
        return self.means.rules(len(self.learn)) | {"device": self.device is not None}

    def key(self, **settings: object) -> str:
        """A name for learn and the settings that something was computed with."""
        learn, metric = self.learn.vectors.digest, self.learn.metric
        return fingerprint(learn=learn, metric=metric, seed=self.seed, faiss=faiss.__version__, **settings)


def find_kmeans(cache: Cache, nlist: int, niter: int, *, raw: bool = False) -> np.ndarray:
    """k-means' centers on learn, (nlist, dim) float32, inside.

    niter: iterations at most; raw: learn's space leaves rows as they are stored (see ivfast.train.baseline)
    raises: UserError where learn has fewer vectors than buckets
    """

    def cluster() -> dict[str, np.ndarray]:
        form = " as they are stored" if raw else ""
        cache.progress.note(f"k-means: clustering {len(cache.learn):,} vectors{form} into {nlist} buckets")
        with cache.progress.stage("k-means"):
            found = train_kmeans(cache.learn, nlist, niter, cache.seed, cache.progress, search=cache.device)
        return {"centers": found.centers, "counts": np.array([found.n_iterations, found.n_points])}

    how: dict[str, object] = {name: True for name, is_so in (("device", cache.device), ("raw", raw)) if is_so}
    found, old = cached(cache.folder, "kmeans", cache.key(nlist=nlist, niter=niter, **how), cluster)
    iterations, points = found["counts"].tolist()
    cache.progress.note(
        f"k-means: {nlist} centers, {iterations} iterations of at most {niter} "
        f"on {points:,} vectors{', from the cache' if old else ''}"
    )
    tell_one_place("k-means", found["centers"], cache.progress)
    return found["centers"]


def find_learn_neighbors(cache: Cache, ftopk: int) -> Neighbors:
    """Neighbours in learn of each training and each held-out vector."""

    def search() -> dict[str, np.ndarray]:
        return find_neighbors(cache.learn, ftopk, cache.seed, cache.progress, cache.means)._asdict()

    rules: dict[str, object] = {"asked_for": N_ASKED, "answers": COUNTED, "twins": "once"}
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


def find_learn_cells(cache: Cache, kmeans: np.ndarray, niter: int) -> tuple[Cells, Buckets]:
    """Which buckets of k-means each learn vector lies near, and what the buckets measure.

    kmeans: (nlist, dim) float32, of niter iterations at most
    """

    def search() -> dict[str, np.ndarray]:
        cells, buckets = find_cells(cache.learn, kmeans, cache.progress, search=cache.device)
        floor = {"delta_floor": np.array(buckets.delta_floor)}
        return cells._asdict() | {"share": buckets.share, "radius": buckets.radius} | floor

    key = cache.key(
        nlist=len(kmeans),
        niter=niter,
        power_steps=POWER_STEPS,
        near=CELLS,
        measured=NEAR,
        kmeans=hashlib.blake2b(kmeans.tobytes(), digest_size=8).hexdigest(),
    )
    found = cached(cache.folder, "cells", key, search)[0]
    buckets = Buckets(found["share"], found["radius"], float(found["delta_floor"]))
    return Cells(found["nearest"], found["place"]), buckets
