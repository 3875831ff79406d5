"""What training minimises: how badly a vector and its neighbour meet in one bucket."""

import jax
import jax.numpy as jnp
from jax import Array

from ivfast.assignment import LEAST_USE


def meet(log_p: Array, log_q: Array, m: Array, valid: Array) -> Array:
    """How badly pairs meet in one evenly used bucket (see ivfast.calibration.meet).

        meet = - sum over valid pairs of logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, 1e-9)))

    log_p, log_q: (batch, nlist) log membership of x and x'; m: (nlist,); valid: (batch,) bool
    returns: () sum, divide by the number of valid pairs
    """
    log_even = jnp.log(m.shape[0] * jnp.maximum(m, LEAST_USE))
    met = jax.nn.logsumexp(log_p + log_q - log_even, axis=-1)
    return -jnp.where(valid, met, 0).sum()


def mean_use(log_p: Array, log_q: Array, valid: Array) -> Array:
    """Mean p over both sides of the valid pairs. Returns (nlist,)"""
    p = jnp.exp(log_p) + jnp.exp(log_q)
    return jnp.where(valid[:, None], p, 0).sum(axis=0) / (2 * jnp.maximum(valid.sum(), 1))


def next_use(m: Array, mean_p: Array, use_rate: Array) -> Array:
    """M after a step: (1 - a) m + a mean p. (nlist,)"""
    return (1 - use_rate) * m + use_rate * mean_p
