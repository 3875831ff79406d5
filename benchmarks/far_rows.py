"""What one odd row, column or offset of learn costs: scanned for 90 % recall, beside plain FAISS k-means.

    python -m benchmarks.far_rows

1,500 vectors of 16 dims each for learn and base around 60 drawn points, 200 queries, 16 buckets, L2. The other files
stay as they are where a case names one.
"""

import tempfile
from pathlib import Path

import faiss
import numpy as np

from benchmarks.runs import kmeans_share, print_table, results, run_dcnet, scanned
from ivfast.data.synthetic import save_set

DIM, NLIST = 16, 16
FLAGS = (
    f"--data_name far --learn_name learn_far --metric L2 --nlist {NLIST} --param_list {DIM} {NLIST} --niter 10 "
    "--epochs 4 --warmup 1 --lr 2e-3 --percents 0 --gpu -1"
)
Set = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_set() -> Set:
    """learn, base, query."""
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((60, DIM))
    learn, base, query = (
        (middles[rng.integers(60, size=n)] + 0.5 * rng.standard_normal((n, DIM))).astype(np.float32)
        for n in (1500, 1500, 200)
    )
    return learn, base, query


def far(rows: np.ndarray, size: float, step: int = 1500) -> np.ndarray:
    """Every so many rows, from the eighth on, times a size."""
    rows = rows.copy()
    rows[7::step] *= np.float32(size)
    return rows


def cases(clean: Set) -> dict[str, Set]:
    """What is tried."""
    learn, base, query = clean
    wide = np.ones(DIM, np.float32)
    wide[3] = 1e4
    return {
        "none": clean,
        "one row of learn times 1e7": (far(learn, 1e7), base, query),
        "one row of learn times 1e8": (far(learn, 1e8), base, query),
        "one row of learn times 1e12": (far(learn, 1e12), base, query),
        "1 % of learn times 1e8": (far(learn, 1e8, 100), base, query),
        "one row of base times 1e30": (learn, far(base, 1e30), query),
        "1 % of all times 1e8": (far(learn, 1e8, 100), far(base, 1e8, 100), far(query, 1e8, 100)),
        "one column times 1e4": (learn * wide, base * wide, query * wide),
        "all plus 1e5": (learn + np.float32(1e5), base + np.float32(1e5), query + np.float32(1e5)),
    }


def answers(base: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Brute force in float64."""
    middle = np.median(base.astype(np.float64), axis=0)
    base, query = base - middle, query - middle
    return np.argsort(np.square(base).sum(axis=1) - 2 * query @ base.T, axis=1, kind="stable")[:, :10]


def plain_share(learn: np.ndarray, base: np.ndarray, query: np.ndarray) -> float:
    """What plain faiss.Kmeans on the file scans, counted in float64."""
    kmeans = faiss.Kmeans(DIM, NLIST, niter=10, seed=1, min_points_per_centroid=1, max_points_per_centroid=1500)
    kmeans.train(learn)
    centers = np.asarray(kmeans.centroids, dtype=np.float64)
    of_base, of_query = (np.square(x[:, None] - centers[None]).sum(axis=2) for x in (base, query))
    stored, place = of_base.argmin(axis=1), of_query.argsort(axis=1).argsort(axis=1)
    needed = np.take_along_axis(place, stored[answers(base, query)], axis=1)
    recall = [(needed <= last).mean() for last in range(NLIST)]
    sizes = np.bincount(stored, minlength=NLIST)[of_query.argsort(axis=1)]
    return float(np.interp(0.9, recall, np.cumsum(sizes, axis=1).mean(axis=0) / len(base)))


def one(data: Set) -> list[str]:
    """A run's shares, or how it ended."""
    learn, base, query = data
    with tempfile.TemporaryDirectory() as folder:
        save_set(Path(folder), "far", learn, base, query, answers(base, query))
        try:
            run_dcnet("--data_path", folder, "--save_path", f"{folder}/out", *FLAGS.split())
        except SystemExit as failed:
            return [str(failed).strip().splitlines()[-1][:60], "-"]
        lines = results(Path(folder) / "out")
    shares = kmeans_share(lines), scanned(lines, "centers", "benefit", 0.0, "fixed")
    return [f"{100 * share:.1f} %" for share in shares]


def main() -> None:
    """Print one table."""
    rows = [[name, f"{100 * plain_share(*data):.1f} %", *one(data)] for name, data in cases(make_set()).items()]
    print_table(["what is odd", "plain FAISS k-means", "kmeans.npy", "ivfast.npy"], rows)


if __name__ == "__main__":
    main()
