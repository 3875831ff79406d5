"""A trained run searched in NumPy alone: what an engine of your own does.

    python -m examples.plain_numpy --save_path out --base DATA/mine/base.npy --query DATA/mine/query.npy \
        --copies 0.8 --nprobe 8 --k 10 --out ids.npy

Writes rows of base, (n, k) int64, best first, -1 where the probed lists hold fewer than k vectors.
"""

import argparse
from pathlib import Path

import numpy as np

import ivfast
from ivfast.runtime.files import save_array


def make_lists(placed: ivfast.Placed, nlist: int) -> list[np.ndarray]:
    """Rows of base in each bucket, one int64 array a bucket."""
    order = np.argsort(placed.buckets, kind="stable")
    return np.split(placed.rows[order], np.searchsorted(placed.buckets[order], np.arange(1, nlist)))


def search(
    base: np.ndarray, lists: list[np.ndarray], query: np.ndarray, buckets: np.ndarray, k: int, metric: str
) -> np.ndarray:
    """The k best vectors in the buckets of each query.

    base: (n_base, dim); query: (n, dim); buckets: (n, nprobe), see TrainedModel.rank
    metric: IP or L2
    returns: (n, k) int64 rows of base, best first, -1 where there are fewer
    """
    ids = np.full((len(query), k), -1, dtype=np.int64)
    for i, x in enumerate(query):
        rows = np.unique(np.concatenate([lists[b] for b in buckets[i]]))  # once each, in however many lists they are
        scores = base[rows] @ x if metric == "IP" else -np.square(base[rows] - x).sum(axis=1)
        best = rows[np.argsort(-scores, kind="stable")[:k]]
        ids[i, : len(best)] = best
    return ids


def main(argv: list[str] | None = None) -> None:
    """Store base, search for all queries, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run")
    parser.add_argument("--base", type=Path, required=True, help="vectors to search, .npy")
    parser.add_argument("--query", type=Path, required=True, help="vectors to search for, .npy")
    parser.add_argument("--copies", type=float, default=0.0, help="extra entries a vector, one of the run's --percents")
    parser.add_argument("--nprobe", type=int, default=8, help="buckets to look into")
    parser.add_argument("--k", type=int, default=10, help="answers a query")
    parser.add_argument("--out", type=Path, default=Path("ids.npy"), help="answers")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base, query = (np.load(path).astype(np.float32) for path in (options.base, options.query))
    lists = make_lists(model.store(base, options.copies), model.nlist)
    buckets = model.rank(query, options.nprobe).buckets
    save_array(options.out, search(base, lists, query, buckets, options.k, model.metric))


if __name__ == "__main__":
    main()
