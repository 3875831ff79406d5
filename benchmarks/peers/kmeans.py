"""FAISS k-means on all of learn, spherical under IP, every iteration run.

Source: faiss.Kmeans of FAISS (Douze et al., "The Faiss library", IEEE Transactions on Big Data, 2025).
Stored by the vendor's ratio rule, searched by distance; k of its logits is fitted as ivfast fits it.
"""

import time
from typing import NamedTuple

import faiss
import numpy as np

from benchmarks.peers.peer import Peer, Way, way_of
from benchmarks.peers.task import Task
from ivfast.choose.goal import fit_k, pair_logits
from ivfast.route.routers import Router, centers_router
from ivfast.start.kmeans import measure_buckets


class Trained(NamedTuple):
    """Centers with what their logits need."""

    centers: np.ndarray  # (nlist, dim) float32, inside
    router: Router
    delta_floor: float
    seconds: float


def train(task: Task, niter: int) -> Trained:
    """Cluster learn and fit k on held-out pairs."""
    started = time.monotonic()
    x = task.learn.x(slice(None))
    clustering = faiss.Kmeans(
        x.shape[1], task.nlist, niter=niter, seed=task.seed, spherical=task.metric == "IP",
        min_points_per_centroid=1, max_points_per_centroid=len(x),
    )  # fmt: skip
    clustering.train(x)
    seconds = time.monotonic() - started
    return as_router(task, f"kmeans{niter}", np.asarray(clustering.centroids), seconds)


def as_router(task: Task, name: str, centers: np.ndarray, seconds: float) -> Trained:
    """Any centers, inside, as a router with its k."""
    buckets = measure_buckets(task.learn, centers, task.seed)
    x, x_pair = task.held.pair_points()
    k = fit_k(pair_logits(x, x_pair, centers, task.metric, buckets.delta_floor), buckets.share)
    router = centers_router(name, centers, task.metric, buckets.delta_floor, k)
    return Trained(centers, router, buckets.delta_floor, seconds)


def make(task: Task, niter: int, trained: Trained, copies: dict[str, Way] | None = None) -> Peer:
    """k-means under ratio, and under other rules of copies where given."""
    ways = {"ratio": way_of(task, trained.router, "ratio")} | (copies or {})
    return Peer(f"kmeans{niter}", trained.router, ways, trained.seconds, trained.centers.nbytes, {"niter": niter})
