"""Tables of what compare.py measured, as markdown: one a set and setting.

    python -m benchmarks.tables FILE... > docs/comparison.md

FILE is what `compare.py --out` wrote. A row is a method, what its copies are chosen by, and how many there are;
figures are means over seeds and, behind ±, half the range. Scanned is in percent of base, copies counted, by
nprobe (fixed) or by chances (adaptive); recall is that of fixed probing, p99 of queries at 0.90.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.evaluator import SHARES
from benchmarks.runs import print_table
from ivfast.method import LEVELS

Record = dict[str, Any]
ABOUT = """# Comparison
Every method, rule of copies and budget; [benchmarks.md](benchmarks.md) says what they are, and has the commands. \
Scanned in percent of base, copies counted, at a recall of 0.80 to 0.99 by nprobe, and at 0.90 and 0.95 by adaptive \
probing; recall at equal scanned share; imbalance; p99 of scanned over queries at 0.90; seconds of training (with \
other work on the machine); MB stored. Mean ± half the range where there are several seeds."""
HEAD = [
    "method", "copies by", "copies", *(f"{level:.2f}" for level in LEVELS), "adaptive 0.90", "0.95",
    *(f"recall at {100 * share:g} %" for share in SHARES), "imbalance", "p99", "training, s", "MB",
]  # fmt: skip


def table(records: list[Record]) -> list[list[str]]:
    """Rows under HEAD of the records of one set and setting."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for record in records:
        percent = record["percent"] if record["rule"] != "own" else "own"
        group = groups.setdefault((record["method"], record["rule"], percent), {"fixed": [], "adaptive": []})
        group[record["probing"]].append(record)
    return [_row(method, rule, **found) for (method, rule, _), found in groups.items()]


def _row(method: str, rule: str, fixed: list[Record], adaptive: list[Record]) -> list[str]:
    def scanned(of: list[Record], level: float) -> str:
        return spread([r["scanned_at"][f"{level:.2f}"] for r in of], 2, 100)

    return [
        method, rule, spread([r["entries"] / r["rows"] - 1 for r in fixed], 2),
        *(scanned(fixed, level) for level in LEVELS), *(scanned(adaptive, level) for level in (0.9, 0.95)),
        *(spread([r["recall_at"][f"{share:g}"] for r in fixed], 3) for share in SHARES),
        spread([r["imbalance"] for r in fixed], 2), spread([r["p99_at_0.90"] for r in fixed], 1, 100),
        spread([r["seconds"] for r in fixed], 0), f"{fixed[0]['bytes'] / 1e6:.1f}",
    ]  # fmt: skip


def spread(values: list[float | None], digits: int, factor: float = 1) -> str:
    """Mean, and half the range where there are several; never where one is not reached."""
    found = factor * np.array(values, dtype=float)
    if np.isnan(found).any():
        return "never"
    mean = f"{found.mean():.{digits}f}"
    return mean if len(found) < 2 else f"{mean} ± {np.ptp(found) / 2:.{digits}f}"


def read(files: list[Path]) -> Iterator[Record]:
    """The records of what `compare.py --out` wrote."""
    for file in files:
        yield from json.loads(file.read_text())


def main(argv: list[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(argv)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in read(options.files):
        groups.setdefault((record["set"], record["setting"]), []).append(record)
    print(ABOUT)
    for (name, setting), records in groups.items():
        print(f"\n## {name}, {setting}\n")
        print_table(HEAD, table(records))


if __name__ == "__main__":
    main()
