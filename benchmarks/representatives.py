"""Whether buckets rank better by several representatives than by their center, at equal storage.

    python -m benchmarks.representatives --data_path DIR --set text --metric IP --save_path OUT

Trains the centers on base itself into OUT, or takes the finished run that is there. k-means inside each bucket, over
the vectors whose only or first bucket it is, gives representatives, and a query ranks buckets by their nearest one
(as `benchmarks.peers.graph_parts` does for parts of a graph). Vectors and copies stay where the rule put them: the
nearest center, or `benefit`. Printed is what is scanned in percent of base, by the center (0) and by so many
representatives, and what held-out vectors scan, for whom representatives are found without them. Which number is
best is told by these alone.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers import dcnet
from benchmarks.peers.choosing import held_out_share
from benchmarks.peers.evaluator import evaluate, stored_by
from benchmarks.peers.graph_parts import represent, route
from benchmarks.peers.peer import Given, Peer, Way
from benchmarks.peers.task import Task, open_task
from benchmarks.runs import print_table
from ivfast.route.routers import Router

HEAD = ["stored by", "copies", "representatives", "held-out, %", "0.90, %", "0.95, %", "adaptive 0.90, %", "p99, %"]


def rows_of(task: Task, name: str, peer: Peer, way: Way, copies: float, counts: list[int]) -> list[list[str]]:
    """One line by the center, and one a number of representatives. way: by which vectors and copies are stored"""
    every = np.arange(len(task.base))
    buckets = stored_by(task, way, task.base, copies, every).buckets
    given = Given(buckets, np.zeros(buckets.shape, dtype=np.float32))  # of base, which is learn
    ways = {"own": Way(way.router, lambda _, __: given, (copies,))}
    first = buckets[:, 0].astype(np.int64)
    x, rows = task.base.x(slice(None)), task.neighbors.train
    lines = [line(task, name, peer._replace(ways=ways), 0, peer.router)]
    for count in counts:
        seen, blind = (
            route(task, represent(x[among], first[among], task.nlist, count, task.metric, task.seed), first)
            for among in (every, rows)
        )
        lines.append(line(task, name, Peer("representatives", seen, ways, 0.0, 0, {}), count, blind))
    return lines


def line(task: Task, name: str, peer: Peer, count: int, blind: Router) -> list[str]:
    """What is scanned by one ranking. blind: the same ranking, as held-out vectors may see it"""
    way = peer.ways["own"]
    held = held_out_share(task, blind, way, way.copies[0])
    fixed, adaptive = evaluate(task, peer)
    shares = held, fixed["scanned_at"]["0.90"], fixed["scanned_at"]["0.95"], adaptive["scanned_at"]["0.90"]
    figures = [f"{100 * share:.2f}" for share in shares]
    return [name, f"{way.copies[0]:g}", str(count), *figures, f"{100 * fixed['p99_at_0.90']:.1f}"]


def main(argv: list[str] | None = None) -> None:
    """Train where nothing is trained yet, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the set")
    parser.add_argument("--set", required=True, help="name of the set")
    parser.add_argument("--metric", choices=["IP", "L2"], required=True)
    parser.add_argument("--save_path", type=Path, required=True, help="where the run is, or will be")
    parser.add_argument("--nlist", type=int, default=256)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="representatives a bucket")
    options = parser.parse_args(argv)
    task = open_task(options.data_path, options.set, options.metric, "in-sample", options.nlist, seed=1)
    if not (options.save_path / "dcnet.safetensors").is_file():
        dcnet.train(task, (task.base.dim, options.nlist), options.save_path)
    ours = dcnet.make_centers(task, options.save_path, 0.0, copies=False)
    for name, copies in (("benefit", 0.8), ("benefit", 0.0), ("ratio", 0.0)):
        print_table(HEAD, rows_of(task, name, ours, ours.ways[name], copies, options.counts))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
