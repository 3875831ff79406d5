"""A linear router learned over k-means' buckets.

Source: Vecchiato, Lucchese, Nardini and Bruch, "A Learning-to-Rank Formulation of Clustering-Based
Approximate Nearest Neighbor Search", SIGIR 2024: k-means says where vectors are stored; W x ranks buckets,
trained by cross-entropy between softmax(W x) and the bucket that holds the query's nearest neighbour.
Settings are those of the authors' program: Adam at 1e-3, batches of 512, at most 100 epochs, the epoch of
least validation loss.

Here queries are not at hand: learn vectors stand in for them, their nearest other learn vector for the
answer, held-out learn pairs for the validation set. W starts at the centers (the program: at random), times
the k that fits held-out pairs, so that it starts as k-means; under L2 there is a bias, -|c|^2 / 2 at first.
Ten epochs without a lower loss end training.
"""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.kmeans import Trained
from benchmarks.peers.peer import Peer, way_of
from benchmarks.peers.task import Task
from ivfast.choose.facts import fit_probing_t
from ivfast.route.routers import Router
from ivfast.route.tiles import LogitTiles

LR, BATCH, EPOCHS, PATIENCE = 1e-3, 512, 100, 10


class Labelled(NamedTuple):
    """Queries, and the bucket that holds the nearest vector of each."""

    x: np.ndarray  # (n, dim) float32
    bucket: np.ndarray  # (n,) int64


class Linear(NamedTuple):
    """A router's scores are x @ weight.T + bias."""

    weight: np.ndarray  # (nlist, dim) float32
    bias: np.ndarray  # (nlist,) float32
    settings: dict[str, Any]

    def scores(self, x: np.ndarray) -> np.ndarray:
        """(n, nlist) float32"""
        return x @ self.weight.T + self.bias


def train_linear(
    centers: np.ndarray, metric: str, train: Labelled, held: Labelled, seed: int, epochs: int = EPOCHS
) -> Linear:
    """Train W, which starts at the centers; held: tells which epoch is taken."""
    x, held_x = (torch.from_numpy(one.x) for one in (train, held))
    y, held_y = (torch.from_numpy(one.bucket) for one in (train, held))
    weight, bias = torch.from_numpy(centers.copy()), -np.square(centers).sum(axis=1) / 2
    bias = torch.from_numpy(bias * (metric == "L2"))
    sharp = 1 / fit_sharpness((held_x @ weight.T + bias).numpy(), held_y.numpy())
    weight, bias = (weight * sharp).requires_grad_(), (bias * sharp).requires_grad_()
    trained = [weight] if metric == "IP" else [weight, bias]
    optimizer = torch.optim.Adam(trained, lr=LR)
    order = torch.Generator().manual_seed(seed)
    best, best_loss, best_epoch = (weight.detach().clone(), bias.detach().clone()), np.inf, 0
    losses = []
    for epoch in range(epochs + 1):
        with torch.no_grad():
            losses.append(float(cross_entropy(held_x @ weight.T + bias, held_y)))
        if losses[-1] < best_loss:
            best, best_loss, best_epoch = (weight.detach().clone(), bias.detach().clone()), losses[-1], epoch
        if epoch == epochs or epoch - best_epoch >= PATIENCE:
            break
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(x[rows] @ weight.T + bias, y[rows]).backward()
            optimizer.step()
    settings = {"epoch": best_epoch, "held-out loss": best_loss, "at the start": losses[0]}
    return Linear(best[0].numpy(), best[1].numpy(), settings)


def make(task: Task, start: Trained, epochs: int = EPOCHS) -> Peer:
    """Train W on learn; stored as k-means does, by ratio."""
    started = time.monotonic()
    buckets = np.concatenate([z.argmax(axis=1) for _, z in LogitTiles(start.router, task.learn)])
    neighbors = task.neighbors
    train = Labelled(task.learn.x(neighbors.train), buckets[neighbors.train_neighbors[:, 0]])
    held = Labelled(task.learn.x(neighbors.held_out), buckets[neighbors.answers[:, 0]])
    linear = train_linear(start.centers, task.metric, train, held, task.seed, epochs)
    router = Router("linear_router", task.nlist, linear.scores)
    seconds = start.seconds + task.neighbor_seconds + time.monotonic() - started
    ways = {"ratio": way_of(task, start.router, "ratio")}
    size = start.centers.nbytes + linear.weight.nbytes + (linear.bias.nbytes if task.metric == "L2" else 0)
    return Peer("linear_router", router, ways, seconds, size, linear.settings)


def fit_sharpness(scores: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of plain scores, whose unit is unknown: found over their own spread."""
    unit = float(scores.std(axis=1).mean()) / 4
    return unit * fit_probing_t(scores / unit, targets[:, None])
