"""What a log of queries is worth where queries are of another kind than what is stored.

    python -m benchmarks.query_log --folder DIR                              # makes the sets; half an hour
    python -m benchmarks.query_log --folder DIR --kinds comments --logged 2000 200 --noise

For each kind of `benchmarks.query_kinds` it trains without a log, with so many logged queries of 2,000, and with a log
of random directions where --noise asks for it. Beside these stand two peers over k-means' buckets that are trained on
the same log, a linear router and KeyNet (see `benchmarks.peers`; a quarter of the log chooses their epochs). Printed
is what a search scans for 90 % of the ten nearest, over k-means, which scans the share behind its name.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peers.evaluator import search
from benchmarks.peers.keynet import Pairs, Rewrite, train_keynet, with_noise
from benchmarks.peers.linear_router import Labelled, train_linear
from benchmarks.peers.task import exact
from benchmarks.query_kinds import KINDS, make_kinds
from benchmarks.runs import HIDDEN, results, run_dcnet
from ivfast.data.space import Space
from ivfast.data.vectors import Points, Vectors, measure_space, open_vectors
from ivfast.method import COUNTED, RECALL
from ivfast.route.routers import Router
from ivfast.route.search import Answers, Lists, scanned_at
from ivfast.route.tiles import LogitTiles
from ivfast.start.logged import split_log

NLIST = 256
KEYNET_HIDDEN = tuple(map(int, HIDDEN["IP"]))


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


class Stored(NamedTuple):
    """A set under k-means' buckets."""

    centers: np.ndarray  # (NLIST, dim) float32
    base: np.ndarray  # (n, dim) float32
    bucket: np.ndarray  # (n,) int64
    space: Space

    def share(self, scores: Callable[[np.ndarray], np.ndarray], query: np.ndarray, gt: np.ndarray) -> float:
        """Share scanned for 90 % of the right answers where buckets rank by scores; 1 if never."""
        lists = Lists(len(self.base), np.bincount(self.bucket, minlength=NLIST), self.bucket[:, None].astype(np.int32))
        points = Points(Vectors("query", Path("query.npy"), query), self.space)
        found = search(LogitTiles(Router("peer", NLIST, scores), points), lists, Answers(gt, gt >= 0))
        return float(np.nan_to_num(scanned_at(found.recall, found.scanned, RECALL), nan=1.0))


def peers_of_log(folder: Path, kind: str, out: Path, log: np.ndarray) -> list[tuple[str, str]]:
    """What peers scan, over k-means without copies. out: a finished run, whose k-means is taken"""
    base, query = (np.load(folder / kind / f"{part}.npy") for part in ("base", "query"))
    gt, centers = np.load(folder / kind / "gt.npy")[:, :COUNTED], np.load(out / "kmeans.npy")
    space = measure_space(open_vectors(folder / kind / "query.npy", "query", None), "IP")
    stored = Stored(centers, base, (base @ centers.T).argmax(axis=1), space)
    trains, held = (log[rows] for rows in split_log(len(log), 1))
    kmeans = stored.share(lambda x: x @ centers.T, query, gt)
    peers = {"linear router": linear_router(stored, trains, held), "KeyNet": key_net(stored, trains, held)}
    shares = {name: stored.share(scores, query, gt) / kmeans for name, scores in peers.items()}
    return [(name, f"| {100 * kmeans:.2f} % | {share:.3f} | | |") for name, share in shares.items()]


def linear_router(stored: Stored, trains: np.ndarray, held: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Trained on the buckets of the nearest of logged queries."""
    labels = (stored.bucket[exact(queries, stored.base, "IP")[:, 0]] for queries in (trains, held))
    pairs = (Labelled(queries, bucket) for queries, bucket in zip((trains, held), labels, strict=True))
    return train_linear(stored.centers, "IP", *pairs, seed=1).scores


def key_net(stored: Stored, trains: np.ndarray, held: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Trained on logged queries, with noisy copies, and the nearest of each; held ones tell the epoch."""
    queries, answers = with_noise(trains, "IP", 1), exact(held, stored.base, "IP")
    pairs = Pairs(queries, stored.base[exact(queries, stored.base, "IP")[:, 0]])

    def scores_by(rewrite: Rewrite) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: rewrite(x) @ stored.centers.T

    net = train_keynet(pairs, "IP", KEYNET_HIDDEN, 1, lambda rewrite: stored.share(scores_by(rewrite), held, answers))
    return scores_by(net.rewrite)


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
            for peer, line in peers_of_log(args.folder, kind, plain, rows):
                print(f"| {kind} | {name}, {peer} {line}", flush=True)


if __name__ == "__main__":
    main()
