"""The peers of benchmarks/compare.py on the million of benchmarks/million.py: scanned, and microseconds in FAISS.

    python -m benchmarks.million --epochs auto                      # makes the set, and a finished run
    python -m benchmarks.million_peers --ours million_out/run_code_1000000_1_4096_1 --out FILE

All of base is learn. Each method stores a million vectors in 4,096 lists of a stock IndexIVFFlat, copies among them,
and 2,000 queries probe the lists whose centers have the largest inner products. Printed is, at the first nprobe that
reaches a recall of ten: the share of base scanned, and microseconds a query of one thread, ranking of lists and leaving
out of copies included. Building is what a method takes to its lists: centers, neighbours, placing; memory is anonymous
(RssAnon) at most, above what the process held before, of ours without the training (see benchmarks/million.py).
The rules `soar`, `rairs` and `spann` give 0.8 copies; lambdas are chosen on held-out rows of base, never on queries.
--ours may name runs for other recalls; each is one more method. FILE is JSON, a list that grows method by method.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib.clustering import balanced_assignment_with_penalties

import ivfast
from benchmarks.million import KMEANS_ITERATIONS
from benchmarks.peers import scann_tree
from benchmarks.peers.copies import LAMBDAS
from benchmarks.peers.large_task import Million, Stored, watched
from benchmarks.peers.near_copies import Near, cut
from benchmarks.runs import print_table
from benchmarks.spread_quality import buckets_in
from ivfast.index.fill import add_entries
from ivfast.index.probing import search_distinct

RECALLS = (0.90, 0.95, 0.99)
COPIES = 0.8
TIMED, MOST_SECONDS = 3, 20.0  # passes over queries, of which the fastest counts; no further one after so long
TIMED_QUERIES = 1000
PEERS = ("kmeans", "balanced", "scann", "scann_soar")


def kmeans(million: Million, nlist: int, seed: int, keep: Path) -> tuple[np.ndarray, dict[str, float]]:
    """Plain FAISS k-means on all of base; kept in a folder, since it takes minutes."""
    if not (keep / "kmeans.json").is_file():
        keep.mkdir(parents=True, exist_ok=True)
        clustering = faiss.Kmeans(
            million.base.shape[1], nlist, niter=KMEANS_ITERATIONS, seed=seed, spherical=True,
            min_points_per_centroid=1, max_points_per_centroid=len(million.base),
        )  # fmt: skip
        with watched() as took:
            clustering.train(million.base)
        np.save(keep / "kmeans.npy", np.asarray(clustering.centroids))
        (keep / "kmeans.json").write_text(json.dumps(took))
    return np.load(keep / "kmeans.npy"), json.loads((keep / "kmeans.json").read_text())


def after(built: dict[str, float], took: dict[str, float]) -> dict[str, float]:
    """What both stages of building take, one after the other."""
    return {"seconds": built["seconds"] + took["seconds"], "peak_mb": max(built["peak_mb"], took["peak_mb"])}


def by_rules(million: Million, method: str, centers: np.ndarray, built: dict[str, float]) -> Iterator[Stored]:
    """The nearest center, then each rule of copies."""
    with watched() as took:
        near = Near(million.base, centers)
    took = after(built, took)
    yield Stored(method, "nearest", centers, near.buckets[:, :1], took)
    for name in ("soar", "rairs"):
        weight, buckets = million.best(
            centers, LAMBDAS, lambda weight, name=name: cut(*near.one_copy(weight, squared=name == "soar"), COPIES)
        )
        yield Stored(method, name, centers, buckets, took, weight)
    yield Stored(method, "spann", centers, cut(*near.spann(), COPIES), took)


def balanced(million: Million, centers: np.ndarray, built: dict[str, float]) -> Stored:
    """See benchmarks.peers.balanced; alpha is FAISS' default."""
    near = Near(million.base[:: len(million.base) // 10_000], centers, 1)
    unit = np.float32(1 / np.sqrt(np.median(near.d2)))
    with watched() as took:
        buckets = balanced_assignment_with_penalties(million.base * unit, centers * unit)[0]
    took = after(built, took)
    return Stored("balanced", "nearest", centers, np.asarray(buckets)[:, None].astype(np.int32), took)


def scann(million: Million, nlist: int, seed: int, *, soar: bool) -> Stored:
    """See benchmarks.peers.scann_tree."""
    with watched() as took:
        tree = scann_tree.build(million.base, "IP", nlist, seed, soar=soar)
    return Stored("scann_soar" if soar else "scann", "own", tree.centers, tree.tokens, took)


def ours(million: Million, run: Path) -> Iterator[Stored]:
    """A finished run: its centers under every rule of copies, then as it stores itself."""
    model = ivfast.load(run)
    stages = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = sum(line["seconds"] for line in stages if "stage" in line)
    recall = json.loads((run / "evaluation.json").read_text())["settings"]["recall"]
    method = f"ivfast, recall {recall:g}"
    yield from by_rules(million, method, model.centers, {"seconds": trained, "peak_mb": 0.0})
    with watched() as took:
        index = model.index(million.base, COPIES)
    took["seconds"] += trained
    yield Stored(method, "benefit", model.centers, buckets_in(index.faiss_index, len(million.base)), took)


def timed(million: Million, stored: Stored, nprobes: dict[str, int]) -> dict[str, float]:
    """Microseconds a query in stock FAISS on one thread, for each recall."""
    nlist, dim = stored.centers.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(np.ascontiguousarray(stored.centers))
    index = faiss.IndexIVFFlat(quantizer, dim, nlist, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(million.base), 65_536):
        rows, columns = np.nonzero(stored.buckets[start : start + 65_536] >= 0)
        block = million.base[start : start + 65_536]
        add_entries(index, block[rows], rows + start, stored.buckets[rows + start, columns])
    query, threads = million.query.x(slice(0, TIMED_QUERIES)), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    took: dict[str, float] = {}
    for level, nprobe in nprobes.items():
        passes: list[float] = []
        while len(passes) < TIMED and sum(passes) < MOST_SECONDS:
            started = time.thread_time()  # of this thread alone, whatever else the machine does
            distances, buckets = quantizer.search(query, nprobe)
            found = search_distinct(index, query, million.gt.shape[1], buckets, distances, stored.copies)[1]
            passes.append(time.thread_time() - started)
            recall = (found[:, :, None] == million.gt[: len(query), None, :]).any(axis=1).mean()
            if recall < float(level) - 0.02:  # of half the queries
                raise SystemExit(f"{stored.method}, {stored.rule}: FAISS finds {recall:.4f} at {level}")
        took[level] = 1e6 * min(passes) / len(query)
    faiss.omp_set_num_threads(threads)
    return took


def measure(million: Million, stored: Stored) -> dict[str, Any]:
    """One method, as JSON has it."""
    curve = million.curve(stored.centers, stored.buckets)
    nprobes = {f"{level:.2f}": int((curve.recall >= level).argmax()) + 1 for level in RECALLS}
    entries = int((stored.buckets >= 0).sum())
    megabytes = (entries * (4 * million.base.shape[1] + 8) + stored.centers.nbytes) / 1e6
    return {
        "method": stored.method, "rule": stored.rule, "copies": stored.copies, "chosen": stored.chosen,
        "scanned": {level: float(curve.scanned[nprobe - 1]) for level, nprobe in nprobes.items()},
        "nprobe": nprobes, "microseconds": timed(million, stored, nprobes), "built": stored.built,
        "megabytes": megabytes,
    }  # fmt: skip


def methods(options: argparse.Namespace, million: Million) -> Iterator[Stored]:
    """All that were asked for, one after the other."""
    keep = options.folder / "peers"
    if "kmeans" in options.methods:
        yield from by_rules(million, "kmeans", *kmeans(million, options.nlist, options.seed, keep))
    if "balanced" in options.methods:
        yield balanced(million, *kmeans(million, options.nlist, options.seed, keep))
    for name in ("scann", "scann_soar"):
        if name in options.methods:
            yield scann(million, options.nlist, options.seed, soar=name == "scann_soar")
    for run in options.ours:
        yield from ours(million, run)


def print_records(records: list[dict[str, Any]]) -> None:
    """One table."""
    levels = [f"{level:.2f}" for level in RECALLS]
    head = ["method", "copies by", "copies", *(f"scanned at {level}, %" for level in levels)]
    head += [*(f"microseconds at {level}" for level in levels), "building, s", "peak MB", "index MB"]
    rows = [
        [
            one["method"], one["rule"], f"{one['copies']:.2f}",
            *(f"{100 * one['scanned'][level]:.3f}" for level in levels),
            *(f"{one['microseconds'][level]:.0f}" for level in levels), f"{one['built']['seconds']:.0f}",
            f"{one['built']['peak_mb']:.0f}", f"{one['megabytes']:.0f}",
        ]
        for one in records
    ]  # fmt: skip
    print_table(head, rows)


def main(argv: list[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("million_out"), help="of benchmarks.million")
    parser.add_argument("--set", default="code_1000000_1")
    parser.add_argument("--nlist", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--ours", nargs="*", type=Path, default=[], help="finished runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to append to")
    options = parser.parse_args(argv)
    million = Million(options.folder / options.set)
    records = json.loads(options.out.read_text()) if options.out.is_file() else []
    for stored in methods(options, million):
        records.append(measure(million, stored))
        options.out.write_text(json.dumps(records, indent=1))
        print(f"{stored.method}, {stored.rule}: {records[-1]}", flush=True)
    print_records(records)


if __name__ == "__main__":
    main()
