"""A trained run's centers as the partitions of a Lance index.

    python -m examples.lance_index --save_path out --base DATA/mine/base.npy --query DATA/mine/query.npy \
        --nprobe 8 --k 10 --dataset vectors.lance --out ids.npy

Makes a Lance dataset (id, vector) with an IVF_FLAT index over ivfast.npy. Lance fills the partitions itself, so a
vector lies in the one of its nearest center, without copies.
Writes ids, (n, k) int64, best first, -1 where the probed partitions hold fewer than k vectors.
"""

import argparse
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

import ivfast
from ivfast.runtime.files import save_array

METRICS = {"IP": "cosine", "L2": "l2"}  # of unit rows the cosine is the inner product


def write(path: Path, base: np.ndarray) -> lance.LanceDataset:
    """A dataset of base, (n, dim) float32, whose ids are rows."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.ravel()), base.shape[1])
    return lance.write_dataset(pa.table({"id": np.arange(len(base)), "vector": vectors}), path, mode="overwrite")


def make_index(dataset: lance.LanceDataset, centers: np.ndarray, metric: str) -> None:
    """Index the dataset by (nlist, dim) float32 centers. num_partitions must be said beside them (lance#9000)."""
    dataset.create_index(
        "vector", "IVF_FLAT", metric=METRICS[metric], num_partitions=len(centers), ivf_centroids=centers, replace=True
    )


def search(dataset: lance.LanceDataset, x: np.ndarray, nprobe: int, k: int) -> np.ndarray:
    """The ids of the k best vectors in the nprobe best partitions, best first. x: (dim,) float32"""
    nearest = {"column": "vector", "q": x, "k": k, "minimum_nprobes": nprobe, "maximum_nprobes": nprobe}
    return dataset.to_table(columns=["id"], nearest=nearest)["id"].to_numpy()


def main(argv: list[str] | None = None) -> None:
    """Write the dataset, search for all queries, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run")
    parser.add_argument("--base", type=Path, required=True, help="vectors to search, .npy")
    parser.add_argument("--query", type=Path, required=True, help="vectors to search for, .npy")
    parser.add_argument("--nprobe", type=int, default=8, help="partitions to look into")
    parser.add_argument("--k", type=int, default=10, help="answers a query")
    parser.add_argument("--dataset", type=Path, default=Path("vectors.lance"), help="folder of the dataset")
    parser.add_argument("--out", type=Path, default=Path("ids.npy"), help="answers")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base, query = (np.load(path).astype(np.float32) for path in (options.base, options.query))
    dataset = write(options.dataset, base)
    make_index(dataset, model.centers, model.metric)
    ids = np.full((len(query), options.k), -1, dtype=np.int64)
    for i, x in enumerate(query):
        found = search(dataset, x, options.nprobe, options.k)
        ids[i, : len(found)] = found
    save_array(options.out, ids)


if __name__ == "__main__":
    main()
