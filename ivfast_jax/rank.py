"""The best few buckets of each row, and what a softmax over all of them needs beside."""

import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import NEAR
from ivfast_jax.model import Constants, DCNet, squared_distances
from ivfast_jax.precision import make_policy
from ivfast_jax.shards import BOTH, top_few, width_of
from ivfast_jax.step import forward

_BestArrays = tuple[Array, Array, Array, Array]  # the fields of ivfast.network.backend.Best


def best_of_centers(
    x: Array, c: Array, k: Array, delta_floor: Array, temperatures: Array, counted: Array, metric: str, width: int
) -> _BestArrays:
    """The best buckets of rows by a matrix of centers, see ivfast.route.distances.center_logits.

    x: (n, dim); c: (nlist, dim); the rest as best_of_net has it
    returns: see ivfast.network.backend.Best
    """
    d2 = squared_distances(x, c, metric, make_policy(x.dtype.name))
    least, buckets = lax.optimization_barrier(lax.top_k(-d2, max(width, min(NEAR, d2.shape[1]))))
    unit = k / jnp.maximum(-least[:, :NEAR].mean(axis=1, keepdims=True), delta_floor)
    log_sums, mass = _sums(-d2 * unit, least[:, :1] * unit, temperatures, counted)
    return buckets[:, :width], least[:, :width] * unit, log_sums, mass


def best_of_net(
    network: DCNet, params: dict[str, Array], x: Array, constants: Constants, k: Array, temperatures: Array,
    counted: Array, width: int,
) -> _BestArrays:  # fmt: skip
    """The best buckets of rows by the whole network.

    x: (n, dim); k: sharpness; temperatures: (t,); counted: (n,) 1 for rows that mass counts, else 0
    returns: see ivfast.network.backend.Best
    """
    z = forward(network, params, x, constants, k)["net"]
    found, buckets = top_few(z, width)
    if width_of(*BOTH) == 1:
        # where slices of a sorted result are used, XLA's CPU compiler sorts whole rows, 25 times as long; and on
        # several devices it fails at a barrier
        found, buckets = lax.optimization_barrier((found, buckets))
    log_sums, mass = _sums(z, found[:, :1], temperatures, counted)
    return buckets, found, log_sums, mass


def _sums(z: Array, highest: Array, temperatures: Array, counted: Array) -> tuple[Array, Array]:
    """log sum exp((z - highest) / T) of rows, (t, n), and the sum over counted rows of softmax(z / T), (t, nlist)."""

    def at(temperature: Array) -> tuple[Array, Array]:
        e = jnp.exp((z - highest) / temperature)
        total = e.sum(axis=1)
        return jnp.log(total), (counted / total) @ e

    return lax.map(at, temperatures)
