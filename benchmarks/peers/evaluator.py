"""What a way of storing and a way of ranking scan and find; the same for every method."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.peer import Peer, Way
from benchmarks.peers.task import Task
from ivfast.choose.facts import PROBING_T_ROWS, fit_probing_t
from ivfast.data.vectors import Points
from ivfast.evaluate.results import SUMMARY_POINTS, right_answers
from ivfast.method import LEVELS, RECALL
from ivfast.route.routers import Router
from ivfast.route.search import (
    Answers,
    Lists,
    count_adaptive,
    first_found,
    imbalance,
    log_gains,
    router_order,
    scanned_at,
    scanned_shares,
    thresholds_for,
)
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.draws import spread
from ivfast.store.place import place

SHARES = (0.005, 0.01, 0.02, 0.05)  # scanned shares at which recall is reported


class Curve(NamedTuple):
    """What searches scan and find, from the fewest probes to all."""

    recall: np.ndarray  # (points,)
    scanned: np.ndarray  # (points,) mean share
    p99: np.ndarray  # (points,) of the share over queries


class Adaptive(NamedTuple):
    """What adaptive probing needs."""

    held_out: np.ndarray  # (n, nlist) logits of held-out learn vectors, which set the thresholds
    temperature: float


def stored_by(task: Task, way: Way, points: Points, copies: float, rows: np.ndarray) -> Lists:
    """What a way stores. rows: ascending, those of the points that are answers"""
    width = min(task.held.width, task.nlist)
    return place(LogitTiles(way.router, points), [way.plan(points, copies)], width, rows)[0]


def search(
    queries: LogitTiles, lists: Lists, answers: Answers, adaptive: Adaptive | None = None,
    weights: np.ndarray | None = None,
) -> Curve:  # fmt: skip
    """Search all queries at every nprobe, or with adaptive probing at 200 thresholds.

    answers: of all queries, in the order of the tiles
    weights: (queries, width) how much each answer counts, fixed probing alone; None: alike
    """
    if adaptive is not None and weights is not None:
        raise ValueError("adaptive probing counts all answers alike")
    weights = answers.valid.astype(np.float64) if weights is None else weights
    nlist = queries.router.nlist
    thresholds = np.empty(0, dtype=np.float32)
    if adaptive is not None:
        gains = log_gains(adaptive.held_out, adaptive.temperature, lists)
        thresholds = thresholds_for(gains, np.geomspace(1, nlist, SUMMARY_POINTS))
    found = np.zeros(nlist if adaptive is None else SUMMARY_POINTS)
    scanned = []
    for start, z in queries:
        block = Answers(answers.at[start : start + len(z)], answers.valid[start : start + len(z)])
        if adaptive is None:
            order, places = router_order(z)
            first = first_found(places, lists, block)
            counted = weights[start : start + len(z)].ravel()
            found += np.cumsum(np.bincount(first.ravel() - 1, counted, minlength=nlist + 1)[:-1])
            scanned.append(scanned_shares(order, lists))
        else:
            counts = count_adaptive(log_gains(z, adaptive.temperature, lists), thresholds, lists, block)
            found += counts.found
            scanned.append(counts.scanned / lists.n)
    shares = np.concatenate(scanned)
    return Curve(found / weights.sum(), shares.mean(axis=0), np.percentile(shares, 99, axis=0))


def figures(curve: Curve, lists: Lists) -> dict[str, Any]:
    """Numbers of one curve; recall at a share is linear between points, and from the origin to the first."""
    scanned, recall = np.r_[0, curve.scanned], np.r_[0, curve.recall]
    reached = np.flatnonzero(curve.recall >= RECALL)
    return {
        "recall_at": {f"{share:g}": float(np.interp(share, scanned, recall)) for share in SHARES},
        "scanned_at": {f"{level:.2f}": scanned_at(curve.recall, curve.scanned, level) for level in LEVELS},
        "p99_at_0.90": float(curve.p99[reached[0]]) if len(reached) else float("nan"),
        "imbalance": imbalance(lists.sizes),
        "entries": lists.entries,
    }


def temperature_of(task: Task, router: Router, way: Way) -> float:
    """T, fitted to where the neighbours of held-out learn vectors are stored."""
    primary = stored_by(task, way, task.learn, 0.0, np.arange(len(task.learn))).buckets[:, 0]
    chosen = spread(len(task.neighbors.held_out), PROBING_T_ROWS)
    z = LogitTiles(router, task.learn, task.neighbors.held_out[chosen]).all()
    return fit_probing_t(z, primary[task.neighbors.answers[chosen]].astype(np.int64))


def evaluate(task: Task, peer: Peer) -> list[dict[str, Any]]:
    """One record for every rule, number of copies and way of probing."""
    wanted, at, valid = right_answers(task.gt)
    answers = Answers(at, valid)
    queries = LogitTiles(peer.router, task.query)
    held_out = LogitTiles(peer.router, task.learn, task.neighbors.held_out).all()
    records = []
    for name, way in peer.ways.items():
        temperature = peer.temperature or temperature_of(task, peer.router, way)
        for copies in way.copies:
            lists = stored_by(task, way, task.base, copies, wanted)
            for probing in ("fixed", "adaptive"):
                how = Adaptive(held_out, temperature) if probing == "adaptive" else None
                numbers = figures(search(queries, lists, answers, how), lists)
                size = numbers["entries"] * (4 * task.base.dim + 8) + peer.model_bytes
                record = {"method": peer.name, "rule": name, "percent": copies, "probing": probing, **numbers}
                records.append(record | {"bytes": size, "seconds": peer.seconds, "T": temperature})
    return records
