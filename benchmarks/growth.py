"""How the advantage over k-means grows or shrinks with nlist and with the size of learn; one plot.

    python -m benchmarks.growth --data_path DIR --sets text:IP sift:L2 --rows 12000 25000 50000 --plot growth.png
    python -m benchmarks.growth --sets faces:IP --nlist 1024 --rows 60000 250000 1000000

The main job without a deep path on a drawn part of learn, all of base (generated faces: as many as the most
learn vectors); k-means is trained on the same part. Figures are shares of base scanned for 90 % recall over
k-means at its better percent, of the exported centers under nearest assignment and under benefit, by learn
vectors a bucket.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.never_worse import learn_file
from benchmarks.peers.task import FACES, SETTINGS, check_sets, write_set
from benchmarks.runs import PERCENTS, kmeans_share, main_job_flags, print_table, results, run_dcnet, scanned

matplotlib.use("Agg")
# by set and nlist: rows of learn, and shares under nearest, then under benefit at each percent
Points = dict[tuple[str, int], list[tuple[int, list[float]]]]


def case(
    folder: Path, scratch: Path, name: str, metric: str, setting: str, nlist: int, rows: int, seed: int
) -> list[float]:  # fmt: skip
    """One point: nearest, then benefit at each percent, over k-means."""
    data, learn_name = learn_file(folder, scratch, name, setting, rows, seed)
    dim = str(np.load(data / f"{learn_name}.npy", mmap_mode="r").shape[1])
    out = scratch / f"{nlist}_{rows}"
    run_dcnet(
        "--save_path", str(out), *main_job_flags(data, name, metric, learn_name), "--seed", str(seed),
        "--nlist", str(nlist), "--param_list", dim, str(nlist),
    )  # fmt: skip
    lines = results(out)
    base = kmeans_share(lines)
    shares = [scanned(lines, "centers", "benefit", percent, "fixed") for percent in PERCENTS]
    return [share / base for share in (scanned(lines, "centers", "ratio", 0.0, "fixed"), *shares)]


def draw(path: Path, points: Points) -> None:
    """Scanned over k-means against learn vectors a bucket: percent 0 dashed, 0.8 solid."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, ((name, nlist), found) in enumerate(points.items()):
        per_bucket = [rows / nlist for rows, _ in found]
        for place, style in ((1, "--"), (2, "-")):
            label = f"{name}, nlist {nlist}" if place == 2 else None
            shares = [shares[place] for _, shares in found]
            axes.plot(per_bucket, shares, style, marker="o", color=f"C{i}", label=label)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("learn vectors a bucket")
    axes.set_ylabel("scanned at 90 % recall over k-means")
    axes.set_title("trained centers by benefit: percent 0 dashed, 0.8 solid")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    """Print one table, draw one plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, help="folder of the sets; made sets need none")
    parser.add_argument("--sets", nargs="+", default=["faces:IP"], metavar="NAME:METRIC")
    parser.add_argument("--setting", choices=SETTINGS, default="transfer")
    parser.add_argument("--nlist", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rows", type=int, nargs="+", required=True, help="of learn; more than there are means all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("growth.png"))
    options = parser.parse_args(argv)
    check_sets(parser, (entry.split(":")[0] for entry in options.sets), options.data_path)
    points: Points = {}
    rows = []
    for entry in options.sets:
        name, metric = entry.split(":")
        with tempfile.TemporaryDirectory() as scratch:
            made = max(options.rows) if name in FACES else None  # base grows with learn
            folder = write_set(Path(scratch), name, metric, options.data_path, made)
            for nlist in options.nlist:
                for n in options.rows:
                    found = case(folder, Path(scratch), name, metric, options.setting, nlist, n, options.seed)
                    points.setdefault((name, nlist), []).append((n, found))
                    shown = " / ".join(f"{share:.3f}" for share in found[1:])
                    rows.append([name, str(nlist), str(n), f"{n / nlist:.0f}", f"{found[0]:.3f}", shown])
                    print(rows[-1], flush=True)
    head = ["set", "nlist", "learn", "a bucket", "nearest", "benefit " + " / ".join(f"{p:g}" for p in PERCENTS)]
    print_table(head, rows)
    draw(options.plot, points)


if __name__ == "__main__":
    main()
