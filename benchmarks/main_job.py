"""The main job on data sets in the documented layout: what each router scans, over k-means.

    python -m benchmarks.main_job --data_path DIR --sets text:IP words:IP sift:L2 --backends jax torch

Each set NAME needs DIR/learn_NAME.npy and DIR/NAME/{base,query,gt}.npy. Without --data_path
the embedded faces are generated. Figures are shares scanned for 90 % recall over those of FAISS
k-means at its better percent, fixed probing; `k-means' own` are k-means' centers stored by
benefit with their own k and T_s. --setting in-sample trains on base itself.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.runs import PERCENTS, kmeans_share, main_job_flags, print_table, results, run_dcnet, scanned
from ivfast.data.synthetic import NAME, make_faces, save_set


def one_run(
    data: Path, name: str, metric: str, backend: str, learn: str, out: Path, extra: list[str]
) -> list[str]:  # fmt: skip
    """Train and evaluate one set on one backend; then evaluate k-means as centers of its own."""
    seconds, _ = run_dcnet(
        "--backend", backend, "--save_path", str(out), *main_job_flags(data, name, metric, learn), *extra
    )
    common = ["--data_path", str(data), "--data_name", name, "--learn_name", learn, "--gpu", "-1"]
    common += ["--percents", *map(str, PERCENTS), "--metric", metric]
    run_dcnet("--save_path", str(out / "own"), *common, "--eval", "True", "--ai_center", str(out / "kmeans.npy"))
    lines, own = results(out), results(out / "own")
    base = kmeans_share(lines)

    def row(router: str, rule: str, probing: str) -> str:
        return " / ".join(f"{scanned(lines, router, rule, p, probing) / base:.3f}" for p in PERCENTS)

    mine = " / ".join(f"{scanned(own, 'centers', 'benefit', p, 'fixed') / base:.3f}" for p in PERCENTS)
    nearest = f"{scanned(lines, 'centers', 'ratio', 0.0, 'fixed') / base:.3f}"
    return [
        f"{name} ({backend})", f"{100 * base:.2f} %", mine, nearest, row("centers", "benefit", "fixed"),
        row("net", "benefit", "fixed"), row("centers", "benefit", "adaptive"), f"{seconds:.0f} s",
    ]  # fmt: skip


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path)
    parser.add_argument("--sets", nargs="+", default=[f"{NAME}:IP"], metavar="NAME:METRIC")
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    parser.add_argument("--setting", choices=["transfer", "in-sample"], default="transfer")
    parser.add_argument("--out", type=Path, help="keep the outputs here")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further flags of run_dcnet.py, last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        data = options.data_path
        if data is None:
            data = out / "data"
            save_set(data, NAME, *make_faces(1))
        rows = []
        for pair in options.sets:
            name, metric = pair.split(":")
            for backend in options.backends:
                learn = f"{name}/base" if options.setting == "in-sample" else f"learn_{name}"
                rows.append(one_run(data, name, metric, backend, learn, out / f"{name}_{backend}", options.extra))
    head = ["set", "k-means scans", "k-means' own 0 / 0.8 / 1.5", "centers, nearest", "centers", "net"]
    print_table([*head, "centers, adaptive", "time"], rows)


if __name__ == "__main__":
    main()
