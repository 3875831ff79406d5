"""A trained model as an index uses it: what ranks buckets, checks vectors, and says where they go."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ivfast.data.cleaning import Advice, Cleaning, scan
from ivfast.data.npy import called, path_of
from ivfast.data.space import UNIT_TOLERANCE
from ivfast.data.vectors import Points, Vectors, float_rows, open_vectors, unit_rows
from ivfast.index.files import ProbesUse
from ivfast.index.fit_file import DATA_NAME, FitFacts, read_fit
from ivfast.index.place import Askers, Placer, Stored
from ivfast.index.probing import Prober
from ivfast.network.backend import load_ranker, load_search
from ivfast.network.usable import some_backend
from ivfast.route.routers import Router, centers_router
from ivfast.runtime.devices import Gpu
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress, silent
from ivfast.start.descent import Means
from ivfast.start.extend import Part
from ivfast.start.neighbors import LIMITS
from ivfast.store.dcnet_file import Model, model_router
from ivfast.store.records import Facts

TO_CALLERS = Advice("leave them out before", "divide rows by their norms (faiss.normalize_L2)")


class PlacingModel:
    """The part of a model that an index takes.

    centers: (nlist, dim) float32, those of ivfast.npy: what a plain engine takes as its coarse quantizer
    metric: IP or L2
    """

    def __init__(
        self, centers: np.ndarray, model: Model, folder: Path, backend: str | None = "jax", gpu: Gpu = -1
    ) -> None:
        self.centers, self.metric, self.folder = centers, model.space.metric, folder
        self._model, self._chosen, self._gpu = model, backend, gpu
        self.trained_on: Vectors | None = None  # base as it was checked, of a model that `ivfast.fit` returned
        self._normalize: bool = model.about["settings"]["normalize"]
        self.seed: int = model.about["settings"]["seed"]

    @cached_property
    def _backend(self) -> str:
        return self._chosen or some_backend()  # first asked for where it is loaded, since finding one loads it

    @property
    def nlist(self) -> int:
        """Number of buckets."""
        return len(self.centers)

    @property
    def dim(self) -> int:
        """Entries of a vector."""
        return self.centers.shape[1]

    @property
    def copies(self) -> tuple[float, ...]:
        """Numbers of copies that a base can be stored with: the run's --percents."""
        return tuple(storing.copies for storing in self._facts("centers").storings)

    def prober(self) -> Prober:
        """What ranks buckets by the centers, for searching an index."""
        facts, model = self._facts("centers"), self._model
        return Prober(self.centers, model.space, model.delta_floor, facts.k, facts.probing_t)

    def as_stored(self, vectors: np.ndarray, name: str, first: int = 0) -> np.ndarray:
        """Check rows quickly, and make them float32 as the index stores them. (n, dim), rows from `first` on

        raises: UserError on another shape or type, NaN, infinity, or rows that IP can't take
        """
        rows = float_rows(vectors, name, self.dim)
        rows = unit_rows(rows) if self._normalize else rows
        with np.errstate(over="ignore", invalid="ignore"):  # what that leaves is refused by its row
            rows = np.ascontiguousarray(rows, dtype=np.float32)
            squares = np.einsum("ij,ij->i", rows, rows)
        if not np.isfinite(squares).all():
            row = int(np.isfinite(squares).argmin())
            what = (
                "is not finite"
                if not np.isfinite(vectors[row]).all()
                else "is too large, its square does not fit float32"
            )
            raise UserError(f"{called(name, vectors)}: row {first + row} {what}; leave such rows out before")
        if self.metric == "IP" and len(off := np.flatnonzero(np.abs(squares - 1) > 2 * UNIT_TOLERANCE)):
            raise UserError(
                f"{called(name, vectors)}: row {first + off[0]} has norm {np.sqrt(squares[off[0]]):.4g}, expected unit "
                f"norm under IP; {TO_CALLERS.normalize}"
            )
        return rows

    @property
    def held_out_queries(self) -> np.ndarray | None:
        """Logged queries that did not train, (m, dim) float32, as stored; None where there was no log."""
        log = self._model.asking_log
        return None if log is None else self._model.space.outside(log.parts[1])

    def place_points(
        self, points: Points, copies: float, aside: np.ndarray, progress: Progress, *, spare: bool = False
    ) -> Stored:
        """Where the vectors of a base go. aside: rows that are stored, but don't count as asking for others

        spare: nor do logged queries that did not train
        """
        means = Means(search=load_search(self._backend, self._gpu))
        # an accelerator's exact search of all of them is as fast
        part = self._part_of(points) if means.exact(len(points)) is None else None
        placer = self.placer(copies)
        if spare and placer.log is not None:
            placer = placer._replace(log=placer.log.parts[0])
        return placer.place_all(points, copies, aside, means, progress, part)

    def place_new(self, rows: np.ndarray, copies: float, askers: Askers, use: ProbesUse) -> np.ndarray:
        """Where vectors go that come later. rows: (n, dim) float32, as stored; returns (n, width) int32, -1: none"""
        points, who = (Points(Vectors(name, Path("(array)"), x), self._model.space) for name, x in (
            ("vectors", rows), ("askers", askers.x)
        ))  # fmt: skip
        return self.placer(copies).place_new(points, copies, who, askers.reverse, use)

    @property
    def asking(self) -> np.ndarray:
        """How often the r-th nearest of a vector is asked for beside it, (k,) float32."""
        return self._model.asking

    def placer(self, copies: float) -> Placer:
        """What places vectors; raises UserError where copies is none of the run's."""
        facts = self._facts("centers")
        if facts.storing(copies) is None:
            known = ", ".join(f"{number:g}" for number in self.copies)
            raise UserError(
                f"copies {copies!r}: expected one of the run's --percents ({known}); choose one, or train with it"
            )
        width = min(self._model.ftopk, self.nlist)
        return Placer(self._router("centers"), facts, self._model.asking, width, self._model.asking_log)

    def _facts(self, router: str) -> Facts:
        if router not in ("centers", *(["net"] if self._model.net else [])):
            known = "'centers' or 'net'" if self._model.net else "'centers', since the run trained no network"
            raise UserError(f"router {router!r}: expected {known}; correct it")
        return self._model.facts[router]

    def _router(self, name: str) -> Router:
        return self._centers if name == "centers" else self._net

    @cached_property
    def _fitted(self) -> FitFacts | None:
        """What `ivfast fit` remembers of its base; None after another run."""
        return read_fit(self.folder)

    def _part_of(self, points: Points) -> Part | None:
        """Of the base of the fit that has just returned this model those rows that trained: their graph is known."""
        if points.vectors is not self.trained_on or self._fitted is None:
            return None
        rows = np.setdiff1d(np.arange(len(points)), np.union1d(self._fitted.aside, self._fitted.test))
        if len(rows) <= LIMITS.exact_learn:
            return None
        learn = open_vectors(self.folder / DATA_NAME / "base.npy", "learn", self.dim)
        learn = replace(learn, digest=self._model.about["learn"]["hash"], normalize=self._normalize)
        return Part(Points(learn, self._model.space), rows, self.folder / "cache")

    @cached_property
    def _centers(self) -> Router:
        space, k = self._model.space, self._facts("centers").k
        ranker = load_ranker(self._backend, self._gpu)
        return centers_router("centers", space.inside(self.centers), space.metric, self._model.delta_floor, k, ranker)

    @cached_property
    def _net(self) -> Router:
        return model_router(self._model, self._facts("net").k, self._backend, self._gpu)

    def points(self, vectors: np.ndarray, name: str = "vectors") -> Points:
        """Check what a caller hands over as a run checks its base."""
        raw = Vectors(name, path_of(vectors), float_rows(vectors, name, self.dim))
        return Points(scan(raw, self.metric, silent(), Cleaning(self._normalize), TO_CALLERS), self._model.space)
