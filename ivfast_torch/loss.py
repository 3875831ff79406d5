"""What training minimises: how badly neighbours meet in one bucket, and what a search for them scans."""

import torch
from torch import Tensor

from ivfast.method import HALVINGS, LEAST_SHARE, LEAST_USE, SOFTNESS
from ivfast_torch.blocks import Seen, over_rows, seen_of


def meet(log_p: Tensor, log_q: Tensor, m: Tensor, valid: Tensor, seen: Seen | None = None) -> Tensor:
    """How badly pairs meet in one evenly used bucket (see ivfast.choose.goal.meet).

        meet = - sum over valid pairs of logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, 1e-9)))

    log_p, log_q: (batch, nlist) log membership of x and x'; m: (nlist,); valid: (batch,) bool
    seen: in blocks, where rows are (blocks, pairs) and log_p and log_q of the buckets seen; there m counts as at least
    0.05 / nlist
    returns: () sum, divide by the number of valid pairs
    """
    least = LEAST_USE if seen is None else LEAST_SHARE / m.shape[0]
    log_even = torch.log(m.shape[0] * torch.clip(m, min=least))
    met = torch.logsumexp(log_p + log_q - seen_of(log_even, seen), dim=-1)
    return -torch.where(valid, met, 0).sum()


def border(z: Tensor, nprobe: Tensor) -> Tensor:
    """The nprobe-th largest logit of each row, to 2^-20 of the row's range, by halving: no sorting.

    z: (..., nlist); nprobe: () at least 1; returns (..., 1)
    """

    def halve(_: int, ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        low, high = ends
        middle = (low + high) / 2
        inside = (z > middle).sum(dim=-1, keepdim=True) >= nprobe
        return torch.where(inside, middle, low), torch.where(inside, high, middle)

    ends = torch.amin(z, dim=-1, keepdim=True), torch.amax(z, dim=-1, keepdim=True)
    low, high = ends
    for i in range(HALVINGS):
        low, high = halve(i, (low, high))
    return (low + high) / 2


def search_cost(
    z: Tensor, log_q: Tensor, m: Tensor, valid: Tensor, nprobe: Tensor, slope: Tensor, seen: Seen | None = None
) -> Tensor:
    """What a search for x' from x scans at equal recall, to first order.

    s = sum_b u_b m_b is the share scanned (u_b: queries that probe b, m_b: vectors stored in b).
    If recall rises by dR, nprobe may fall, and log s falls by slope dR. So minimise log s - slope R;
    its gradient by one pair is that of

        sum_b (I_b m_b + u_b p'_b) / s - slope sum_b I_b p'_b        with u, m and s held
        I_b = sigmoid((z_b - border) / 0.7)                          whether x probes bucket b

    u is the mean of I over the valid rows; sum_b I_b p'_b is whether x finds x'. The border is held, too.

    z: (batch, nlist) logits of x; log_q: (batch, nlist) log membership of x'; m: (nlist,);
    valid: (batch,) bool; seen: as meet
    returns: () sum over the valid pairs, divide by their number
    """
    inside = torch.sigmoid((z - border(torch.detach(z), nprobe)) / SOFTNESS)
    q = torch.exp(log_q)
    u = over_rows(torch.where(valid[..., None], torch.detach(inside), 0), seen) / torch.clip(valid.sum(), min=1)
    s = (u * m).sum()
    cost = (inside * seen_of(m, seen) + seen_of(u, seen) * q).sum(dim=-1) / s
    found = (inside * q).sum(dim=-1)
    return torch.where(valid, cost - slope * found, 0).sum()


def mean_use(log_p: Tensor, log_q: Tensor, valid: Tensor, seen: Seen | None = None) -> Tensor:
    """Mean p over both sides of the valid pairs, arguments as of meet. Returns (nlist,)"""
    p = torch.exp(log_p) + torch.exp(log_q)
    return over_rows(torch.where(valid[..., None], p, 0), seen) / (2 * torch.clip(valid.sum(), min=1))


def next_use(m: Tensor, mean_p: Tensor, use_rate: Tensor) -> Tensor:
    """The next m: (1 - a) m + a mean p. (nlist,)"""
    return (1 - use_rate) * m + use_rate * mean_p
