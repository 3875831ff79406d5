"""Trained centers in the shape of faiss.Kmeans, for code that has one already."""

import re
from typing import Any

import faiss
import numpy as np

from ivfast.data.exact import flat_index
from ivfast.data.vectors import float_rows
from ivfast.front.fit import LEAST, fit
from ivfast.index.model import TrainedModel
from ivfast.runtime.config import LARGEST_INT
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress, silent

PART = 5  # of the draws from "sample"


class Kmeans:
    """What faiss.Kmeans is called with, and what it offers, with centers that a search scans less by.

    d: entries of a vector; k: centers
    niter: k-means iterations where training starts, at most
    spherical: vectors are of unit norm and compared by inner product
    verbose: show what training does
    seed: start of all random numbers
    gpu: False or 0: the CPU; True or a number of GPUs, as faiss.Kmeans has it: the first GPU, never more than one
    max_points_per_centroid: of an x with more rows than k times this so many are drawn to train on, at least 1,000;
        None: all train, unlike FAISS
    min_points_per_centroid: of an x with fewer a note says so, where verbose
    more: settings of `ivfast.fit`; others of faiss.Kmeans are accepted with FAISS' own defaults alone, such as nredo=1
    raises: UserError on settings that mean nothing here; at `train`, on vectors that cannot be right

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
        gpu: bool | int = False, max_points_per_centroid: int | None = None, min_points_per_centroid: int = 39,
        **more: Any,
    ) -> None:  # fmt: skip
        self.d, self.k, self.niter, self.spherical, self.verbose, self.seed = d, k, niter, spherical, verbose, seed
        self.gpu = gpu
        self.most, self.least = max_points_per_centroid, min_points_per_centroid
        if self.most is not None and self.most < 1:
            raise UserError(f"max_points_per_centroid {self.most}: expected 1 or more; correct it")
        if not 0 <= seed <= LARGEST_INT:
            raise UserError(f"seed {seed}: expected 0 to {LARGEST_INT}; correct it")
        self.more = _without_defaults(more)
        self.model: TrainedModel | None = None
        self.centroids: np.ndarray | None = None  # (k, d) float32, once trained
        self.index: faiss.Index = flat_index(d, "IP" if spherical else "L2")  # holds the centroids, once trained

    def __repr__(self) -> str:
        known = None if self.model is None else self.model.trained_on
        trained = "not trained yet" if known is None else f"trained on {len(known):,} vectors"
        return f"ivfast.Kmeans(dim {self.d}, nlist {self.k}, metric {'IP' if self.spherical else 'L2'}, {trained})"

    def train(self, x: np.ndarray) -> None:
        """Train the centers. x: (n, d) floats"""
        rows, progress = float_rows(x, "x", self.d), Progress() if self.verbose else silent()
        if len(rows) < self.k * self.least:
            progress.note(f"x has {len(rows):,} rows for {self.k:,} centers; better {self.k * self.least:,} or more")
        most = len(rows) if self.most is None else max(self.k * self.most, LEAST)
        if len(rows) > most:
            rows = rows[np.sort(generator(self.seed, 0, "sample", PART).choice(len(rows), most, replace=False))]
        try:
            self.model = fit(
                rows, self.k, metric="IP" if self.spherical else "L2", seed=self.seed, gpu=0 if self.gpu else -1,
                niter=self.niter, progress=progress, **self.more,
            )  # fmt: skip
        except UserError as wrong:
            raise UserError(re.sub("^base:", "x:", str(wrong))) from None
        self.centroids = self.model.centers
        self.index.reset()
        self.index.add(np.ascontiguousarray(self.centroids, dtype=np.float32))

    def assign(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest center of each vector.

        x: (n, d) floats; returns squared distances, or inner products where spherical, (n,) float32, and centers (n,)
        raises: UserError before `train`, or on vectors of another shape or type
        """
        if self.centroids is None:
            raise UserError("Kmeans: nothing is trained yet; call train(x) first")
        rows = float_rows(x, "x", self.d)
        distances, centers = self.index.search(np.ascontiguousarray(rows, dtype=np.float32), 1)
        return distances[:, 0], centers[:, 0]


def _without_defaults(more: dict[str, Any]) -> dict[str, Any]:
    """Without settings of FAISS that are as FAISS has them anyway.

    raises: UserError on one that is not
    """
    theirs: Any = faiss.ClusteringParameters()
    for name in more.keys() & set(dir(theirs)):
        if more[name] != (expected := getattr(theirs, name)):
            raise UserError(
                f"{name} {more[name]!r}: of faiss.Kmeans alone, expected {expected!r}, its default; leave it out"
            )
    return {name: value for name, value in more.items() if not hasattr(theirs, name)}
