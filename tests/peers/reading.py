"""How sets and records are read, and a method that knows nothing."""

from pathlib import Path

import numpy as np

from benchmarks.peers.peer import Peer, way_of
from benchmarks.peers.task import Task, open_task
from ivfast.route.routers import Router

NLIST = 16
PARAM_LIST = (24, 64, NLIST)


def task_of(folder: Path, metric: str, setting: str) -> Task:
    return open_task(folder, "topics" if metric == "IP" else "spread", metric, setting, NLIST, 1)


def at_90(records: list[dict], probing: str = "fixed", percent: float = 0.0, rule: str | None = None) -> float:
    return next(
        r["scanned_at"]["0.90"]
        for r in records
        if r["probing"] == probing and r["percent"] == percent and rule in (None, r["rule"])
    )


def hashed(task: Task) -> Peer:
    """Locality-sensitive hashing: buckets by random products, ranked by the same."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((task.base.dim, NLIST)).astype(np.float32)
    router = Router("hashed", NLIST, lambda x: x @ w)
    way = way_of(task, router, "membership", {0.0: 1.0})._replace(copies=(0.0,))
    return Peer("hashed", router, {"own": way}, 0.0, 0, {})
