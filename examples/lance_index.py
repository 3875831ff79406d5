"""A trained run's centers as the partitions of a Lance index, with copies or without.

    python -m examples.lance_index --save_path out --base DATA/mine/base.npy --query DATA/mine/query.npy \
        --copies 0.8 --nprobe 8 --k 10 --dataset vectors.lance --out ids.npy

Makes a Lance dataset (id, vector) with an IVF_FLAT index over ivfast.npy, a row an entry: a vector with copies has
several rows of one id. Writes ids, (n, k) int64, best first, -1 where the probed partitions hold fewer than k vectors.
"""

import argparse
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

import ivfast
from ivfast.runtime.files import save_array

METRICS = {"IP": "cosine", "L2": "l2"}  # of unit rows the cosine is the inner product


def write(path: Path, base: np.ndarray, rows: np.ndarray) -> lance.LanceDataset:
    """A dataset of base[rows], (n_base, dim) float32, whose ids are rows."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(base[rows].ravel()), base.shape[1])
    return lance.write_dataset(pa.table({"id": rows, "vector": vectors}), path, mode="overwrite")


def make_index(
    dataset: lance.LanceDataset, centers: np.ndarray, metric: str, buckets: np.ndarray | None = None
) -> None:
    """Index a dataset by our centers.

    centers: (nlist, dim) float32
    buckets: (rows of the dataset,) where each goes; None: to its nearest center
    """
    with tempfile.TemporaryDirectory() as folder:
        if buckets is not None:
            row_ids = dataset.to_table(columns=[], with_row_id=True)["_rowid"]
            partitions = pa.table({"row_id": row_ids, "partition": buckets.astype(np.uint32)})
            lance.write_dataset(partitions, folder, max_rows_per_file=len(buckets), mode="overwrite")  # one file
        dataset.create_index(
            "vector", "IVF_FLAT", metric=METRICS[metric], ivf_centroids=centers, replace=True,
            precomputed_partition_dataset=None if buckets is None else folder,
        )  # fmt: skip


def search(dataset: lance.LanceDataset, x: np.ndarray, nprobe: int, k: int, most: int = 1) -> list[int]:
    """The ids of the k best vectors in the nprobe best partitions, each once, best first.

    x: (dim,) float32
    most: rows that one id may have: so many times k rows hold k ids
    """
    nearest = {"column": "vector", "q": x, "k": k * most, "minimum_nprobes": nprobe, "maximum_nprobes": nprobe}
    found = dataset.to_table(columns=["id", "_distance"], nearest=nearest)["id"].to_pylist()
    return list(dict.fromkeys(found))[:k]


def main(argv: list[str] | None = None) -> None:
    """Write the dataset, search for all queries, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run")
    parser.add_argument("--base", type=Path, required=True, help="vectors to search, .npy")
    parser.add_argument("--query", type=Path, required=True, help="vectors to search for, .npy")
    parser.add_argument("--copies", type=float, default=0.0, help="extra entries a vector, one of the run's --percents")
    parser.add_argument("--nprobe", type=int, default=8, help="partitions to look into")
    parser.add_argument("--k", type=int, default=10, help="answers a query")
    parser.add_argument("--dataset", type=Path, default=Path("vectors.lance"), help="folder of the dataset")
    parser.add_argument("--out", type=Path, default=Path("ids.npy"), help="answers")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base, query = (np.load(path).astype(np.float32) for path in (options.base, options.query))
    rows, buckets = model.store(base, options.copies)
    dataset = write(options.dataset, base, rows)
    make_index(dataset, model.centers, model.metric, buckets)
    ids = np.full((len(query), options.k), -1, dtype=np.int64)
    for i, x in enumerate(query):
        found = search(dataset, x, options.nprobe, options.k, int(np.bincount(rows).max()))
        ids[i, : len(found)] = found
    save_array(options.out, ids)


if __name__ == "__main__":
    main()
