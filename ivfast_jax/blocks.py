"""Blocks of a step: pairs that lie near each other see the buckets near them alone."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import MOST_VOTES
from ivfast_jax.shards import block_by_block, rows_at, summed


class Seen(NamedTuple):
    """What each block sees."""

    buckets: Array  # (blocks, seen) int32, ascending along each row
    nlist: int


def in_blocks(rows: Array, pairs: int) -> Array:
    """Rows of a step by block. (batch, ...) -> (batch / pairs, pairs, ...)"""
    return rows.reshape(-1, pairs, *rows.shape[1:])


def vote(lists: Array, cells: Array, valid: Array, n_seen: int) -> Seen:
    """The buckets for which a block's vectors vote most, ties to the smaller bucket.

    To bucket s of the list of its r-th cell, both from 1 on, a vector gives 4096 / (r s) votes, rounded down.

    lists: (nlist, listed) int32, nearest first; cells: (blocks, pairs, 2, near) int32, nearest first
    valid: (blocks, pairs) bool
    """
    return Seen(block_by_block(partial(_vote, n_seen=n_seen), lists, cells, valid, whole=(0,)), lists.shape[0])


def _vote(lists: Array, cells: Array, valid: Array, n_seen: int) -> Array:
    (nlist, listed), (n_blocks, pairs, _, near) = lists.shape, cells.shape
    first, second = (jnp.cumsum(jnp.ones_like(row), axis=0, dtype=jnp.int32) for row in (cells[0, 0, 0], lists[0]))
    votes_of_one = MOST_VOTES // (first[:, None] * second)
    given = votes_of_one * valid[..., None, None, None].astype(jnp.int32)
    given = jnp.broadcast_to(given, (*cells.shape, listed)).reshape(n_blocks, -1)
    to = lists[cells].reshape(n_blocks, -1)
    votes = jnp.zeros((n_blocks, nlist), dtype=jnp.int32).at[jnp.arange(n_blocks)[:, None], to].add(given)
    return most(votes, n_seen, 2 * pairs * near * listed * MOST_VOTES)


def most(votes: Array, n: int, bound: int) -> Array:
    """Columns of the n largest of each row, ascending, ties to the smaller column: by halving, no sorting.

    votes: (blocks, nlist) int32, from 0 to bound; returns (blocks, n) int32
    """
    least = jnp.zeros_like(votes[:, :1])  # becomes the n-th largest, bit by bit
    for bit in reversed(range(bound.bit_length())):
        higher = least + 2**bit
        least = jnp.where((votes >= higher).sum(axis=1, keepdims=True) >= n, higher, least)
    tied = jnp.cumsum(votes == least, axis=1, dtype=jnp.int32)
    spare = n - (votes > least).sum(axis=1, keepdims=True)
    taken = (votes > least) | ((votes == least) & (tied <= spare))
    place = jnp.cumsum(taken, axis=1, dtype=jnp.int32)
    ranks = jnp.cumsum(jnp.ones_like(votes[:, :n]), axis=1, dtype=jnp.int32)
    return jax.vmap(jnp.searchsorted)(place, ranks).astype(jnp.int32)


def seen_of(m: Array, seen: Seen | None) -> Array:
    """m as rows of logits see it. (nlist,) -> the same, or (blocks, 1, seen)"""
    return m if seen is None else gather(m, seen)[:, None]


def over_rows(values: Array, seen: Seen | None) -> Array:
    """Sums over all rows by bucket. (n, nlist), (parts, rows, nlist) or (blocks, rows, seen) -> (nlist,)"""
    if seen is None:
        return values.reshape(-1, values.shape[-1]).sum(axis=0)
    return _add_up(values.sum(axis=1), seen.buckets, seen.nlist)


def gather(values: Array, seen: Seen) -> Array:
    """What belongs to the buckets seen. (nlist, ...) -> (blocks, seen, ...)"""
    return _gather(values, seen.buckets, seen.nlist)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(values: Array, buckets: Array, nlist: int) -> Array:
    del nlist
    return rows_at(values, buckets)


def _forward(values: Array, buckets: Array, nlist: int) -> tuple[Array, Array]:
    return _gather(values, buckets, nlist), buckets


def _backward(nlist: int, buckets: Array, gradient: Array) -> tuple[Array, None]:
    return _add_up(gradient, buckets, nlist), None


_gather.defvjp(_forward, _backward)


def _add_up(parts: Array, buckets: Array, nlist: int) -> Array:
    """Sums by bucket, block by block: a block has a bucket once, so the order is fixed. And all at once takes longer.

    parts: (blocks, seen, ...), buckets: (blocks, seen); returns (nlist, ...)
    """

    def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        at, part = block
        return total.at[at].add(part, mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True), None

    def of_blocks(parts: Array, buckets: Array) -> Array:
        return lax.scan(add, jnp.zeros((nlist, *parts.shape[2:]), parts.dtype), (buckets, parts))[0]

    return summed(of_blocks, parts, buckets)
