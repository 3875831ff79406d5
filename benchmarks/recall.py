"""What it gains to train and store for the recall that is wanted (`--recall`), beside SOAR's rule on our own centers.

    python -m benchmarks.recall --data_path DIR --sets text:IP words:IP sift:L2 --recalls 0.95 0.99

For each set, in-sample, centers alone are trained for 0.90 and for each recall. Printed is what a search scans for that
recall with 0.8 copies: stored as the run for 0.90 says, as the run for that recall says, and by SOAR's rule on the
centers of either, at the lambda of four that scans least on these very queries, in percent of base.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import ivfast
from benchmarks.peers.copies import LAMBDAS, OneCopy
from benchmarks.peers.evaluator import search
from benchmarks.runs import print_table, results, run_dcnet
from ivfast.data.vectors import open_evaluation_set
from ivfast.evaluate.results import right_answers
from ivfast.route.distances import squared_distances
from ivfast.route.routers import Router
from ivfast.route.search import Answers, scanned_at
from ivfast.route.tiles import LogitTiles
from ivfast.store.place import Plan, place

COPIES, NLIST, WIDTH = 0.8, 256, 10


def train(args: argparse.Namespace, name: str, metric: str, recall: float, out: Path) -> None:
    """One run on base itself."""
    dim = np.load(args.data_path / name / "base.npy", mmap_mode="r").shape[1]
    run_dcnet(
        "--data_path", str(args.data_path), "--data_name", name, "--learn_name", f"{name}/base", "--metric", metric,
        "--nlist", str(NLIST), "--param_list", str(dim), str(NLIST), "--niter", "25", "--epochs", str(args.epochs),
        "--warmup", "1", "--lr", "2e-3", "--percents", "0", str(COPIES), "--gpu", "-1", "--recall", str(recall),
        "--save_path", str(out),
    )  # fmt: skip


def by_benefit(out: Path, level: str) -> float:
    """What the trained centers scan, a share of base."""
    wanted = ("centers", "benefit", COPIES, "fixed")
    (row,) = [r for r in results(out) if (r["router"], r["rule"], r["percent"], r["probing"]) == wanted]
    return row["scanned_at"][level]


def by_soar(args: argparse.Namespace, name: str, out: Path, recall: float) -> float:
    """The same where copies go by SOAR's rule."""
    model = ivfast.load(out)
    data = open_evaluation_set(args.data_path, name, None)
    base, query = (model.points(vectors.raw(slice(None))) for vectors in (data.base, data.query))
    centers = base.space.inside(model.centers)
    router = Router("centers", NLIST, lambda x: -squared_distances(x, centers, model.metric))
    wanted, at, valid = right_answers(data.gt)
    queries, shares = LogitTiles(router, query), []
    for weight in LAMBDAS:
        plan = Plan("soar", COPIES, OneCopy(centers, model.metric, weight, squared=True))
        lists = place(LogitTiles(router, base), [plan], WIDTH, wanted)[0]
        found = search(queries, lists, Answers(at, valid))
        shares.append(scanned_at(found.recall, found.scanned, recall))
    return min(shares)


def main(argv: list[str] | None = None) -> None:
    """Train, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the sets, in the documented layout")
    parser.add_argument("--sets", nargs="+", required=True, help="NAME:METRIC")
    parser.add_argument("--recalls", nargs="+", type=float, default=[0.95, 0.99], help="beside 0.90")
    parser.add_argument("--epochs", type=int, default=10, help="of training (default 10)")
    args = parser.parse_args(argv)
    rows = []
    for name, metric in (one.split(":") for one in args.sets):
        with tempfile.TemporaryDirectory() as made:
            usual = Path(made) / "0.90"
            train(args, name, metric, 0.9, usual)
            for recall in args.recalls:
                aimed, level = Path(made) / f"{recall:.2f}", f"{recall:.2f}"
                train(args, name, metric, recall, aimed)
                shares = [by_benefit(usual, level), by_benefit(aimed, level)]
                shares += [by_soar(args, name, out, recall) for out in (usual, aimed)]
                rows.append([name, level, *(f"{100 * share:.2f}" for share in shares)])
    head = ["set", "recall", "trained for 0.90", "trained for it", "SOAR's rule, centers for 0.90", "the same, for it"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
