"""What training minimises: how badly neighbours meet in one bucket, and what a search for them scans."""

import torch
from torch import Tensor

from ivfast.method import HALVINGS, LEAST_USE, SOFTNESS


def meet(log_p: Tensor, log_q: Tensor, m: Tensor, valid: Tensor) -> Tensor:
    """How badly pairs meet in one evenly used bucket (see ivfast.choose.goal.meet).

        meet = - sum over valid pairs of logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, 1e-9)))

    log_p, log_q: (batch, nlist) log membership of x and x'; m: (nlist,); valid: (batch,) bool
    returns: () sum, divide by the number of valid pairs
    """
    log_even = torch.log(m.shape[0] * torch.clamp(m, min=LEAST_USE))
    met = torch.logsumexp(log_p + log_q - log_even, dim=-1)
    return -torch.where(valid, met, 0).sum()


def border(z: Tensor, nprobe: Tensor) -> Tensor:
    """The nprobe-th largest logit of each row, to 2^-20 of the row's range, by halving: no sorting.

    z: (n, nlist); nprobe: () at least 1; returns (n, 1)
    """
    low, high = z.amin(dim=1, keepdim=True), z.amax(dim=1, keepdim=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        inside = (z > middle).sum(dim=1, keepdim=True) >= nprobe
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return (low + high) / 2


def probing(z: Tensor, log_q: Tensor, m: Tensor, valid: Tensor, nprobe: Tensor, slope: Tensor) -> Tensor:
    """Log scanned at 90 % recall of searches for x' from x, softly, up to a constant.

        I_b = sigmoid((z_b - border) / 0.7)     whether x probes bucket b
        found = sum_b I_b p'_b                  whether it finds x' there
        probing = sum over valid pairs of sum_b (I_b m_b + u_b p'_b) / s - slope found

    u is the mean of I over the valid rows, s = sum_b u_b m_b what a search scans; no gradient
    through border, m, u and s: the gradient of the quotient is that of log s.

    z: (batch, nlist) logits of x; log_q: (batch, nlist) log membership of x'; m: (nlist,);
    valid: (batch,) bool
    returns: () sum, divide by the number of valid pairs
    """
    inside = torch.sigmoid((z - border(z.detach(), nprobe)) / SOFTNESS)
    q = torch.exp(log_q)
    probed = torch.where(valid[:, None], inside.detach(), 0).sum(dim=0) / torch.clamp(valid.sum(), min=1)
    scanned = (probed * m).sum()
    cost = (inside * m + probed * q).sum(dim=1) / scanned
    found = (inside * q).sum(dim=1)
    return torch.where(valid, cost - slope * found, 0).sum()


def mean_use(log_p: Tensor, log_q: Tensor, valid: Tensor) -> Tensor:
    """Mean p over both sides of the valid pairs. Returns (nlist,)"""
    p = torch.exp(log_p) + torch.exp(log_q)
    return torch.where(valid[:, None], p, 0).sum(dim=0) / (2 * torch.clamp(valid.sum(), min=1))


def next_use(m: Tensor, mean_p: Tensor, use_rate: Tensor) -> Tensor:
    """M after a step: (1 - a) m + a mean p. (nlist,)"""
    return (1 - use_rate) * m + use_rate * mean_p
