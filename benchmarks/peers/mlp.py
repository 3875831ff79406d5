"""The network of USP and Neural LSH, and how its training is watched.

Both papers' programs have blocks of Linear, BatchNorm and ReLU, then dropout 0.1 and a linear layer, Xavier
weights; here the layers have the sizes of DCNet's --param_list.
"""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.peers.choosing import held_out_share
from benchmarks.peers.peer import Way
from benchmarks.peers.task import Task
from ivfast.route.routers import Router

DROPOUT = 0.1
LOOK, PATIENCE = 5, 3  # epochs between two looks at held-out pairs; looks without a gain that end training


def make_network(param_list: tuple[int, ...], seed: int) -> nn.Sequential:
    """param_list: dim, hidden layers, nlist; gives logits."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(param_list[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
    layers += [nn.Dropout(DROPOUT), nn.Linear(param_list[-2], param_list[-1])]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.constant_(layer.bias, 0.01)
    return nn.Sequential(*layers)


def as_router(name: str, network: nn.Sequential, nlist: int) -> Router:
    """The network without dropout, with the means and variances of training."""

    def logits(x: np.ndarray) -> np.ndarray:
        network.eval()
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    return Router(name, nlist, logits)


def n_bytes(network: nn.Module) -> int:
    """Of all weights."""
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


def train(
    task: Task, network: nn.Sequential, optimizer: torch.optim.Optimizer, epochs: int, n: int, batch: int,
    loss_of: Callable[[torch.Tensor], torch.Tensor], each_epoch: Callable[[], None], router: Router, way: Way,
) -> tuple[float, int]:  # fmt: skip
    """Train, and leave the network as it was best on held-out learn pairs, each stored once.

    n: rows trained on; loss_of: of a batch of their numbers
    router: of the network; way: where vectors are stored by then
    returns: the held-out share and its epoch
    """
    best, best_share, best_epoch = copy.deepcopy(network.state_dict()), np.inf, 0
    for epoch in range(1, epochs + 1):
        network.train()
        for rows in batches(n, batch, task.seed, epoch):
            optimizer.zero_grad()
            loss_of(rows).backward()
            optimizer.step()
        each_epoch()
        if epoch % LOOK and epoch < epochs:
            continue
        share = held_out_share(task, router, way, 0.0)
        if share < best_share:
            best, best_share, best_epoch = copy.deepcopy(network.state_dict()), share, epoch
        if epoch - best_epoch >= LOOK * PATIENCE:
            break
    network.load_state_dict(best)
    return best_share, best_epoch


def batches(n: int, batch: int, seed: int, epoch: int) -> Iterator[torch.Tensor]:
    """All numbers below n in a new order; a last batch of less than half is left out (BatchNorm)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    yield from (rows for rows in order.split(batch) if len(rows) * 2 >= min(batch, n))
