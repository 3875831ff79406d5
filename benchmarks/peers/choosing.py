"""Settings of a method chosen on held-out learn pairs, never on the queries of the evaluation."""

import numpy as np

from benchmarks.peers.evaluator import search, stored_by
from benchmarks.peers.peer import Way
from benchmarks.peers.task import Task
from ivfast.method import RECALL
from ivfast.route.routers import Router
from ivfast.route.search import Answers, scanned_at
from ivfast.route.tiles import LogitTiles


def held_out_share(task: Task, router: Router, way: Way, copies: float) -> float:
    """Share of learn scanned for 90 % of the held-out vectors' neighbours in learn, fixed probing; 1 if never.

    The mean of two, as where ours are chosen: neighbours count alike, and by their kinship.
    """
    neighbors = task.neighbors
    rows, at = np.unique(neighbors.answers, return_inverse=True)
    answers = Answers(at.reshape(neighbors.answers.shape), np.ones(neighbors.answers.shape, dtype=bool))
    lists = stored_by(task, way, task.learn, copies, rows)
    queries = LogitTiles(router, task.learn, neighbors.held_out)
    curves = [search(queries, lists, answers, weights=weights) for weights in (None, task.held.answer_weights)]
    shares = [scanned_at(curve.recall, curve.scanned, RECALL) for curve in curves]
    return float(np.mean(np.nan_to_num(shares, nan=1.0)))


def choose(shares: dict[float, float]) -> float:
    """The setting that scans least."""
    return min(shares, key=lambda setting: shares[setting])
