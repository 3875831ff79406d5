"""Rows and columns of a step on several devices: which device holds what, and the few operations that cross them.

All else in a step is plain JAX: `jit` splits it by where its arguments lie (https://docs.jax.dev/en/latest/sharded-computation.html).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

DATA, MODEL = "data", "model"  # axes of a mesh: the pairs of a batch, the buckets
BOTH = (DATA, MODEL)


def width_of(*axes: str) -> int:
    """How many devices the axes have where this is traced, 1 outside any mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in axes)


def top_few(values: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row and their columns, ties to the smaller column, as lax.top_k.

    Each device names the best of what it holds, and among these the best are taken: XLA would bring whole rows together
    first.

    values: (n, nlist), or (blocks, n, seen) in blocks; returns (.., n, k) each
    """
    if width_of(*BOTH) == 1:
        return lax.top_k(values, k)
    if values.ndim == 3:
        return _on_each(partial(lax.top_k, k=k), (PartitionSpec(BOTH),), PartitionSpec(BOTH))(values)
    rows = None if len(values) % width_of(DATA) else DATA

    def of_part(part: Array) -> tuple[Array, Array]:
        found, at = lax.top_k(part, min(k, part.shape[-1]))
        at += lax.axis_index(MODEL) * part.shape[-1]
        every, columns = (lax.all_gather(some, MODEL, axis=1, tiled=True) for some in (found, at))
        best, place = lax.top_k(every, k)
        return best, jnp.take_along_axis(columns, place, axis=1)

    return _on_each(of_part, (PartitionSpec(rows, MODEL),), PartitionSpec(rows))(values)


def block_by_block(of_blocks: Callable[..., Array], *arguments: Array, whole: tuple[int, ...] = ()) -> Array:
    """What each device finds for its own blocks. whole: places of arguments that every device needs entirely"""
    if width_of(*BOTH) == 1:
        return of_blocks(*arguments)
    specs = tuple(PartitionSpec() if i in whole else PartitionSpec(BOTH) for i in range(len(arguments)))
    return _on_each(of_blocks, specs, PartitionSpec(BOTH))(*arguments)


def rows_at(values: Array, buckets: Array) -> Array:
    """Rows of a table whose rows lie on several devices: each gives those it has.

    values: (nlist, ...); buckets: (blocks, seen) int32; returns (blocks, seen, ...)
    """
    if width_of(MODEL) == 1:
        return block_by_block(_rows_here, values, buckets, whole=(0,))

    def of_part(part: Array, own: Array) -> Array:
        every = lax.all_gather(own, MODEL, tiled=True) - lax.axis_index(MODEL) * len(part)
        here = (every >= 0) & (every < len(part))
        found = _rows_here(part, jnp.where(here, every, 0))
        found = jnp.where(here.reshape(*here.shape, *[1] * (found.ndim - 2)), found, 0)
        return lax.psum_scatter(found, MODEL, tiled=True)

    return _on_each(of_part, (PartitionSpec(MODEL), PartitionSpec(BOTH)), PartitionSpec(BOTH))(values, buckets)


def summed(of_blocks: Callable[[Array, Array], Array], parts: Array, buckets: Array) -> Array:
    """Sums of the blocks of all devices, by bucket.

    of_blocks: sums of some blocks by bucket, (nlist, ...)
    parts: (blocks, seen, ...); buckets: (blocks, seen); returns (nlist, ...)
    """
    if width_of(*BOTH) == 1:
        return of_blocks(parts, buckets)

    def of_part(own: Array, own_buckets: Array) -> Array:
        part = lax.psum_scatter(of_blocks(own, own_buckets), MODEL, tiled=True)
        return lax.psum(part, DATA)  # of this part alone

    return _on_each(of_part, (PartitionSpec(BOTH), PartitionSpec(BOTH)), PartitionSpec(MODEL))(parts, buckets)


def _rows_here(values: Array, buckets: Array) -> Array:
    return values.at[buckets].get(mode="promise_in_bounds")


def _on_each(function: Callable[..., Any], given: Any, found: Any) -> Callable[..., Any]:
    """A function of what one device holds, on every device. given, found: how arguments and results are split"""
    return jax.shard_map(function, in_specs=given, out_specs=found, check_vma=False)
