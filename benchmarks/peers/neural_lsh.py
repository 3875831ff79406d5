"""Neural LSH: a balanced partition of the graph of neighbours, then a network that learns it.

Source: Dong, Indyk, Razenshteyn and Wagner, "Learning Space Partitions for Nearest Neighbor Search", ICLR
2020, and the authors' program: the graph of 10 nearest neighbours, made symmetric, is cut into nlist parts of
even size; a network is trained by cross-entropy, summed over batches of 64, to the distribution of parts among
a vector's 50 nearest neighbours, itself included. Adam at 8e-4, weight decay 1e-4, at most 35 epochs, the rate
times 0.21 after epochs 10, 17, 24, 31. In-sample, vectors are stored in their part and queries rank by the
network; vectors not partitioned (transfer) go where the network says.

Different here: METIS (pymetis, k-way) instead of KaHIP; layers of DCNet's sizes; the mean over a batch instead
of the sum, and the decay divided likewise (to Adam the same); the epoch is chosen on held-out learn pairs. The
paper has no copies: those shown are by membership's order of the network, the part first.
"""

import importlib
import time
from dataclasses import dataclass

import faiss
import numpy as np
import torch

from benchmarks.peers.mlp import as_router, make_network, n_bytes, train
from benchmarks.peers.peer import Peer, Way, way_of
from benchmarks.peers.task import FTOPK, Task
from ivfast.data.vectors import Points
from ivfast.route.tiles import Tile
from ivfast.store.rules.rule import Rule

BATCH, EPOCHS = 64, 35
LR, DECAY, GAMMA, MILESTONES = 8e-4, 1e-4 / BATCH, 0.21, (10, 17, 24, 31)
LABELS = 50  # nearest neighbours, itself included, whose parts are a vector's soft label


def partition(near: np.ndarray, n_parts: int, seed: int) -> np.ndarray:
    """Cut the symmetric graph of neighbours. near: (n, k) rows; returns (n,) int64 parts."""
    pymetis = importlib.import_module("pymetis")
    n, k = near.shape
    ends = np.stack([np.repeat(np.arange(n), k), near.ravel()])
    both = np.unique(np.concatenate([ends, ends[::-1]], axis=1), axis=1)
    both = both[:, both[0] != both[1]]
    starts = np.searchsorted(both[0], np.arange(n + 1))
    options = pymetis.Options(seed=seed)
    graph = pymetis.CSRAdjacency(starts, both[1])
    parts = pymetis.part_graph(n_parts, graph, recursive=False, options=options)[1]
    return np.asarray(parts, dtype=np.int64)


def make(task: Task, param_list: tuple[int, ...], epochs: int = EPOCHS) -> Peer:
    """Partition learn, train on those of it that are not held out."""
    started = time.monotonic()
    x = task.learn.x(slice(None))
    metric = faiss.METRIC_INNER_PRODUCT if task.metric == "IP" else faiss.METRIC_L2
    near = faiss.knn(x, x, min(LABELS, len(x)), metric=metric)[1]
    parts = partition(near[:, : FTOPK + 1], task.nlist, task.seed)
    labels = torch.from_numpy(parts[near])
    train_rows = torch.from_numpy(task.neighbors.train)
    vectors = torch.from_numpy(x)
    network = make_network(param_list, task.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(MILESTONES), GAMMA)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        rows = train_rows[rows]
        log_p = torch.log_softmax(network(vectors[rows]), dim=1)
        return -log_p.gather(1, labels[rows]).mean()

    router = as_router("neural_lsh", network, task.nlist)

    by_part = by_parts(task, way_of(task, router, "membership", {0.0: 1.0}), parts)
    share, epoch = train(
        task, network, optimizer, epochs, len(train_rows), BATCH, loss_of, schedule.step, router, by_part
    )
    ways = {"membership": by_parts(task, way_of(task, router, "membership"), parts)}
    sizes = np.bincount(parts, minlength=task.nlist)
    settings = {"epoch": epoch, "held-out share": share, "largest part over mean": float(sizes.max() / sizes.mean())}
    seconds = time.monotonic() - started
    return Peer("neural_lsh", router, ways, seconds, n_bytes(network), settings)


def by_parts(task: Task, way: Way, parts: np.ndarray) -> Way:
    """A way of storing that puts base into its parts first, where it was base that was partitioned."""

    def rule_for(points: Points, copies: float) -> Rule:
        rule = way.rule_for(points, copies)
        return PartFirst(rule, parts) if task.in_sample else rule

    return way._replace(rule_for=rule_for)


@dataclass(frozen=True, eq=False)
class PartFirst:
    """A rule of a partitioned base: the part first, then as another rule says."""

    rule: Rule
    parts: np.ndarray  # (n,) of all vectors in their order

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        return part_first(*self.rule.rank(tile, width), self.parts[tile.start : tile.start + len(tile.z)])


def part_first(buckets: np.ndarray, keys: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part as primary; where it was among the candidates, the old primary takes its place, with its key."""
    buckets, keys = buckets.copy(), keys.copy()
    there = buckets == parts[:, None]
    moved = np.flatnonzero(~there[:, 0])
    column = np.where(there.any(axis=1), there.argmax(axis=1), buckets.shape[1] - 1)[moved]  # else the least is lost
    buckets[moved, column], keys[moved, column] = buckets[moved, 0], keys[moved, 0]
    buckets[:, 0] = parts
    return buckets, keys
