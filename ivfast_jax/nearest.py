"""Exact nearest neighbours on the device: products tile by tile, of which the best stay."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

TILE = 4096  # queries whose products with a block are on the device at once
GROUP = 128  # others of which the best alone is looked at first: a sort of all products would take most of the time


class Best(NamedTuple):
    """The nearest found so far, nearest first."""

    closeness: Array  # (n, k) float32, larger is nearer; -inf: none
    numbers: Array  # (n, k) int32; -1: none


def closeness(x: Array, others: Array, metric: str) -> Array:
    """What ranks others as their distance does, larger is nearer: inner products, or 2 xy - yy.

    x: (n, dim), others: (m, dim) float32; returns (n, m)
    """
    products = jnp.matmul(x, others.T, precision=lax.Precision.HIGHEST)
    if metric == "IP":
        return products
    return 2 * products - jnp.square(others).sum(axis=1)


def nearer(best: Best, x: Array, others: Array, start: int, n_others: int, metric: str) -> Best:
    """The best of those found so far and of one block.

    The k best lie in the k groups whose own best are largest: whoever is in another group has k before it.

    x: (n, dim); others: (m, dim), m a multiple of 128, of which the first n_others count
    start: number of the first of them
    """
    n, k = best.numbers.shape
    place = jnp.arange(len(others))
    z = jnp.where(place < n_others, closeness(x, others, metric), -jnp.inf)
    groups = z.reshape(n, -1, GROUP)
    at = lax.top_k(groups.max(axis=2), min(k, groups.shape[1]))[1]
    inside = jnp.take_along_axis(groups, at[:, :, None], axis=1)
    numbers = start + at[:, :, None] * GROUP + place[:GROUP]
    every = jnp.concatenate([best.closeness, inside.reshape(n, -1)], axis=1)
    every_number = jnp.concatenate([best.numbers, numbers.reshape(n, -1).astype(jnp.int32)], axis=1)
    found, chosen = lax.top_k(every, k)
    return Best(found, jnp.take_along_axis(every_number, chosen, axis=1))


_nearer = jax.jit(nearer, static_argnames="metric", donate_argnames="best")


def search(
    x: np.ndarray, blocks: Iterable[np.ndarray], k: int, metric: str, device: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The exact k nearest of x among all rows of the blocks, in float32, not in anything shorter.

    x: (n, dim) float32; blocks: (m, dim) float32 each, k rows or more in all, the first no smaller than others
    returns: (n, k) float32, how close they are (see `closeness`), nearest first
        (n, k) int32, numbers of rows, counted through the blocks
    """
    tiles = [_put(x[i : i + TILE], device) for i in range(0, len(x), TILE)]
    best = [_nothing(len(tile), k, device) for tile in tiles]
    start = rows = 0
    for block in blocks:
        rows = rows or -(-len(block) // GROUP) * GROUP  # one shape for all
        padded = np.zeros((rows, x.shape[1]), dtype=np.float32)
        padded[: len(block)] = block
        others = _put(padded, device)
        best = [_nearer(one, tile, others, start, len(block), metric) for one, tile in zip(best, tiles, strict=True)]
        start += len(block)
    return np.concatenate([_numpy(one.closeness) for one in best]), np.concatenate(
        [_numpy(one.numbers) for one in best]
    )


def _nothing(n: int, k: int, device: Any) -> Best:
    none = np.full((n, k), -np.inf, dtype=np.float32)
    return Best(_put(none, device), _put(np.full((n, k), -1, dtype=np.int32), device))


def _put(array: np.ndarray, device: Any) -> Array:
    return jax.device_put(array, device)


def _numpy(value: Array) -> np.ndarray:
    return np.asarray(value)
