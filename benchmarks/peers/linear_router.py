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


def make(task: Task, start: Trained, epochs: int = EPOCHS) -> Peer:
    """Train W on learn; stored as k-means does, by ratio."""
    started = time.monotonic()
    buckets = np.concatenate([z.argmax(axis=1) for _, z in LogitTiles(start.router, task.learn)])
    neighbors = task.neighbors
    x, held = (torch.from_numpy(task.learn.x(rows)) for rows in (neighbors.train, neighbors.held_out))
    y = torch.from_numpy(buckets[neighbors.train_neighbors[:, 0]])
    held_y = torch.from_numpy(buckets[neighbors.answers[:, 0]])
    weight, bias = torch.from_numpy(start.centers.copy()), -np.square(start.centers).sum(axis=1) / 2
    bias = torch.from_numpy(bias * (task.metric == "L2"))
    sharp = 1 / fit_sharpness((held @ weight.T + bias).numpy(), held_y.numpy())
    weight, bias = (weight * sharp).requires_grad_(), (bias * sharp).requires_grad_()
    trained = [weight] if task.metric == "IP" else [weight, bias]
    optimizer = torch.optim.Adam(trained, lr=LR)
    order = torch.Generator().manual_seed(task.seed)
    best, best_loss, best_epoch = (weight.detach().clone(), bias.detach().clone()), np.inf, 0
    losses = []
    for epoch in range(epochs + 1):
        with torch.no_grad():
            losses.append(float(cross_entropy(held @ weight.T + bias, held_y)))
        if losses[-1] < best_loss:
            best, best_loss, best_epoch = (weight.detach().clone(), bias.detach().clone()), losses[-1], epoch
        if epoch == epochs or epoch - best_epoch >= PATIENCE:
            break
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(x[rows] @ weight.T + bias, y[rows]).backward()
            optimizer.step()
    w, b = (value.numpy() for value in best)
    router = Router("linear_router", task.nlist, lambda rows: rows @ w.T + b)
    seconds = start.seconds + task.neighbor_seconds + time.monotonic() - started
    settings = {"epoch": best_epoch, "held-out loss": best_loss, "at the start": losses[0]}
    ways = {"ratio": way_of(task, start.router, "ratio")}
    size = start.centers.nbytes + w.nbytes + (b.nbytes if task.metric == "L2" else 0)
    return Peer("linear_router", router, ways, seconds, size, settings)


def fit_sharpness(scores: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of plain scores, whose unit is unknown: found over their own spread."""
    unit = float(scores.std(axis=1).mean()) / 4
    return unit * fit_probing_t(scores / unit, targets[:, None])
