"""What training minimises: how badly a vector and its neighbour meet in one bucket."""

import torch
from torch import Tensor

from ivfast.assignment import LEAST_USE


def meet(log_p: Tensor, log_q: Tensor, m: Tensor, valid: Tensor) -> Tensor:
    """How badly pairs meet in one evenly used bucket (see ivfast.calibration.meet).

        meet = - sum over valid pairs of logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, 1e-9)))

    log_p, log_q: (batch, nlist) log membership of x and x'; m: (nlist,); valid: (batch,) bool
    returns: () sum, divide by the number of valid pairs
    """
    log_even = torch.log(m.shape[0] * torch.clamp(m, min=LEAST_USE))
    met = torch.logsumexp(log_p + log_q - log_even, dim=-1)
    return -torch.where(valid, met, 0).sum()


def mean_use(log_p: Tensor, log_q: Tensor, valid: Tensor) -> Tensor:
    """Mean p over both sides of the valid pairs. Returns (nlist,)"""
    p = torch.exp(log_p) + torch.exp(log_q)
    return torch.where(valid[:, None], p, 0).sum(dim=0) / (2 * torch.clamp(valid.sum(), min=1))


def next_use(m: Tensor, mean_p: Tensor, use_rate: Tensor) -> Tensor:
    """M after a step: (1 - a) m + a mean p. (nlist,)"""
    return (1 - use_rate) * m + use_rate * mean_p
