"""Graph partitioning, where several representatives of each part rank it.

Source: Gottesbueren, Dhulipala, Jayaram and Lacki, "Unleashing Graph Partitioning for Large-Scale Nearest Neighbor
Search", PVLDB 18, 2025, and the authors' program: the graph of nearest neighbours is cut into parts of even size.
k-means inside each part gives it representatives, as many as its share of a budget, and a query ranks parts by
their nearest representative.

Different here: METIS instead of KaMinPar, as for Neural LSH. The authors find the nearest representatives by a tree
of k-means (64 centers a node) or by HNSW; here all are looked at, which can only rank better. Their budgets are
20,000 to 10 million representatives of a billion vectors, 1 % at most, and their parts are few and large. Here the
number a part is chosen on held-out learn pairs, from 1 to 32; for the choice the held-out vectors themselves are
left out of k-means. What a query compares with to rank parts (their number times nlist) isn't counted as scanned.
Vectors that were not partitioned (transfer) go to the part of their nearest representative. Copies are by
membership's order, the part first; the paper's own overlapping parts are not tried.
"""

import time
from typing import NamedTuple

import faiss
import numpy as np

from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.linear_router import fit_sharpness
from benchmarks.peers.neural_lsh import by_parts, partition
from benchmarks.peers.peer import Peer, way_of
from benchmarks.peers.task import FTOPK, Task
from ivfast.route.distances import squared_distances
from ivfast.route.routers import Router

COUNTS = (1, 2, 4, 8, 16, 32)  # representatives a part
NITER = 20


class Representatives(NamedTuple):
    """Several centers of each part, part after part."""

    centers: np.ndarray  # (m, dim) float32, inside
    part: np.ndarray  # (m,) int64, ascending
    n_parts: int
    metric: str

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Minus the squared distance to the nearest representative of each part, (n, n_parts) float32.

        A part without any ranks last.
        """
        near = -squared_distances(x, self.centers, self.metric)
        there, starts = np.unique(self.part, return_index=True)
        found = np.repeat(near.min(axis=1, keepdims=True), self.n_parts, axis=1)
        found[:, there] = np.maximum.reduceat(near, starts, axis=1)
        return found


def represent(
    x: np.ndarray, parts: np.ndarray, n_parts: int, count: int, metric: str, seed: int
) -> Representatives:  # fmt: skip
    """k-means inside each part, spherical under IP. x: (n, dim); parts: (n,); count: centers a part at most"""
    centers, part = [], []
    for number in range(n_parts):
        inside = x[parts == number]
        if not len(inside):
            continue
        clustering = faiss.Kmeans(
            x.shape[1], min(count, len(inside)), niter=NITER, seed=seed, spherical=metric == "IP",
            min_points_per_centroid=1, max_points_per_centroid=len(inside),
        )  # fmt: skip
        clustering.train(inside)
        centers.append(np.asarray(clustering.centroids))
        part.append(np.full(len(centers[-1]), number, dtype=np.int64))
    return Representatives(np.concatenate(centers), np.concatenate(part), n_parts, metric)


def make(task: Task, counts: tuple[int, ...] = COUNTS) -> Peer:
    """Partition learn, choose how many representatives, find them again in all of learn."""
    started = time.monotonic()
    x = task.learn.x(slice(None))
    metric = faiss.METRIC_INNER_PRODUCT if task.metric == "IP" else faiss.METRIC_L2
    parts = partition(faiss.knn(x, x, FTOPK + 1, metric=metric)[1], task.nlist, task.seed)
    rows = task.neighbors.train
    shares = {}
    for count in counts:
        router = route(task, represent(x[rows], parts[rows], task.nlist, count, task.metric, task.seed), parts)
        way = by_parts(task, way_of(task, router, "membership", {0.0: 1.0}), parts)
        shares[count] = held_out_share(task, router, way, 0.0)
    count = choose(shares)
    found = represent(x, parts, task.nlist, int(count), task.metric, task.seed)
    router = route(task, found, parts)
    ways = {"membership": by_parts(task, way_of(task, router, "membership"), parts)}
    sizes = np.bincount(parts, minlength=task.nlist)
    settings = {
        "representatives": count, "in all": len(found.centers), "held-out shares": shares,
        "largest part over mean": float(sizes.max() / sizes.mean()),
    }  # fmt: skip
    return Peer("graph_parts", router, ways, time.monotonic() - started, found.centers.nbytes, settings)


def route(task: Task, found: Representatives, parts: np.ndarray) -> Router:
    """Scores over the temperature that fits where the nearest of held-out vectors lie."""
    neighbors = task.neighbors
    scores = found.scores(task.learn.x(neighbors.held_out))
    sharp = np.float32(1 / fit_sharpness(scores, parts[neighbors.answers[:, 0]]))
    return Router("graph_parts", task.nlist, lambda x: found.scores(x) * sharp)
