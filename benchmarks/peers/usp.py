"""USP: a network that partitions by a loss of neighbours and of balance.

Source: Fahim, Ali and Cheema, "Unsupervised Space Partitioning for Nearest Neighbor Search", EDBT 2023, and
the authors' program: over a batch, with B(x) the bucket in which most of x's 10 neighbours lie by now,

    loss = mean_x -log p_B(x)(x)  -  eta / batch sum_b (sum of the batch / nlist largest p_b)

Adam at 1e-3, at most 100 epochs, eta 7 (the paper: 1 to 30, larger for more buckets; chosen here on
held-out learn pairs). Vectors are stored where p is largest, queries rank by p.

Different here: one flat model instead of a tree of models for 256 buckets, and no ensemble; layers of
DCNet's sizes; neighbours' buckets are remembered from their last batch and looked up anew each epoch, instead
of computed for every batch (eleven times the work); the epoch is chosen on held-out learn pairs. The paper has
no copies: those shown are by benefit, without askers, since a network alone has no crossing of residuals.
"""

import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.choosing import choose
from benchmarks.peers.mlp import as_router, make_network, n_bytes, train
from benchmarks.peers.peer import Peer, way_of
from benchmarks.peers.task import Task
from ivfast.route.tiles import LogitTiles

LR, BATCH, EPOCHS = 1e-3, 2048, 100
ETAS = (7.0, 30.0)


def usp_loss(z: torch.Tensor, majority: torch.Tensor, eta: float) -> torch.Tensor:
    """z: (batch, nlist) logits; majority: (batch,) bucket of most neighbours."""
    batch, nlist = z.shape
    largest = torch.softmax(z, dim=1).topk(max(1, batch // nlist), dim=0).values
    return cross_entropy(z, majority) - eta * largest.sum() / batch


def make(task: Task, param_list: tuple[int, ...], epochs: int = EPOCHS, etas: tuple[float, ...] = ETAS) -> Peer:
    """Train once for each eta, keep the better."""
    started = time.monotonic()
    tried = {eta: _train(task, param_list, eta, epochs) for eta in etas}
    shares = {eta: share for eta, (_, share, _) in tried.items()}
    eta = choose(shares)
    network, _, epoch = tried[eta]
    router = as_router("usp", network, task.nlist)
    ways = {"unasked": way_of(task, router, "unasked")}
    seconds = task.neighbor_seconds + (time.monotonic() - started) / len(etas)
    settings = {"eta": eta, "epoch": epoch, "held-out shares": shares}
    return Peer("usp", router, ways, seconds, n_bytes(network), settings)


def _train(task: Task, param_list: tuple[int, ...], eta: float, epochs: int) -> tuple[torch.nn.Sequential, float, int]:
    network = make_network(param_list, task.seed)
    neighbors = task.neighbors
    x = torch.from_numpy(task.learn.x(neighbors.train))
    near = torch.from_numpy(np.searchsorted(neighbors.train, neighbors.train_neighbors))  # rows of train
    now = torch.zeros(len(x), dtype=torch.int64)  # bucket of each training row

    router = as_router("usp", network, task.nlist)

    def look_up() -> None:
        tiles = LogitTiles(router, task.learn, neighbors.train)
        now[:] = torch.from_numpy(np.concatenate([z.argmax(axis=1) for _, z in tiles]))

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        z = network(x[rows])
        now[rows] = z.detach().argmax(dim=1)
        return usp_loss(z, now[near[rows]].mode(dim=1).values, eta)

    look_up()
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    way = way_of(task, router, "membership", {0.0: 1.0})
    share, epoch = train(task, network, optimizer, epochs, len(x), BATCH, loss_of, look_up, router, way)
    return network, share, epoch
