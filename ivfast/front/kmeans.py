"""Trained centers in the shape of faiss.Kmeans, for code that has one already."""

from typing import Any

import numpy as np

from ivfast.data.exact import searcher
from ivfast.front.fit import fit
from ivfast.index.model import TrainedModel
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress, silent


class Kmeans:
    """What faiss.Kmeans is called with, and what it offers, with centers that a search scans less by.

    d: entries of a vector; k: centers
    niter: k-means iterations where training starts, at most
    spherical: vectors are of unit norm and compared by inner product
    verbose: show what training does
    seed, gpu: as faiss.Kmeans has them; gpu is True, or a number
    more: settings of `ivfast.fit`
    raises: UserError at `train`, on vectors that cannot be right

    >>> kmeans = ivfast.Kmeans(16, 16, niter=10, epochs=1)
    >>> kmeans.train(base)
    >>> kmeans.centroids.shape
    (16, 16)
    >>> distances, buckets = kmeans.assign(base[:5])
    >>> buckets.shape
    (5,)
    """

    def __init__(
        self, d: int, k: int, niter: int = 25, *, spherical: bool = False, verbose: bool = False, seed: int = 1234,
        gpu: bool | int = False, **more: Any,
    ) -> None:  # fmt: skip
        self.d, self.k, self.niter, self.spherical, self.verbose, self.seed = d, k, niter, spherical, verbose, seed
        self.gpu = -1 if gpu is False else int(gpu) if gpu is not True else 0
        self.more = more
        self.model: TrainedModel | None = None
        self.centroids: np.ndarray | None = None  # (k, d) float32, once trained

    def train(self, x: np.ndarray) -> None:
        """Train the centers. x: (n, d) floats"""
        if np.ndim(x) != 2 or np.shape(x)[1] != self.d:
            raise UserError(f"x: found shape {np.shape(x)}, expected (n, {self.d}); correct it, or d")
        self.model = fit(
            x, self.k, metric="IP" if self.spherical else "L2", seed=self.seed, gpu=self.gpu, niter=self.niter,
            progress=Progress() if self.verbose else silent(), **self.more,
        )  # fmt: skip
        self.centroids = self.model.centers

    def assign(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest center of each vector.

        x: (n, d) floats; returns squared distances, or inner products where spherical, (n,) float32, and centers (n,)
        raises: UserError before `train`
        """
        if self.centroids is None:
            raise UserError("Kmeans: nothing is trained yet; call train(x) first")
        find = searcher(self.centroids, "IP" if self.spherical else "L2")
        distances, centers = find(np.ascontiguousarray(x, dtype=np.float32), 1)
        return distances[:, 0], centers[:, 0]
