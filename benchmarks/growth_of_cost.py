"""How the cost of each stage grows with the vectors and with nlist: one table, one plot in log and log.

    python -m benchmarks.growth_of_cost --rows 100000 300000 1000000 4000000 --nlist 1024 4096 16384

Every case is that of benchmarks/million.py on the first rows of one made set, and is written down as soon as it is
finished: the same command goes on where it was interrupted. Cases with fewer than 39 vectors a bucket are left out.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.million import METRICS, add_flags, make_set, measure_case, write_in_sample
from benchmarks.runs import print_table
from ivfast.train.admit import RECOMMENDED

matplotlib.use("Agg")
Case = dict[str, Any]  # as measure_case returns it
GROUPS = {  # what a plot has room for; a stage counts for the first whose words begin its name
    "k-means": ("k-means",),
    "neighbours": ("neighbours", "held-out answers", "kinship"),
    "training": ("training",),
    "judging": ("first judgement", "judging", "choosing", "fitting facts", "measuring buckets"),
    "evaluation": ("settings", "assigning", "searching", "report"),
    "files": ("checking", "checkpoints", "writing"),
}


def subset(folder: Path, whole: str, rows: int, metric: str) -> str:
    """The first rows of a set as a set of its own, with neighbours anew. Returns its name."""
    base = np.load(folder / whole / "base.npy", mmap_mode="r")
    if rows >= len(base):
        return whole
    name = f"{whole}_first_{rows}"
    if not (folder / name / "gt.npy").is_file():
        query = np.load(folder / whole / "query.npy")
        write_in_sample(folder, name, np.ascontiguousarray(base[:rows]), query, metric)
    return name


def seconds_of_groups(case: Case) -> dict[str, float]:
    """Seconds by group, and in all."""
    found = dict.fromkeys(GROUPS, 0.0)
    for stage in case["stages"]:
        group = next((group for group, words in GROUPS.items() if stage["name"].startswith(words)), None)
        if group is not None:
            found[group] += stage["seconds"]
    return found | {"all": case["seconds"]}


def sweep(options: argparse.Namespace, path: Path) -> list[Case]:
    """Measure what the file lacks, case by case."""
    metric = METRICS[options.kind]
    whole = make_set(options.folder, options.kind, max(options.rows), options.seed)
    cases: list[Case] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for rows, nlist in product(sorted(options.rows), sorted(options.nlist)):
        name = subset(options.folder, whole, rows, metric)
        asked = {"set": name, "nlist": nlist, "epochs": options.epochs, "extra": options.extra}
        if rows < RECOMMENDED * nlist or any(asked.items() <= flat(case).items() for case in cases):
            continue
        cases.append(measure_case(options.folder, name, metric, nlist, options.epochs, options.seed, options.extra))
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(cases, indent=1), encoding="utf-8")
        beside.replace(path)
        print(f"{rows:,} vectors, nlist {nlist}: {cases[-1]['seconds']:.0f} s", flush=True)
    return cases


def draw(path: Path, cases: list[Case]) -> None:
    """Seconds of each group against the vectors, one panel an nlist."""
    nlists = sorted({case["nlist"] for case in cases})
    figure = Figure(figsize=(4 * len(nlists), 4), layout="constrained")
    panels = figure.subplots(1, len(nlists), sharey=True, squeeze=False)[0]
    for axes, nlist in zip(panels, nlists, strict=True):
        found = sorted((case for case in cases if case["nlist"] == nlist), key=lambda case: case["rows"])
        rows = [case["rows"] for case in found]
        plain = [case["kmeans_seconds"] for case in found]
        axes.plot(rows, plain, "--", color="grey", marker="o", label="plain FAISS k-means")
        for group in [*GROUPS, "all"]:
            style = {"color": "black"} if group == "all" else {}
            axes.plot(rows, [seconds_of_groups(case)[group] for case in found], marker="o", label=group, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("vectors")
        axes.set_title(f"nlist {nlist}")
    panels[0].set_ylabel("seconds")
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def table(cases: list[Case]) -> list[list[str]]:
    """A row a case: seconds by group, all over plain k-means, memory, and scanned over k-means."""
    rows = []
    for case in sorted(cases, key=lambda case: (case["nlist"], case["rows"])):
        seconds, share = seconds_of_groups(case), case["scanned"]
        rows.append([
            str(case["nlist"]), f"{case['rows']:,}", f"{case['kmeans_seconds']:.0f}",
            *(f"{seconds[group]:.0f}" for group in [*GROUPS, "all"]),
            f"{case['seconds'] / case['kmeans_seconds']:.2f}", f"{case['peak_mb'] / 1000:.1f}",
            f"{share['trained, nearest'] / share['k-means']:.3f}",
            f"{share['trained, benefit, 0.8 copies'] / share['k-means']:.3f}",
        ])  # fmt: skip
    return rows


def flat(case: Case) -> Case:
    """What tells one case from another."""
    return {name: case[name] for name in ("set", "nlist", "epochs", "extra")}


def main(argv: list[str] | None = None) -> None:
    """Print one table, draw one plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--nlist", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--plot", type=Path, default=Path("docs/cost.png"))
    add_flags(parser)
    options = parser.parse_args(argv)
    cases = sweep(options, options.folder / f"growth_of_cost_{options.kind}.json")
    head = ["nlist", "vectors", "plain k-means, s", *(f"{group}, s" for group in [*GROUPS, "all"])]
    print_table([*head, "all over plain k-means", "peak GB", "nearest scans", "0.8 copies scan"], table(cases))
    draw(options.plot, cases)


if __name__ == "__main__":
    main()
