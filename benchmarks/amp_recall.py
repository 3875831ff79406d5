"""Recall of mixed precision beside float32's, over every row of the evaluation, at the main job's settings.

    python -m benchmarks.amp_recall --data_path DIR --set text --metric IP
    python -m benchmarks.amp_recall --data_path DIR --set sift --metric L2 --times 1000 --amp_dtypes float16

--times multiplies learn, base and query first: entries beyond float16's range train as they do without it.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.runs import (
    PERCENTS,
    kmeans_share,
    main_job_flags,
    print_table,
    results,
    run_dcnet,
    scaled_copy,
    scanned,
)

FLOAT32 = "float32"


def one_run(data: Path, name: str, metric: str, backend: str, precision: str, out: Path) -> Path:
    """Train and evaluate; k-means and neighbours come from the first run's cache. Returns its folder."""
    folder = out / f"{backend}_{precision}"
    if (out / "cache").exists():
        shutil.copytree(out / "cache", folder / "cache")
    amp = () if precision == FLOAT32 else ("--use_amp", "True", "--amp_dtype", precision)
    run_dcnet("--backend", backend, "--save_path", str(folder), *main_job_flags(data, name, metric), *amp)
    if not (out / "cache").exists():
        shutil.copytree(folder / "cache", out / "cache")
    return folder


def gap_of_recall(folder: Path, reference: Path) -> tuple[float, float]:
    """Largest difference of recall over all rows and nprobes, by fixed and by adaptive probing."""
    gaps = {"fixed": 0.0, "adaptive": 0.0}
    for mine, other in zip(results(folder), results(reference), strict=True):
        key = ("router", "rule", "percent", "probing")
        if any(mine[k] != other[k] for k in key):
            raise SystemExit(f"rows of {folder.name} and {reference.name} differ: {[mine[k] for k in key]}")
        gap = np.abs(np.subtract(mine["recall"], other["recall"])).max()
        gaps[mine["probing"]] = max(gaps[mine["probing"]], float(gap))
    return gaps["fixed"], gaps["adaptive"]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--set", required=True)
    parser.add_argument("--metric", default="IP", choices=["IP", "L2"])
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    parser.add_argument("--amp_dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--times", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="keep the outputs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        data = options.data_path
        if options.times != 1.0:
            data = scaled_copy(data, options.set, out / "data", options.times)
        rows = []
        for backend in options.backends:
            reference = one_run(data, options.set, options.metric, backend, FLOAT32, out)
            for precision in (FLOAT32, *options.amp_dtypes):
                folder = reference
                if precision != FLOAT32:
                    folder = one_run(data, options.set, options.metric, backend, precision, out)
                lines = results(folder)
                over = [
                    scanned(lines, router, "benefit", p, "fixed") / kmeans_share(lines)
                    for router in ("centers", "net")
                    for p in PERCENTS
                ]
                shares = [" / ".join(f"{x:.3f}" for x in part) for part in (over[:3], over[3:])]
                fixed, adaptive = gap_of_recall(folder, reference)
                rows.append([options.set, backend, precision, f"{fixed:.4f}", f"{adaptive:.4f}", *shares])
                print(rows[-1], flush=True)
    head = ["set", "backend", "precision", "gap of recall, fixed", "adaptive", "centers", "net"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
