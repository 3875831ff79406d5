"""A trained run in DuckDB, which takes no centers: a column says in which bucket a row lies.

    python -m examples.duckdb_buckets --save_path out --base DATA/mine/base.npy --query DATA/mine/query.npy \
        --copies 0.8 --nprobe 8 --k 10 --database vectors.duckdb --out ids.npy

Makes the table `vectors` (id, bucket, vector), a row an entry: a vector with copies has several rows of one id.
Writes ids, (n, k) int64, best first, -1 where the probed buckets hold fewer than k vectors.
"""

import argparse
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

import ivfast
from ivfast.runtime.files import save_array

SCORES = {"IP": "-array_inner_product", "L2": "array_distance"}  # the less, the better


def write(connection: duckdb.DuckDBPyConnection, base: np.ndarray, placed: ivfast.Placed) -> None:
    """Make the table anew, rows of a bucket next to each other.

    base: (n_base, dim) float32, where ids are rows
    """
    order = np.argsort(placed.buckets, kind="stable")  # so that a bucket lies together
    rows, dim = placed.rows[order], base.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(base[rows].ravel()), dim)
    entries = pa.table({"id": rows, "bucket": placed.buckets[order].astype(np.int32), "vector": vectors})
    connection.register("entries", entries)
    connection.execute(f"CREATE OR REPLACE TABLE vectors (id BIGINT, bucket INTEGER, vector FLOAT[{dim}])")
    connection.execute("INSERT INTO vectors SELECT * FROM entries")
    connection.unregister("entries")


def search(
    connection: duckdb.DuckDBPyConnection, x: np.ndarray, buckets: np.ndarray | None, k: int, metric: str
) -> list[int]:
    """The k best ids for one query, each once.

    x: (dim,) float32
    buckets: (nprobe,) to look into, see TrainedModel.rank; None: all
    metric: IP or L2
    """
    where, values = ("", {}) if buckets is None else ("WHERE bucket = ANY($buckets)", {"buckets": buckets.tolist()})
    found = connection.execute(
        f"SELECT DISTINCT id, {SCORES[metric]}(vector, $x::FLOAT[{len(x)}]) AS score "  # noqa: S608
        f"FROM vectors {where} ORDER BY score, id LIMIT $k",
        {"x": x.tolist(), "k": k, **values},
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
    parser.add_argument("--database", type=Path, default=Path("vectors.duckdb"), help="file of the database")
    parser.add_argument("--out", type=Path, default=Path("ids.npy"), help="answers")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base, query = (np.load(path).astype(np.float32) for path in (options.base, options.query))
    ids = np.full((len(query), options.k), -1, dtype=np.int64)
    with duckdb.connect(str(options.database)) as connection:
        write(connection, base, model.store(base, options.copies))
        for i, buckets in enumerate(model.rank(query, options.nprobe).buckets):
            found = search(connection, query[i], buckets, options.k, model.metric)
            ids[i, : len(found)] = found
    save_array(options.out, ids)


if __name__ == "__main__":
    main()
