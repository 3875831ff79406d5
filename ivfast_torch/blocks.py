"""Blocks of a step: pairs that lie near each other see the buckets near them alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ivfast.method import MOST_VOTES


class Seen(NamedTuple):
    """What each block sees."""

    buckets: Tensor  # (blocks, seen) int32, ascending along each row
    nlist: int


def in_blocks(rows: Tensor, pairs: int) -> Tensor:
    """Rows of a step by block. (batch, ...) -> (batch / pairs, pairs, ...)"""
    return rows.reshape(-1, pairs, *rows.shape[1:])


def vote(lists: Tensor, cells: Tensor, valid: Tensor, n_seen: int) -> Seen:
    """The buckets for which a block's vectors vote most, ties to the smaller bucket.

    To bucket s of the list of its r-th cell, both from 1 on, a vector gives 4096 / (r s) votes, rounded down.

    lists: (nlist, listed) int32, nearest first; cells: (blocks, pairs, 2, near) int32, nearest first
    valid: (blocks, pairs) bool
    """
    (nlist, listed), (n_blocks, pairs, _, near) = lists.shape, cells.shape
    first, second = (torch.cumsum(torch.ones_like(row), dim=0, dtype=torch.int32) for row in (cells[0, 0, 0], lists[0]))
    votes_of_one = MOST_VOTES // (first[:, None] * second)
    given = votes_of_one * valid[..., None, None, None].to(torch.int32)
    given = torch.broadcast_to(given, (*cells.shape, listed)).reshape(n_blocks, -1)
    to = lists[cells].reshape(n_blocks, -1)
    votes = lists.new_zeros((n_blocks, nlist)).scatter_add(1, to.to(torch.int64), given)
    return Seen(most(votes, n_seen, 2 * pairs * near * listed * MOST_VOTES), nlist)


def most(votes: Tensor, n: int, bound: int) -> Tensor:
    """Columns of the n largest of each row, ascending, ties to the smaller column: by halving, no sorting.

    votes: (blocks, nlist) int32, from 0 to bound; returns (blocks, n) int32
    """
    least = torch.zeros_like(votes[:, :1])  # becomes the n-th largest, bit by bit
    for bit in reversed(range(bound.bit_length())):
        higher = least + 2**bit
        least = torch.where((votes >= higher).sum(dim=1, keepdim=True) >= n, higher, least)
    tied = torch.cumsum(votes == least, dim=1, dtype=torch.int32)
    spare = n - (votes > least).sum(dim=1, keepdim=True)
    taken = (votes > least) | ((votes == least) & (tied <= spare))
    place = torch.cumsum(taken, dim=1, dtype=torch.int32)
    ranks = torch.cumsum(torch.ones_like(votes[:, :n]), dim=1, dtype=torch.int32)
    return torch.searchsorted(place, ranks).to(torch.int32)


def seen_of(m: Tensor, seen: Seen | None) -> Tensor:
    """m as rows of logits see it. (nlist,) -> the same, or (blocks, 1, seen)"""
    return m if seen is None else gather(m, seen)[:, None]


def over_rows(values: Tensor, seen: Seen | None) -> Tensor:
    """Sums over all rows by bucket. (n, nlist), (parts, rows, nlist) or (blocks, rows, seen) -> (nlist,)"""
    if seen is None:
        return values.reshape(-1, values.shape[-1]).sum(dim=0)
    return _add_up(values.sum(dim=1), seen.buckets, seen.nlist)


def gather(values: Tensor, seen: Seen) -> Tensor:
    """What belongs to the buckets seen. (nlist, ...) -> (blocks, seen, ...)"""
    return _Gather.apply(values, seen.buckets, seen.nlist)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, buckets: Tensor, nlist: int) -> Tensor:
        ctx.save_for_backward(buckets)
        ctx.nlist = nlist
        return values[buckets]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (buckets,) = ctx.saved_tensors
        return _add_up(gradients[0], buckets, ctx.nlist), None, None


def _add_up(parts: Tensor, buckets: Tensor, nlist: int) -> Tensor:
    """Sums by bucket, block by block: a block has a bucket once, so the order is fixed. And all at once takes longer.

    parts: (blocks, seen, ...), buckets: (blocks, seen); returns (nlist, ...)
    """
    total = parts.new_zeros((nlist, *parts.shape[2:]))
    for at, part in zip(buckets, parts, strict=True):
        total.index_add_(0, at, part)
    return total
