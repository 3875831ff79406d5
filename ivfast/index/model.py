"""The trained model of a finished run: its centers, what ranks buckets, and where a base is stored."""

from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.far import check_unit
from ivfast.data.vectors import Points
from ivfast.index.build import Wishes, build_index
from ivfast.index.fit_file import FIT_NAME
from ivfast.index.growth import Index
from ivfast.index.index import Reached
from ivfast.index.placing_model import PlacingModel
from ivfast.route.distances import log_softmax, top
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import copy_beside, make_folder, user_path
from ivfast.runtime.progress import Progress, silent
from ivfast.store.records import same_copies

NAMES = ("ivfast.npy", "dcnet.safetensors", FIT_NAME)


class Ranked(NamedTuple):
    """The best buckets of some vectors."""

    buckets: np.ndarray  # (n, nprobe) int64, best first
    chances: np.ndarray  # (n, nprobe) float32, how likely a right answer lies there, see docs/formats.md


class Placed(NamedTuple):
    """Which vectors go into which buckets: one row and one bucket an entry, grouped by vector."""

    rows: np.ndarray  # (entries,) int64, rows of the vectors stored
    buckets: np.ndarray  # (entries,) int64


class TrainedModel(PlacingModel):
    """A finished run, read from its save_path by `ivfast.load`.

    centers: (nlist, dim) float32, those of ivfast.npy: what a plain engine takes as its coarse quantizer
    metric: IP or L2
    """

    @property
    def usual_copies(self) -> float:
        """0.8 where the run was trained for it, else the most copies that it was trained for."""
        return next((number for number in self.copies if same_copies(0.8, number)), max(self.copies))

    def rank(self, x: np.ndarray, nprobe: int, router: str = "centers") -> Ranked:
        """The nprobe best buckets of each vector, for an engine that takes a list of buckets to scan.

        x: (n, dim) float array or memory map, as searched
        nprobe: 1 to nlist
        router: "centers", or "net": the whole network, where the run trained one. Its framework is loaded then.
        raises: UserError on vectors that do not fit the model, another router or nprobe
        """
        if not isinstance(nprobe, Integral) or not 1 <= nprobe <= self.nlist:
            raise UserError(
                f"nprobe {nprobe!r}: expected a whole number from 1 to {self.nlist}, the number of buckets; correct it"
            )
        points, probing_t = self.points(x), self._facts(router).probing_t
        buckets, chances = np.empty((len(points), nprobe), np.int64), np.empty((len(points), nprobe), np.float32)
        for start, z in LogitTiles(self._router(router), points, cached_bytes=0):
            best = top(z, nprobe)
            buckets[start : start + len(z)] = best
            chances[start : start + len(z)] = np.exp(np.take_along_axis(log_softmax(z, probing_t), best, axis=1))
        return Ranked(buckets, chances)

    def store(self, base: np.ndarray, copies: float) -> Placed:
        """Which buckets the vectors of a base go into, by benefit: where those who ask for them look.

        It first finds each vector's nearest neighbours among the others, so hand over all of base at once. Above
        200,000 vectors that takes a float32 copy in a temporary folder, and about 1 KB a vector in memory.

        base: (n, dim) float array or memory map, as searched: unit rows under IP, of any norm after a run with
        --normalize True
        copies: extra entries over all vectors; one of the run's --percents
        returns: (1 + copies) n entries, every vector at least once
        raises: UserError where copies is none of the run's, or base is of another dim or type, holds NaN or infinity
        or, under IP, rows that are not of unit norm
        """
        buckets = self.place_points(self.points(base, "base"), copies, np.empty(0, np.int64), silent()).buckets
        rows, columns = np.nonzero(buckets >= 0)
        # contiguous, since FAISS takes pointers
        return Placed(np.ascontiguousarray(rows), buckets[rows, columns].astype(np.int64))

    def index(
        self, base: np.ndarray, copies: float | None = None, kind: str = "Flat", lists_file: Path | str | None = None,
        progress: Progress | None = None,
    ) -> Index:  # fmt: skip
        """A searchable FAISS index of a base, stored as `store` says.

        base: (n, dim) float array or memory map; ids are its row numbers
        copies: extra entries over all vectors; one of the run's --percents; None: 0.8, or the most that it has
        kind: what follows `IVF` in FAISS' index factory: Flat, SQ8, PQ32, PQ32x4fs, RaBitQ
        lists_file: where the lists lie on disk, for what exceeds memory; None: in memory
        raises: UserError as `store` does, and on a kind that FAISS can't make

        >>> index = model.index(base, copies=0.8)
        >>> len(index), index.faiss_index.ntotal
        (2000, 3600)
        """
        file = None if lists_file is None else user_path(lists_file).absolute()
        return self.index_points(self.points(base, "base"), copies, kind, file, progress or silent())

    def index_points(
        self, points: Points, copies: float | None, kind: str, lists_file: Path | None, progress: Progress
    ) -> Index:
        """As `index`, of a base that is checked already."""
        check_unit(self._model.space, "index: learn's rows")
        copies = self.usual_copies if copies is None else copies
        fitted, aside, test = self._fitted, None, None
        if fitted is not None and fitted.base_digest == points.vectors.digest:
            aside, test = fitted.aside, fitted.test
        return build_index(self, points, Wishes(copies, kind, lists_file, aside, test, self.seed), progress)

    def evaluate(
        self,
        query: np.ndarray,
        gt: np.ndarray,
        base: np.ndarray | None = None,
        copies: float | None = None,
        k: int = 10,
    ) -> list[Reached]:
        """Index a base, and search it with queries whose answers are known, for a recall of 0.8, 0.9, 0.95 and 0.99.

        query: (n, dim) floats; gt: (n, k or more) integers, rows of base, nearest first
        base: (m, dim) floats; None: what `ivfast.fit` has just trained on
        returns: for each recall what was expected, and what was found and scanned
        raises: UserError as `index` does, and where there is no base

        >>> model.evaluate(query, gt, base)[0].asked
        0.8
        """
        if base is None and self.trained_on is not None:
            base = self.trained_on.rows
        if base is None:
            raise UserError("evaluate: a model that was loaded knows no base; hand it over as base=..")
        return self.index(base, copies).evaluate(query, gt, k)

    def save(self, folder: Path | str) -> None:
        """Write ivfast.npy and dcnet.safetensors into another folder, for `ivfast.load`."""
        target = user_path(folder)
        make_folder(target)
        for name in NAMES:
            source = self.folder / name
            if not source.is_file() and name != FIT_NAME:
                raise UserError(f"{source} is gone, so that the model can't be saved; save it before, or fit again")
            if source.is_file() and source.resolve() != (target / name).resolve():
                copy_beside(source, target / name)

    def points_trained_on(self) -> Points:
        """Base of the fit that has just returned this model, as it was checked there."""
        assert self.trained_on is not None
        return Points(self.trained_on, self._model.space)
