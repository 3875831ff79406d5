"""KeyNet: a network turns a query into what its nearest key probably is, and the ordinary index is asked for that.

Source: Olausson, Monteiro, Klein and Cuturi, "Amortized Maximum Inner Product Search with Learned Support
Functions", ICML 2026, and the authors' program (apple/ml-amips): f(q) is trained to be the key that is nearest to q,

    loss = mean of (f(q) - key)^2 + 0.01 mean of (<q, f(q)> - <q, key>)^2

with Adam and gradients clipped to norm 1, on queries of which ten noisy copies (0.02 an entry) train as well.
k-means says where keys are stored, and f(q) ranks buckets in q's place.

Different here: f(q) = q + network(q), whose last layer starts at zero, so that it starts as k-means. Layers have
DCNet's sizes, where the authors' are eight equal ones with 5 to 20 % of the weights of base. Leaky ReLU stands for
its smooth form. Adam has one rate, 1e-3, with batches of 512 and no mean of weights. The epoch is the one that
scans least on held-out pairs, and five without a gain end training. Under L2 there is no term of products. Where
no queries are at hand, learn vectors stand in for them, their nearest other learn vector for the key, without noise.
"""

import copy
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.peers.choosing import held_out_share
from benchmarks.peers.kmeans import Trained
from benchmarks.peers.mlp import batches, n_bytes
from benchmarks.peers.peer import Peer, way_of
from benchmarks.peers.task import Task
from ivfast.route.routers import Router
from ivfast.runtime.draws import generator

LR, BATCH, EPOCHS, PATIENCE, CLIP = 1e-3, 512, 100, 5, 1.0
SCORE_WEIGHT, SLOPE = 0.01, 0.1
NOISY_COPIES, NOISE = 10, 0.02
TINY = np.finfo(np.float32).tiny

Rewrite = Callable[[np.ndarray], np.ndarray]  # queries (n, dim) float32 to what is asked for in their place


class Pairs(NamedTuple):
    """Queries, and the nearest vector of each."""

    query: np.ndarray  # (n, dim) float32
    key: np.ndarray  # (n, dim) float32


class Residual(nn.Module):
    """q + network(q)."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """sizes: dim, hidden layers, dim"""
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes[:-1]):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(SLOPE)]
        last = nn.Linear(sizes[-2], sizes[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, dim) to (n, dim)"""
        return x + self.layers(x)


class KeyNet(NamedTuple):
    """A trained network, and how it came out."""

    network: Residual
    metric: str
    settings: dict[str, Any]

    def rewrite(self, x: np.ndarray) -> np.ndarray:
        """What is asked for in the place of queries; of unit norm under IP. x: (n, dim) float32"""
        with torch.no_grad():
            found = self.network(torch.from_numpy(x)).numpy()
        return unit(found) if self.metric == "IP" else found


def key_loss(found: torch.Tensor, query: torch.Tensor, key: torch.Tensor, metric: str) -> torch.Tensor:
    """The paper's loss of a batch, each (n, dim)."""
    loss = (found - key).square().mean()
    if metric == "IP":
        loss = loss + SCORE_WEIGHT * ((query * found).sum(dim=1) - (query * key).sum(dim=1)).square().mean()
    return loss


def train_keynet(
    pairs: Pairs, metric: str, hidden: tuple[int, ...], seed: int, share_of: Callable[[Rewrite], float],
    epochs: int = EPOCHS,
) -> KeyNet:  # fmt: skip
    """Train on given pairs; share_of: what held-out queries scan when they are rewritten so, which tells the epoch"""
    torch.manual_seed(seed)
    dim = pairs.query.shape[1]
    network = Residual((dim, *hidden, dim))
    query, key = torch.from_numpy(pairs.query), torch.from_numpy(pairs.key)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    net = KeyNet(network, metric, {})
    shares = [share_of(net.rewrite)]
    best, best_epoch = copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, epochs + 1):
        for rows in batches(len(query), BATCH, seed, epoch):
            optimizer.zero_grad()
            key_loss(network(query[rows]), query[rows], key[rows], metric).backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
        shares.append(share_of(net.rewrite))
        if shares[-1] < shares[best_epoch]:
            best, best_epoch = copy.deepcopy(network.state_dict()), epoch
        if epoch - best_epoch >= PATIENCE:
            break
    network.load_state_dict(best)
    settings = {
        "epoch": best_epoch, "held-out share": shares[best_epoch], "at the start": shares[0],
        "best of those trained": min(shares[1:], default=None),
    }  # fmt: skip
    return net._replace(settings=settings)


def with_noise(queries: np.ndarray, metric: str, seed: int) -> np.ndarray:
    """Queries, and behind them ten noisy copies of each, of unit norm under IP. queries: (n, dim) float32"""
    copied = np.tile(queries, (NOISY_COPIES, 1))
    copied += NOISE * generator(seed, 0, "sample", 10).standard_normal(copied.shape, dtype=np.float32)
    return np.concatenate([queries, unit(copied) if metric == "IP" else copied])


def unit(x: np.ndarray) -> np.ndarray:
    """Rows over their norm."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY)


def make(task: Task, start: Trained, hidden: tuple[int, ...], epochs: int = EPOCHS) -> Peer:
    """Train on learn; stored as k-means does, by ratio."""
    started = time.monotonic()
    neighbors = task.neighbors
    pairs = Pairs(task.learn.x(neighbors.train), task.learn.x(neighbors.train_neighbors[:, 0]))
    stored = way_of(task, start.router, "ratio")

    def router_of(rewrite: Rewrite) -> Router:
        return Router("keynet", task.nlist, lambda x: start.router.logits(rewrite(x)))

    def share_of(rewrite: Rewrite) -> float:
        return held_out_share(task, router_of(rewrite), stored, 0.0)

    net = train_keynet(pairs, task.metric, hidden, task.seed, share_of, epochs)
    seconds = start.seconds + task.neighbor_seconds + time.monotonic() - started
    size = start.centers.nbytes + n_bytes(net.network)
    return Peer("keynet", router_of(net.rewrite), {"ratio": stored}, seconds, size, net.settings)
