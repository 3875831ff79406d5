"""How many of its lists a FAISS IVF search may scan before an exact one is faster (`SearchLimits.ivf_pays`).

    python -m benchmarks.exact_search --dim 256 50

Random unit vectors under IP, as many lists as ivfast.start.neighbors makes; figures are times over the exact search's,
the best of two.
"""

import argparse
import time

import faiss
import numpy as np

from benchmarks.runs import print_table

QUERIES, K = 4096, 21


def seconds(index: faiss.Index, x: np.ndarray) -> float:
    """The best of two searches."""
    found = []
    for _ in range(2):
        started = time.perf_counter()
        index.search(x, K)
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, nargs="+", default=[256])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--nprobe", type=int, nargs="+", default=[64, 128, 256, 512])
    options = parser.parse_args()
    rows = []
    for dim in options.dim:
        x = np.random.default_rng(1).standard_normal((options.rows, dim)).astype(np.float32)
        faiss.normalize_L2(x)
        exact = faiss.IndexFlatIP(dim)
        exact.add(x)
        nlist = int(4 * np.sqrt(len(x)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, nlist, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid = 2, 39
        index.train(x)
        index.add(x)
        base = seconds(exact, x[:QUERIES])
        for nprobe in options.nprobe:
            index.nprobe = nprobe
            rows.append([str(dim), f"{nprobe} of {nlist}", f"{seconds(index, x[:QUERIES]) / base:.2f}"])
    print_table(["dim", "nprobe", "over exact"], rows)


if __name__ == "__main__":
    main()
