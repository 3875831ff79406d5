"""What training minimises: how badly neighbours meet in one bucket, and what a search for them scans."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import HALVINGS, LEAST_USE, SOFTNESS


def meet(log_p: Array, log_q: Array, m: Array, valid: Array) -> Array:
    """How badly pairs meet in one evenly used bucket (see ivfast.choose.goal.meet).

        meet = - sum over valid pairs of logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, 1e-9)))

    log_p, log_q: (batch, nlist) log membership of x and x'; m: (nlist,); valid: (batch,) bool
    returns: () sum, divide by the number of valid pairs
    """
    log_even = jnp.log(m.shape[0] * jnp.maximum(m, LEAST_USE))
    met = jax.nn.logsumexp(log_p + log_q - log_even, axis=-1)
    return -jnp.where(valid, met, 0).sum()


def border(z: Array, nprobe: Array) -> Array:
    """The nprobe-th largest logit of each row, to 2^-20 of the row's range, by halving: no sorting.

    z: (n, nlist); nprobe: () at least 1; returns (n, 1)
    """

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        inside = (z > middle).sum(axis=1, keepdims=True) >= nprobe
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    ends = z.min(axis=1, keepdims=True), z.max(axis=1, keepdims=True)
    low, high = lax.fori_loop(0, HALVINGS, halve, ends)  # a loop: half the time to compile
    return (low + high) / 2


def probing(z: Array, log_q: Array, m: Array, valid: Array, nprobe: Array, slope: Array) -> Array:
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
    inside = jax.nn.sigmoid((z - border(lax.stop_gradient(z), nprobe)) / SOFTNESS)
    q = jnp.exp(log_q)
    probed = jnp.where(valid[:, None], lax.stop_gradient(inside), 0).sum(axis=0) / jnp.maximum(valid.sum(), 1)
    scanned = (probed * m).sum()
    cost = (inside * m + probed * q).sum(axis=1) / scanned
    found = (inside * q).sum(axis=1)
    return jnp.where(valid, cost - slope * found, 0).sum()


def mean_use(log_p: Array, log_q: Array, valid: Array) -> Array:
    """Mean p over both sides of the valid pairs. Returns (nlist,)"""
    p = jnp.exp(log_p) + jnp.exp(log_q)
    return jnp.where(valid[:, None], p, 0).sum(axis=0) / (2 * jnp.maximum(valid.sum(), 1))


def next_use(m: Array, mean_p: Array, use_rate: Array) -> Array:
    """M after a step: (1 - a) m + a mean p. (nlist,)"""
    return (1 - use_rate) * m + use_rate * mean_p
