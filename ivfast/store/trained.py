"""The trained model of a finished run: its centers, what ranks buckets, and where a base is stored."""

from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.centers import check_norms, open_centers
from ivfast.data.cleaning import Advice, Cleaning, scan
from ivfast.data.vectors import FLOATS, Points, Vectors
from ivfast.network.backend import load_ranker, load_search
from ivfast.route.distances import log_softmax, top
from ivfast.route.routers import ROUTERS, Router, centers_router
from ivfast.route.tiles import LogitTiles, make_tiles
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.start.descent import Means
from ivfast.start.neighbors import nearest_of_all
from ivfast.store.dcnet_file import Model, load_model, model_router
from ivfast.store.demand import Demand, find_probes, reverse_of
from ivfast.store.place import make_plans, place
from ivfast.store.records import Facts, storing_ts

TO_CALLERS = Advice("leave them out before", "divide rows by their norms (faiss.normalize_L2)")


class Ranked(NamedTuple):
    """The best buckets of some vectors."""

    buckets: np.ndarray  # (n, nprobe) int64, best first
    chances: np.ndarray  # (n, nprobe) float32, how likely a right answer lies there, see docs/formats.md


class Placed(NamedTuple):
    """Which vectors go into which buckets: one row and one bucket an entry, grouped by vector."""

    rows: np.ndarray  # (entries,) int64, rows of the vectors stored
    buckets: np.ndarray  # (entries,) int64


class TrainedModel:
    """A finished run, read from its save_path by `ivfast.load`.

    centers: (nlist, dim) float32, those of ivfast.npy: what a plain engine takes as its coarse quantizer
    metric: IP or L2
    """

    def __init__(self, centers: np.ndarray, model: Model, backend: str = "jax", gpu: int = -1) -> None:
        self.centers, self.metric = centers, model.space.metric
        self._model, self._backend, self._gpu = model, backend, gpu

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
        points, probing_t = self._points(x), self._facts(router).probing_t
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
        facts = self._facts("centers")
        if facts.storing(copies) is None:
            known = ", ".join(f"{number:g}" for number in self.copies)
            raise UserError(
                f"copies {copies!r}: expected one of the run's --percents ({known}); choose one, or train with it"
            )
        points = self._points(base)
        width = min(self._model.ftopk, self.nlist)
        tiles = make_tiles(self._router("centers"), points, temperatures=storing_ts(facts), width=width)
        demand = None
        if len(points) > 1:
            means = Means(search=load_search(self._backend, self._gpu))
            reverse = reverse_of(nearest_of_all(points, len(self._model.asking), silent(), means), self._model.asking)
            demand = Demand(reverse, find_probes(tiles, facts.nprobe))
        plans = make_plans([ROUTERS["centers"].default_rule], facts.terms([copies], demand))
        buckets = place(tiles, plans, width)[0].buckets
        rows, columns = np.nonzero(buckets >= 0)
        # contiguous, since FAISS takes pointers
        return Placed(np.ascontiguousarray(rows), buckets[rows, columns].astype(np.int64))

    def _facts(self, router: str) -> Facts:
        if router not in ("centers", *(["net"] if self._model.net else [])):
            known = "'centers' or 'net'" if self._model.net else "'centers', since the run trained no network"
            raise UserError(f"router {router!r}: expected {known}; correct it")
        return self._model.facts[router]

    def _router(self, name: str) -> Router:
        return self._centers if name == "centers" else self._net

    @cached_property
    def _centers(self) -> Router:
        space, k = self._model.space, self._facts("centers").k
        ranker = load_ranker(self._backend, self._gpu)
        return centers_router("centers", space.inside(self.centers), space.metric, self._model.delta_floor, k, ranker)

    @cached_property
    def _net(self) -> Router:
        return model_router(self._model, self._facts("net").k, self._backend, self._gpu)

    def _points(self, vectors: np.ndarray) -> Points:
        """Check what a caller hands over as a run checks its base."""
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or not len(vectors) or vectors.dtype.name not in FLOATS:
            raise UserError(
                f"vectors: found {vectors.dtype} of shape {vectors.shape}, expected floats, (n, {self.dim}) with n "
                "above 0; convert them with .astype('float32'), or hand over vectors of the run's dim"
            )
        cleaning = Cleaning(normalize=self._model.about["settings"]["normalize"])
        raw = Vectors("vectors", Path("(array)"), vectors)
        return Points(scan(raw, self.metric, silent(), cleaning, TO_CALLERS), self._model.space)


def load(save_path: Path | str, backend: str = "jax", gpu: int = -1) -> TrainedModel:
    """Read the trained model of a finished run.

    save_path: the run's --save_path, which holds ivfast.npy and dcnet.safetensors
    backend, gpu: what the network runs on where it is asked to rank; -1 is the CPU
    raises: UserError where files are missing, damaged, or do not belong together
    """
    folder = Path(save_path)
    path = folder / "ivfast.npy"
    if not path.is_file():
        raise UserError(f"{folder}: no ivfast.npy, expected the save_path of a finished run; train first")
    centers = open_centers(path)
    model = load_model(folder / "dcnet.safetensors", path)
    if model is None or not model.fits(centers):
        raise UserError(f"{folder}: dcnet.safetensors is missing or belongs to another ivfast.npy; train again")
    if model.space.metric == "IP":
        check_norms(centers, path)
    return TrainedModel(centers, model, backend, gpu)
