"""What a base that grows costs: a third of it added in ten parts, beside all of it stored at once.

    python -m benchmarks.growing_base --data_path DIR --sets text:IP words:IP sift:L2

Of each set DIR/SET/{base,query,gt}.npy are read. The centers are trained on the first two thirds of base.
"""

import argparse
from pathlib import Path

import numpy as np

import ivfast
from benchmarks.index_time import read
from benchmarks.runs import print_table
from ivfast.index.index import Reached

RECALLS = (0.8, 0.9, 0.95)
PARTS = 10


def compare(folder: Path, metric: str, copies: float, seed: int) -> list[list[str]]:
    """A row for each recall: what is reached and scanned by both, and drift."""
    case = read(folder, metric)
    order = np.random.default_rng(seed).permutation(len(case.base))
    base, place = np.ascontiguousarray(case.base[order]), np.argsort(order)
    n = len(base) * 2 // 3
    model = ivfast.fit(base[:n], metric=metric, copies=copies, seed=seed)
    grown, whole = model.index(base[:n], copies), model.index(base, copies)
    for part in np.array_split(base[n:], PARTS):
        grown.add(part)
    gt = place[case.gt]
    rows = []
    for ours, theirs in zip(*(one.evaluate(case.query, gt, recalls=RECALLS) for one in (grown, whole)), strict=True):
        equal = _at_equal_recall(ours, theirs, whole, case.query, gt)
        found = [f"{one.recall:.3f}" for one in (ours, theirs)] + [f"{one.scanned:.3%}" for one in (ours, theirs)]
        rows.append([folder.name, f"{ours.asked:.2f}", *found, f"{equal:.3f}"])
    drift = grown.drift()
    print(f"{folder.name}: {drift}")
    return rows


def _at_equal_recall(ours: Reached, theirs: Reached, whole: ivfast.Index, query: np.ndarray, gt: np.ndarray) -> float:
    """Scanned by the grown index over what the whole one scans at the recall that the grown one reaches."""
    asked = np.linspace(theirs.asked - 0.03, min(theirs.asked + 0.03, 0.999), 13)
    found = whole.evaluate(query, gt, recalls=tuple(asked))
    at = np.interp(ours.recall, [one.recall for one in found], [one.scanned for one in found])
    return ours.scanned / float(at)


def main(argv: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["text:IP", "words:IP", "sift:L2"], metavar="SET:METRIC")
    parser.add_argument("--copies", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    rows = []
    for one in options.sets:
        name, metric = one.split(":")
        rows += compare(options.data_path / name, metric, options.copies, options.seed)
    head = ["set", "recall asked for", "reached, grown", "at once", "scanned, grown", "at once", "over at equal recall"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
