"""What a log of queries is worth where queries are of another kind than what is stored.

    python -m benchmarks.query_log --folder DIR                              # makes the sets; half an hour
    python -m benchmarks.query_log --folder DIR --kinds comments --logged 2000 200 --noise

For each kind of `benchmarks.query_kinds` it trains without a log, with so many logged queries of 2,000, and with a log
of random directions where --noise asks for it. Beside these stands a linear router over k-means' buckets, trained on
the same log (see `benchmarks.peers.linear_router`; a quarter of the log chooses its epoch). Printed is what a search
scans for 90 % of the ten nearest, over k-means, which scans the share behind its name.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.peers.evaluator import search
from benchmarks.peers.linear_router import Labelled, train_linear
from benchmarks.peers.task import exact
from benchmarks.query_kinds import KINDS, make_kinds
from benchmarks.runs import results, run_dcnet
from ivfast.data.vectors import Points, measure_space, open_vectors
from ivfast.method import COUNTED, RECALL
from ivfast.route.routers import Router
from ivfast.route.search import Answers, Lists, scanned_at
from ivfast.route.tiles import LogitTiles
from ivfast.start.logged import split_log

NLIST = 256


def train(folder: Path, kind: str, out: Path, *flags: str) -> str:
    """One run; returns what it scans, in words."""
    run_dcnet(
        "--data_path", str(folder), "--data_name", kind, "--learn_name", f"{kind}/base", "--metric", "IP",
        "--nlist", str(NLIST), "--param_list", "256", str(NLIST), "--niter", "25", "--epochs", "20", "--warmup", "1",
        "--lr", "2e-3", "--percents", "0", "0.8", "--gpu", "-1", "--save_path", str(out), *flags,
    )  # fmt: skip
    fixed = {(r["router"], r["rule"], r["percent"]): r for r in results(out) if r["probing"] == "fixed"}
    kmeans = min(r["scanned_at"]["0.90"] for name, r in fixed.items() if name[0] == "kmeans")
    ways = (("ratio", 0.0), ("benefit", 0.0), ("benefit", 0.8))
    over = [fixed["centers", *way]["scanned_at"]["0.90"] / kmeans for way in ways]
    return f"| {100 * kmeans:.2f} % | " + " | ".join(f"{share:.3f}" for share in over) + " |"


def linear_router(folder: Path, kind: str, out: Path, log: np.ndarray) -> str:
    """What the peer scans, over k-means without copies. out: a finished run, whose k-means is taken"""
    base, gt = np.load(folder / kind / "base.npy"), np.load(folder / kind / "gt.npy")[:, :COUNTED]
    asked = open_vectors(folder / kind / "query.npy", "query", None)
    query, centers = Points(asked, measure_space(asked, "IP")), np.load(out / "kmeans.npy")
    stored = (base @ centers.T).argmax(axis=1)
    labels = stored[exact(log, base, "IP")[:, 0]]
    trains, held = (Labelled(log[rows], labels[rows]) for rows in split_log(len(log), 1))
    linear = train_linear(centers, "IP", trains, held, 1)
    lists = Lists(len(base), np.bincount(stored, minlength=NLIST), stored[:, None].astype(np.int32))
    shares = []
    for scores in (lambda x: x @ centers.T, linear.scores):
        tiles = LogitTiles(Router("linear_router", NLIST, scores), query)
        found = search(tiles, lists, Answers(gt, np.ones(gt.shape, dtype=bool)))
        shares.append(scanned_at(found.recall, found.scanned, RECALL))
    return f"| {100 * shares[0]:.2f} % | {shares[1] / shares[0]:.3f} | | |"


def main(argv: list[str] | None = None) -> None:
    """Make the sets, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where sets and runs are kept")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which sets (default: all)")
    parser.add_argument("--logged", type=int, nargs="+", default=[2000], help="lengths of logs (default 2000)")
    parser.add_argument("--noise", action="store_true", help="a log of random directions as well")
    args = parser.parse_args(argv)
    if absent := tuple(kind for kind in args.kinds if not (args.folder / f"log_{kind}.npy").is_file()):
        make_kinds(args.folder, absent)
    print("| set | log | k-means | nearest | benefit | 0.8 copies |\n| --- | --- | --- | --- | --- | --- |")
    for kind in args.kinds:
        log = np.load(args.folder / f"log_{kind}.npy")
        logs = {str(n): log[:n] for n in args.logged}
        if args.noise:
            noise = np.random.default_rng(3).standard_normal(log.shape).astype(np.float32)
            logs["noise"] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
        plain = args.folder / f"{kind}_none"
        print(f"| {kind} | none {train(args.folder, kind, plain)}", flush=True)
        for name, rows in logs.items():
            np.save(args.folder / f"log_{kind}_{name}.npy", rows)
            out = args.folder / f"{kind}_{name}"
            print(f"| {kind} | {name} {train(args.folder, kind, out, '--query_log', f'log_{kind}_{name}')}", flush=True)
            print(f"| {kind} | {name}, linear router {linear_router(args.folder, kind, plain, rows)}", flush=True)


if __name__ == "__main__":
    main()
