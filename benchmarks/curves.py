"""Recall against vectors scanned, of every method that compare.py measured: one panel a set and setting.

    python -m benchmarks.curves FILE... --plot docs/methods.png

FILE is what `compare.py --out` wrote; records of equal set and setting share a panel, seeds are averaged. Each
of LINES is drawn at the percent that scans least at 90 % recall, fixed probing.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from benchmarks.tables import Record, read
from ivfast.method import LEVELS, RECALL

matplotlib.use("Agg")
LINES = (
    ("kmeans25", "ratio"), ("kmeans25", "soar"), ("balanced", "ratio"), ("scann", "own"), ("scann_soar", "own"),
    ("linear_router", "ratio"), ("neural_lsh", "membership"), ("kmeans25", "benefit"), ("centers", "benefit"),
    ("net", "benefit"),
)  # fmt: skip
WIDTH = 4.2  # inches of a panel
Line = tuple[str, str]  # method and rule


def panels(records: Iterable[Record]) -> dict[tuple[str, str], dict[Line, np.ndarray]]:
    """By set and setting, then by line: shares scanned at each of LEVELS, NaN where never reached."""
    groups: dict[tuple[str, str], dict[Line, dict[float, list[np.ndarray]]]] = {}
    for record in records:
        line = record["method"], record["rule"]
        if record["probing"] == "fixed" and line in LINES:
            shares = np.array([record["scanned_at"][f"{level:.2f}"] for level in LEVELS], dtype=float)
            lines = groups.setdefault((record["set"], record["setting"]), {})
            lines.setdefault(line, {}).setdefault(record["percent"], []).append(shares)
    return {panel: {line: best(curves[line]) for line in LINES if line in curves} for panel, curves in groups.items()}


def best(curves: dict[float, list[np.ndarray]]) -> np.ndarray:
    """Of means over seeds at each percent the one that scans least for 90 % recall."""
    means = [np.mean(shares, axis=0) for shares in curves.values()]
    return min(means, key=lambda shares: np.nan_to_num(shares[LEVELS.index(RECALL)], nan=np.inf))


def draw(path: Path, found: dict[tuple[str, str], dict[Line, np.ndarray]]) -> None:
    """All panels in rows of three."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(WIDTH * columns, WIDTH * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, ((name, setting), lines) in zip(grid, found.items(), strict=False):
        for (method, rule), shares in lines.items():
            color, width = f"C{LINES.index((method, rule))}", 2.5 if rule == "benefit" else 1.2
            label = f"{method}, {rule}"
            axes.plot(100 * shares, LEVELS, marker="o", markersize=4, color=color, linewidth=width, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{name}, {setting}")
        axes.set_xlabel("scanned, % of base (copies counted)")
        axes.set_ylabel("recall")
        axes.legend(fontsize=7)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    """One plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=Path("methods.png"))
    options = parser.parse_args(argv)
    draw(options.plot, panels(read(options.files)))


if __name__ == "__main__":
    main()
