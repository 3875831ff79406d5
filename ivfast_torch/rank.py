"""The best few buckets of each row, and what a softmax over all of them needs beside."""

import torch
from torch import Tensor

from ivfast.method import NEAR
from ivfast_torch.model import Constants, DCNet, squared_distances
from ivfast_torch.precision import make_policy
from ivfast_torch.step import forward

_BestArrays = tuple[Tensor, Tensor, Tensor, Tensor]  # the fields of ivfast.network.backend.Best


def best_of_centers(
    x: Tensor, c: Tensor, k: Tensor, delta_floor: Tensor, temperatures: Tensor, counted: Tensor, metric: str, width: int
) -> _BestArrays:
    """The best buckets of rows by a matrix of centers, see ivfast.route.distances.center_logits.

    x: (n, dim); c: (nlist, dim); the rest as best_of_net has it
    returns: see ivfast.network.backend.Best
    """
    d2 = squared_distances(x, c, metric, make_policy(str(x.dtype).removeprefix("torch.")))
    least, buckets = torch.topk(-d2, max(width, min(NEAR, d2.shape[1])))
    unit = k / torch.maximum(-least[:, :NEAR].mean(dim=1, keepdim=True), delta_floor)
    log_sums, mass = _sums(-d2 * unit, least[:, :1] * unit, temperatures, counted)
    return buckets[:, :width], least[:, :width] * unit, log_sums, mass


def best_of_net(
    network: DCNet, params: dict[str, Tensor], x: Tensor, constants: Constants, k: Tensor, temperatures: Tensor,
    counted: Tensor, width: int,
) -> _BestArrays:  # fmt: skip
    """The best buckets of rows by the whole network.

    x: (n, dim); k: sharpness; temperatures: (t,); counted: (n,) 1 for rows that mass counts, else 0
    returns: see ivfast.network.backend.Best
    """
    z = forward(network, params, x, constants, k)["net"]
    found, buckets = torch.topk(z, width)
    log_sums, mass = _sums(z, found[:, :1], temperatures, counted)
    return buckets, found, log_sums, mass


def _sums(z: Tensor, highest: Tensor, temperatures: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp((z - highest) / T) of rows, (t, n), and the sum over counted rows of softmax(z / T), (t, nlist)."""

    def at(temperature: Tensor) -> tuple[Tensor, Tensor]:
        e = torch.exp((z - highest) / temperature)
        total = e.sum(dim=1)
        return torch.log(total), (counted / total) @ e

    parts = [at(temperature) for temperature in temperatures]
    log_sums = torch.cat([part[0] for part in parts] or [z.new_zeros(0)]).reshape(-1, z.shape[0])
    return log_sums, torch.cat([part[1] for part in parts] or [z.new_zeros(0)]).reshape(-1, z.shape[1])
