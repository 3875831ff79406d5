"""What training costs beside plain k-means on a million vectors, stage by stage, and what a search gains by it.

    python -m benchmarks.million --kind code
    python -m benchmarks.million --kind patches --rows 300000 --nlist 1024 --epochs 10

The set is made once in --folder, from what installed packages ship, trained in-sample and searched with 2,000 queries
and ten exact neighbours each: `code` are lines of Python code under IP (benchmarks/code_lines.py), `patches` are 8 x 8
patches of photographs under L2. The unit is plain FAISS k-means, 25 iterations on all vectors, in the same run.
Memory is anonymous (RssAnon), read every half second; a stage shorter than that may show none.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.code_lines import make_code_lines
from benchmarks.peers.task import exact
from benchmarks.runs import kmeans_share, print_table, results, scanned
from benchmarks.stages import watched_run

METRICS = {"code": "IP", "patches": "L2"}
PATCH = 8  # pixels a side
FLIPS = ((), (0,), (1,), (0, 1))  # of a photograph, for more patches than it has
N_QUERIES = 2000
KMEANS_ITERATIONS = 25
RECALL = 0.9
PERCENTS = ("0", "0.8")
TIMED = 5  # passes over the queries, of which the fastest counts


def make_patches(n: int, n_query: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors to store and queries, all different: patches of each colour of two photographs, (n, 64) float32.

    n: at most 6.4 million; beyond 1.6 million the photographs are mirrored as well
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    colours = [image[:, :, i] for image in load_sample_images().images for i in range(3)]
    found, wanted = np.empty((0, PATCH * PATCH), dtype=np.uint8), n + n_query
    for flip in FLIPS:
        views = [np.lib.stride_tricks.sliding_window_view(np.flip(x, flip), (PATCH, PATCH)) for x in colours]
        patches = np.concatenate([found, *(view.reshape(-1, PATCH * PATCH) for view in views)])
        found = np.unique(patches.view(f"V{PATCH * PATCH}")).view(np.uint8).reshape(-1, PATCH * PATCH)
        if len(found) >= wanted:
            break
    drawn = found[rng.permutation(len(found))[:wanted]].astype(np.float32)
    return drawn[n_query:], drawn[:n_query]


def make_set(folder: Path, kind: str, rows: int, seed: int) -> str:
    """Write the set in the documented layout, but for learn, which is base. Returns its name."""
    name = f"{kind}_{rows}_{seed}"
    if not (folder / name / "gt.npy").is_file():
        base, query = (make_code_lines if kind == "code" else make_patches)(rows, N_QUERIES, seed)
        write_in_sample(folder, name, base, query, METRICS[kind])
    return name


def write_in_sample(folder: Path, name: str, base: np.ndarray, query: np.ndarray, metric: str) -> None:
    """Base and queries with their exact neighbours. gt comes last, so that a set with gt is whole"""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for part, array in (("base", base), ("query", query), ("gt", exact(query, base, metric))):
        np.save(folder / name / f"{part}.npy", array)


def plain_kmeans(base: np.ndarray, nlist: int, metric: str, seed: int) -> float:
    """Seconds of FAISS k-means on all vectors. base: (n, dim) float32"""
    kmeans = faiss.Kmeans(
        base.shape[1], nlist, niter=KMEANS_ITERATIONS, seed=seed, spherical=metric == "IP",
        min_points_per_centroid=1, max_points_per_centroid=len(base),
    )  # fmt: skip
    started = time.monotonic()
    kmeans.train(base)
    return time.monotonic() - started


def query_time(folder: Path, name: str, metric: str, centers: np.ndarray) -> dict[str, float]:
    """How fast stock FAISS answers with these centers, each vector stored with its nearest: one thread, 90 % recall.

    centers: (nlist, dim) float32; returns nprobe, its recall, and microseconds a query
    """
    base, query, gt = (np.load(folder / name / f"{part}.npy", mmap_mode="r") for part in ("base", "query", "gt"))
    base, query = np.ascontiguousarray(base), np.ascontiguousarray(query)
    nlist, dim = centers.shape
    quantizer = (faiss.IndexFlatIP if metric == "IP" else faiss.IndexFlatL2)(dim)
    quantizer.add(centers)
    index = faiss.IndexIVFFlat(quantizer, dim, nlist, quantizer.metric_type)
    index.add(base)
    k = gt.shape[1]

    def recall(nprobe: int) -> float:
        index.nprobe = nprobe
        found = index.search(query, k)[1]
        return float((found[:, :, None] == gt[:, None, :]).any(axis=2).mean())

    low, high = 1, nlist  # the smallest nprobe that reaches it
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= RECALL else (middle + 1, high)
    reached, threads = recall(low), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    times = []
    for _ in range(TIMED):
        started = time.thread_time()  # of this thread alone, whatever else the machine does
        index.search(query, k)
        times.append(time.thread_time() - started)
    faiss.omp_set_num_threads(threads)
    return {"nprobe": low, "recall": reached, "microseconds": 1e6 * min(times) / len(query)}


def measure_case(
    folder: Path, name: str, metric: str, nlist: int, epochs: str | None, seed: int, extra: list[str]
) -> dict[str, Any]:
    """Plain k-means, then the whole run; all that was measured, as JSON has it.

    epochs: as --epochs has it; None: its default
    extra: further flags of run_dcnet.py
    """
    base = np.load(folder / name / "base.npy")
    n, dim = base.shape
    kmeans_seconds = plain_kmeans(base, nlist, metric, seed)
    del base
    out = folder / f"run_{name}_{nlist}_{seed}"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier measurement
    flags = [
        "--data_path", str(folder), "--data_name", name, "--learn_name", f"{name}/base", "--metric", metric,
        "--nlist", str(nlist), "--param_list", str(dim), str(nlist), "--niter", str(KMEANS_ITERATIONS),
        "--lr", "2e-3", "--warmup", "0" if epochs in ("0", "1") else "1", "--percents", *PERCENTS,
        "--seed", str(seed), "--gpu", "-1",
    ]  # fmt: skip
    watched = watched_run(out, [*flags, *(["--epochs", epochs] if epochs else []), *extra])
    lines = results(out)
    return {
        "set": name, "metric": metric, "rows": n, "dim": dim, "nlist": nlist, "seed": seed, "epochs": epochs,
        "extra": extra, "threads": faiss.omp_get_max_threads(), "kmeans_seconds": kmeans_seconds,
        "seconds": watched.seconds, "other_seconds": watched.other, "peak_mb": watched.peak_mb,
        "stages": [stage._asdict() for stage in watched.stages],
        "scanned": {
            "k-means": kmeans_share(lines),
            "trained, nearest": scanned(lines, "centers", "ratio", 0.0, "fixed"),
            "trained, benefit": scanned(lines, "centers", "benefit", 0.0, "fixed"),
            "trained, benefit, 0.8 copies": scanned(lines, "centers", "benefit", 0.8, "fixed"),
        },
        "queries": {
            title: query_time(folder, name, metric, np.load(out / f"{file}.npy"))
            for title, file in (("k-means", "kmeans"), ("trained, nearest", "ivfast"))
        },
    }  # fmt: skip


def print_case(case: dict[str, Any]) -> None:
    """Three tables."""
    unit = case["kmeans_seconds"]
    print(f"{case['set']}: {case['rows']:,} x {case['dim']}, {case['metric']}, nlist {case['nlist']}\n")
    rows = [["plain FAISS k-means", "", f"{unit:.1f}", "1.00", ""]]
    for stage in case["stages"]:
        seconds = stage["seconds"]
        peak = f"{stage['peak_mb']:.0f}" if stage["peak_mb"] else ""
        rows.append([stage["name"], str(stage["times"]), f"{seconds:.1f}", f"{seconds / unit:.2f}", peak])
    other, total = case["other_seconds"], case["seconds"]
    rows.append(["imports and all else", "", f"{other:.1f}", f"{other / unit:.2f}", ""])
    rows.append(["**total**", "", f"{total:.1f}", f"{total / unit:.2f}", f"{case['peak_mb']:.0f}"])
    print_table(["stage", "times", "seconds", "over plain k-means", "peak anonymous MB"], rows)
    print()
    base = case["scanned"]["k-means"]
    rows = [[title, f"{100 * share:.2f} %", f"{share / base:.3f}"] for title, share in case["scanned"].items()]
    print_table(["stored by", "scanned at 90 % recall", "over k-means"], rows)
    print()
    base = case["queries"]["k-means"]["microseconds"]
    rows = [
        [
            title,
            f"{q['nprobe']:.0f}",
            f"{q['recall']:.3f}",
            f"{q['microseconds']:.0f}",
            f"{q['microseconds'] / base:.3f}",
        ]
        for title, q in case["queries"].items()
    ]
    print_table(["centers in IndexIVFFlat", "nprobe", "recall", "microseconds a query", "over k-means"], rows)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What all measurements of cost ask for."""
    parser.add_argument("--kind", choices=list(METRICS), default="code")
    parser.add_argument("--epochs", help="as run_dcnet.py has it; its default where left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("million_out"), help="keeps the set, the runs and the JSON")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further flags of run_dcnet.py, last")


def main(argv: list[str] | None = None) -> None:
    """Print three tables, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--nlist", type=int, default=4096)
    add_flags(parser)
    options = parser.parse_args(argv)
    name = make_set(options.folder, options.kind, options.rows, options.seed)
    case = measure_case(
        options.folder, name, METRICS[options.kind], options.nlist, options.epochs, options.seed, options.extra
    )
    print_case(case)
    path = options.folder / f"{name}_{options.nlist}.json"
    path.write_text(json.dumps(case, indent=1), encoding="utf-8")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
