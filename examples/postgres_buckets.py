"""A trained run in PostgreSQL with pgvector, whose indexes take no centers: a column says in which bucket a row lies.

    python -m examples.postgres_buckets --save_path out --base DATA/mine/base.npy --query DATA/mine/query.npy \
        --copies 0.8 --nprobe 8 --k 10 --url postgresql://localhost/mine --out ids.npy

Makes the table `vectors` (id, bucket, vector) with an index on bucket, a row an entry: a vector with copies has
several rows of one id. Writes ids, (n, k) int64, best first, -1 where the probed buckets hold fewer than k vectors.
"""

import argparse
from pathlib import Path
from typing import LiteralString

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

import ivfast
from ivfast.runtime.files import save_array

OPERATORS: dict[str, LiteralString] = {"IP": "<#>", "L2": "<->"}  # pgvector's, the less, the better


def connect(url: str) -> psycopg.Connection:
    """A connection that knows the type vector."""
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    register_vector(connection)
    return connection


def write(connection: psycopg.Connection, base: np.ndarray, placed: ivfast.Placed) -> None:
    """Make the table and its index anew, rows of a bucket next to each other.

    base: (n_base, dim) float32, where ids are rows
    """
    connection.execute("DROP TABLE IF EXISTS vectors")
    table = sql.SQL("CREATE TABLE vectors (id bigint, bucket integer, vector vector({}))")
    connection.execute(table.format(base.shape[1]))
    order = np.argsort(placed.buckets, kind="stable")  # so that a bucket lies on few pages
    with connection.cursor().copy("COPY vectors (id, bucket, vector) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "int4", "vector"])
        for row, bucket in zip(placed.rows[order].tolist(), placed.buckets[order].tolist(), strict=True):
            copy.write_row((row, bucket, base[row]))
    connection.execute("CREATE INDEX ON vectors (bucket)")
    connection.execute("ANALYZE vectors")


def search(connection: psycopg.Connection, x: np.ndarray, buckets: np.ndarray, k: int, metric: str) -> list[int]:
    """The k best ids for one query, each once.

    x: (dim,) float32; buckets: (nprobe,) to look into, see TrainedModel.rank
    metric: IP or L2
    """
    found = connection.execute(
        f"SELECT DISTINCT id, vector {OPERATORS[metric]} %s AS distance FROM vectors "  # noqa: S608
        "WHERE bucket = ANY(%s) ORDER BY distance, id LIMIT %s",
        (x, buckets.tolist(), k),
    )
    return [row[0] for row in found.fetchall()]


def main(argv: list[str] | None = None) -> None:
    """Write the table, search for all queries, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run")
    parser.add_argument("--base", type=Path, required=True, help="vectors to search, .npy")
    parser.add_argument("--query", type=Path, required=True, help="vectors to search for, .npy")
    parser.add_argument("--copies", type=float, default=0.0, help="extra entries a vector, one of the run's --percents")
    parser.add_argument("--nprobe", type=int, default=8, help="buckets to look into")
    parser.add_argument("--k", type=int, default=10, help="answers a query")
    parser.add_argument(
        "--url", required=True, help="of the database, postgresql://...; its table `vectors` is replaced"
    )
    parser.add_argument("--out", type=Path, default=Path("ids.npy"), help="answers")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base, query = (np.load(path).astype(np.float32) for path in (options.base, options.query))
    ids = np.full((len(query), options.k), -1, dtype=np.int64)
    with connect(options.url) as connection:
        write(connection, base, model.store(base, options.copies))
        for i, buckets in enumerate(model.rank(query, options.nprobe).buckets):
            found = search(connection, query[i], buckets, options.k, model.metric)
            ids[i, : len(found)] = found
    save_array(options.out, ids)


if __name__ == "__main__":
    main()
