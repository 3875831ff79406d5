"""Fixtures that several tests share: vectors in memory, written-down logits, a tiny data set on disk."""

import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ivfast.data.space import Space
from ivfast.data.vectors import Points, Vectors
from ivfast.route.routers import Router
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.progress import Progress, silent
from ivfast.start import descent, descent_process
from tests.many_files import files_of, fit_of, one_of  # noqa: F401


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def as_vectors() -> Callable[[np.ndarray], Vectors]:
    """An array in memory as the rows of a file."""
    return lambda rows: Vectors("learn", Path("learn.npy"), rows)


def plain_space(dim: int, metric: str = "L2") -> Space:
    """The space in which x is the row as stored (under IP: over its norm, where that is nearly 1)."""
    return Space(metric, np.zeros(dim, np.float32), np.float32(1))


def points_of(rows: np.ndarray, metric: str = "L2") -> Points:
    """An array in memory as points in the plain space."""
    return Points(Vectors("learn", Path("learn.npy"), rows), plain_space(rows.shape[1], metric))


@pytest.fixture(scope="session")
def table_router() -> Callable[[int], Router]:
    """A router whose logits are the rows themselves, so that a test writes z down."""
    return lambda nlist: Router("table", nlist, lambda x: x)


@pytest.fixture(scope="session")
def logit_table(table_router: Callable[[int], Router]) -> Callable[[np.ndarray], LogitTiles]:
    """Tiles of written-down logits, (n, nlist)."""
    return lambda z: LogitTiles(table_router(z.shape[1]), points_of(z.astype(np.float32)))


WriteGraph = Callable[..., None]


@pytest.fixture(scope="session")
def write_graph() -> Iterator[WriteGraph]:
    """NN-descent in one process for all tests: compiling it takes half a minute, once instead of for each graph.

    Not in the tests' own process: numba sets the number of OpenMP's threads, by which torch rounds.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=warnings.simplefilter, initargs=("ignore",)) as pool:
        yield lambda *args, **options: pool.submit(descent_process.write_graph, *args, **options).result()


@pytest.fixture
def descent_here(monkeypatch: pytest.MonkeyPatch, write_graph: WriteGraph) -> None:
    """NN-descent in the process that has compiled it already."""

    def run(files: list[Path], n_neighbors: int, *_: object) -> None:
        write_graph(*map(str, files), n_neighbors)

    monkeypatch.setattr(descent, "_run", run)


@pytest.fixture
def heard_hang_ups() -> Iterator[None]:
    """Also where the tests run under nohup, which switches SIGHUP off for all that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class TinySet(NamedTuple):
    """A data set in the documented layout: unit rows, exact neighbours as gt."""

    data_path: Path
    learn: np.ndarray  # (200, 8) float32
    base: np.ndarray  # (300, 8) float32
    query: np.ndarray  # (60, 8) float32
    gt: np.ndarray  # (60, 12) int64


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def tiny_set(tmp_path: Path, rng: np.random.Generator) -> TinySet:
    learn, base, query = (unit_rows(rng, n, 8) for n in (200, 300, 60))
    products = query.astype(np.float64) @ base.astype(np.float64).T
    gt = np.argsort(-products, axis=1, kind="stable")[:, :12].astype(np.int64)
    folder = tmp_path / "data"
    (folder / "tiny").mkdir(parents=True)
    np.save(folder / "learn.npy", learn)
    for name, array in (("base", base), ("query", query), ("gt", gt)):
        np.save(folder / "tiny" / f"{name}.npy", array)
    return TinySet(folder, learn, base, query, gt)


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(None, silent().console)
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small runs go in blocks as large ones do, and lists are made anew within an epoch."""
    for name, value in {"MANY_BUCKETS": 32, "LEAST_BATCH": 1, "BLOCK_PAIRS": 4, "SEEN": 8, "LISTED": 5}.items():
        monkeypatch.setattr(f"ivfast.network.backend.{name}", value)
    monkeypatch.setattr("ivfast.train.pairs.LISTS_LAST", 48)
