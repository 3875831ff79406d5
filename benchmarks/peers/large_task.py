"""A million vectors as a task of a comparison: what is stored where, what a search finds, what building takes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from benchmarks.peers.evaluator import Curve, search
from benchmarks.stages import anonymous_mb
from ivfast.data.exact import without_self
from ivfast.data.vectors import Points, measure_space, open_vectors
from ivfast.method import RECALL
from ivfast.route.routers import Router
from ivfast.route.search import Answers, Lists, scanned_at
from ivfast.route.tiles import LogitTiles

HELD_OUT = 2000  # rows of base on which settings are chosen


class Stored(NamedTuple):
    """Where a method puts a base."""

    method: str
    rule: str
    centers: np.ndarray  # (nlist, dim) float32
    buckets: np.ndarray  # (n, width) int32, the first bucket first, -1 where none
    built: dict[str, float]  # seconds and peak_mb
    chosen: float | None = None  # lambda

    @property
    def copies(self) -> float:
        """Extra entries over all vectors."""
        return float((self.buckets >= 0).sum() / len(self.buckets) - 1)


class Million:
    """The set, and held-out rows of its base."""

    def __init__(self, folder: Path) -> None:
        self.base = np.load(folder / "base.npy", mmap_mode="r")
        asked = open_vectors(folder / "query.npy", "query", None)
        self.query = Points(asked, measure_space(asked, "IP"))
        self.gt = np.load(folder / "gt.npy")
        self.folder = folder

    @cached_property
    def held_out(self) -> tuple[Points, np.ndarray]:
        """Rows of base as queries, and the ten nearest others of each."""
        rows = np.sort(np.random.default_rng(5).choice(len(self.base), HELD_OUT, replace=False))
        near = faiss.knn(self.base[rows], self.base, self.gt.shape[1] + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
        answers = without_self(near, rows)
        stored = open_vectors(self.folder / "base.npy", "base", None)
        return Points(stored, measure_space(stored, "IP")), np.column_stack([rows, answers])

    def curve(self, centers: np.ndarray, buckets: np.ndarray, *, held_out: bool = False) -> Curve:
        """What searches find at every nprobe."""
        points, rows, gt = self.query, None, self.gt
        if held_out:
            points, found = self.held_out
            rows, gt = found[:, 0], found[:, 1:]
        router = Router("products", len(centers), lambda x: x @ centers.T)
        sizes = np.bincount(buckets[buckets >= 0], minlength=len(centers))
        wanted, at = np.unique(gt, return_inverse=True)
        answers = Answers(at.reshape(gt.shape), np.ones(gt.shape, dtype=bool))
        return search(LogitTiles(router, points, rows), Lists(len(buckets), sizes, buckets[wanted]), answers)

    def held_out_share(self, centers: np.ndarray, buckets: np.ndarray) -> float:
        """Share of base scanned for 90 % of the held-out rows' neighbours."""
        curve = self.curve(centers, buckets, held_out=True)
        return scanned_at(curve.recall, curve.scanned, RECALL)

    def best(
        self, centers: np.ndarray, settings: tuple[float, ...], store: Callable[[float], np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """The setting that scans least on held-out rows, and what it stores."""
        found = {setting: store(setting) for setting in settings}
        shares = {setting: self.held_out_share(centers, buckets) for setting, buckets in found.items()}
        chosen = min(shares, key=lambda setting: shares[setting])
        return chosen, found[chosen]


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds, and how much memory the process took at most beyond what it held."""
    status, ended, before = Path("/proc/self/status"), threading.Event(), time.monotonic()
    at_first = anonymous_mb(status)
    took: dict[str, float] = {"seconds": 0.0, "peak_mb": 0.0}

    def look() -> None:
        while not ended.wait(0.2):
            took["peak_mb"] = max(took["peak_mb"], anonymous_mb(status) - at_first)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield took
    ended.set()
    thread.join()
    took["seconds"] = time.monotonic() - before
