"""What a way of storing and a way of ranking scan and find; the same for every method."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.peer import Candidates, Peer, Rule
from benchmarks.peers.task import Task
from ivfast.choose.facts import TEMPERATURE_ROWS, fit_temperature
from ivfast.evaluate.results import SUMMARY_POINTS, right_answers
from ivfast.method import LEVELS, RECALL
from ivfast.route.routers import LogitTiles, Router
from ivfast.route.search import (
    Answers,
    Stored,
    count_adaptive,
    first_found,
    imbalance,
    log_gains,
    router_order,
    scanned_at,
    scanned_shares,
    thresholds_for,
)
from ivfast.runtime.draws import spread

SHARES = (0.005, 0.01, 0.02, 0.05)  # scanned shares at which recall is told


class Curve(NamedTuple):
    """What searches scan and find, from the fewest probes to all."""

    recall: np.ndarray  # (points,)
    scanned: np.ndarray  # (points,) mean share
    p99: np.ndarray  # (points,) of the share over queries


class Adaptive(NamedTuple):
    """What adaptive probing needs."""

    held_out: np.ndarray  # (n, nlist) logits of held-out learn vectors, which set the thresholds
    temperature: float


def cut(found: Candidates, percent: float) -> np.ndarray:
    """Primaries and the round(percent n) copies of the largest keys; ties: smaller vector, then smaller bucket.

    returns: (n, width) int32 buckets, -1 where none; fewer copies where fewer keys are above -inf
    """
    keys, buckets = found.keys[:, 1:], found.buckets[:, 1:]
    row, column = np.nonzero(keys > -np.inf)
    best = np.lexsort((buckets[row, column], row, -keys[row, column]))[: round(percent * len(keys))]
    taken = np.zeros(found.buckets.shape, dtype=bool)
    taken[:, 0] = True
    taken[row[best], column[best] + 1] = True
    return np.where(taken, found.buckets, -1)


def store(lists: np.ndarray, rows: np.ndarray, nlist: int) -> Stored:
    """Lists as searches see them. lists: (n, width); rows: those that are answers"""
    return Stored(np.bincount(lists[lists >= 0], minlength=nlist), len(lists), lists[rows])


def search(
    queries: LogitTiles, stored: Stored, answers: Answers, adaptive: Adaptive | None = None,
    worth: np.ndarray | None = None,
) -> Curve:  # fmt: skip
    """Search all queries at every nprobe, or with adaptive probing at 200 thresholds.

    answers: of all queries, in the order of the tiles
    worth: (queries, width) how much each answer counts, fixed probing alone; None: alike
    """
    if adaptive is not None and worth is not None:
        raise ValueError("adaptive probing counts all answers alike")
    worth = answers.valid.astype(np.float64) if worth is None else worth
    nlist = queries.router.nlist
    thresholds = np.empty(0, dtype=np.float32)
    if adaptive is not None:
        gains = log_gains(adaptive.held_out, adaptive.temperature, stored)
        thresholds = thresholds_for(gains, np.geomspace(1, nlist, SUMMARY_POINTS))
    found = np.zeros(nlist if adaptive is None else SUMMARY_POINTS)
    scanned = []
    for start, z in queries:
        block = Answers(answers.at[start : start + len(z)], answers.valid[start : start + len(z)])
        if adaptive is None:
            order, place = router_order(z)
            first = first_found(place, stored, block)
            counted = worth[start : start + len(z)].ravel()
            found += np.cumsum(np.bincount(first.ravel() - 1, counted, minlength=nlist + 1)[:-1])
            scanned.append(scanned_shares(order, stored))
        else:
            counts = count_adaptive(log_gains(z, adaptive.temperature, stored), thresholds, stored, block)
            found += counts.found
            scanned.append(counts.scanned / stored.n)
    shares = np.concatenate(scanned)
    return Curve(found / worth.sum(), shares.mean(axis=0), np.percentile(shares, 99, axis=0))


def figures(curve: Curve, stored: Stored) -> dict[str, Any]:
    """Numbers of one curve; recall at a share is linear between points, and from the origin to the first."""
    scanned, recall = np.r_[0, curve.scanned], np.r_[0, curve.recall]
    reached = np.flatnonzero(curve.recall >= RECALL)
    return {
        "recall_at": {f"{share:g}": float(np.interp(share, scanned, recall)) for share in SHARES},
        "scanned_at": {f"{level:.2f}": scanned_at(curve.recall, curve.scanned, level) for level in LEVELS},
        "p99_at_0.90": float(curve.p99[reached[0]]) if len(reached) else float("nan"),
        "imbalance": imbalance(stored.sizes),
        "entries": int(stored.sizes.sum()),
    }


def temperature_of(task: Task, router: Router, rule: Rule) -> float:
    """T, told by where the neighbours of held-out learn vectors are stored."""
    primary = rule.candidates(task.learn, 0.0).buckets[:, 0]
    chosen = spread(len(task.neighbors.held_out), TEMPERATURE_ROWS)
    z = LogitTiles(router, task.learn, task.space, task.neighbors.held_out[chosen]).all()
    return fit_temperature(z, primary[task.neighbors.answers[chosen]].astype(np.int64))


def evaluate(task: Task, peer: Peer) -> list[dict[str, Any]]:
    """One record for every rule, percent and way of probing."""
    wanted, at, valid = right_answers(task.gt)
    answers = Answers(at, valid)
    queries = LogitTiles(peer.router, task.query, task.space)
    held_out = LogitTiles(peer.router, task.learn, task.space, task.neighbors.held_out).all()
    records = []
    for name, rule in peer.rules.items():
        temperature = peer.temperature or temperature_of(task, peer.router, rule)
        for percent in rule.percents:
            stored = store(cut(rule.candidates(task.base, percent), percent), wanted, task.nlist)
            for probing in ("fixed", "adaptive"):
                how = Adaptive(held_out, temperature) if probing == "adaptive" else None
                numbers = figures(search(queries, stored, answers, how), stored)
                size = numbers["entries"] * (4 * task.base.dim + 8) + peer.model_bytes
                record = {"method": peer.name, "rule": name, "percent": percent, "probing": probing, **numbers}
                records.append(record | {"bytes": size, "seconds": peer.seconds, "T": temperature})
    return records
