"""k-means whose buckets are evened out by penalties.

Source: faiss.contrib.clustering.balanced_assignment_with_penalties of FAISS 1.15, after Tavenard, Jegou and
Amsaleg, "Balancing clusters to reduce response time variability in large scale image search", CBMI 2011:
vectors go where d(x, c)^2 + penalty_c^2 is least, penalty_c *= (size_c n_buckets / n)^alpha, 20 times.

A penalty starts at 1 whatever the unit of the data, so x is scaled until the median of k-means' nearest
d^2 is 1; alpha is chosen from its documented range on held-out learn pairs. Queries rank by distance.
"""

import time
from dataclasses import dataclass

import numpy as np
from faiss.contrib.clustering import balanced_assignment_with_penalties

from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.kmeans import Trained
from benchmarks.peers.peer import Peer, Way, nearest_with
from benchmarks.peers.task import Task
from ivfast.data.vectors import Points
from ivfast.route.distances import squared_distances
from ivfast.route.tiles import Tile
from ivfast.runtime.draws import spread

ALPHAS = (0.01, 0.03, 0.1)  # 0.03 is FAISS's default
MAX_K = 100  # buckets looked at, FAISS's default


@dataclass(frozen=True, eq=False)
class Balanced:
    """The balanced bucket first, then the others by ratio of distances."""

    primary: np.ndarray  # (n,) of all vectors in their order

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        return nearest_with(self.primary[tile.start : tile.start + len(tile.z)], tile.z, width)


def make(task: Task, start: Trained) -> Peer:
    """Balance the assignment of k-means' centers."""
    started = time.monotonic()
    x = task.learn.x(spread(len(task.learn), 10_000))
    d2 = squared_distances(x, start.centers, task.metric)
    unit = np.float32(1 / np.sqrt(np.median(d2.min(axis=1))))

    def way(alpha: float) -> Way:
        def rule_for(points: Points, copies: float) -> Balanced:
            del copies
            primary = balanced_assignment_with_penalties(
                points.x(slice(None)) * unit, start.centers * unit, alpha=alpha, maxk=min(MAX_K, task.nlist)
            )[0]
            return Balanced(np.asarray(primary))

        return Way(start.router, rule_for)

    shares = {alpha: held_out_share(task, start.router, way(alpha), 0.0) for alpha in ALPHAS}
    alpha = choose(shares)
    seconds = start.seconds + time.monotonic() - started
    settings = {"alpha": alpha, "held-out shares": shares}
    return Peer("balanced", start.router, {"ratio": way(alpha)}, seconds, start.centers.nbytes, settings)
