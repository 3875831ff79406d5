"""What training minimises: how badly neighbours meet in one bucket, and what a search for them scans."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import HALVINGS, LEAST_SHARE, LEAST_USE, SOFTNESS
from ivfast_jax.blocks import Seen, over_rows, seen_of


def meet(log_p: Array, log_q: Array, m: Array, valid: Array, seen: Seen | None = None) -> Array:
    """How badly pairs meet in one evenly used bucket (see ivfast.choose.goal.meet).

        meet = - sum over valid pairs of logsumexp_b(log p_b + log p'_b - log(nlist max(m_b, 1e-9)))

    log_p, log_q: (batch, nlist) log membership of x and x'; m: (nlist,); valid: (batch,) bool
    seen: in blocks, where rows are (blocks, pairs) and log_p and log_q of the buckets seen; there m counts as at least
    0.05 / nlist
    returns: () sum, divide by the number of valid pairs
    """
    least = LEAST_USE if seen is None else LEAST_SHARE / m.shape[0]
    log_even = jnp.log(m.shape[0] * jnp.clip(m, min=least))
    met = jax.nn.logsumexp(log_p + log_q - seen_of(log_even, seen), axis=-1)
    return -jnp.where(valid, met, 0).sum()


def border(z: Array, nprobe: Array) -> Array:
    """The nprobe-th largest logit of each row, to 2^-20 of the row's range, by halving: no sorting.

    z: (..., nlist); nprobe: () at least 1; returns (..., 1)
    """

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        inside = (z > middle).sum(axis=-1, keepdims=True) >= nprobe
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    ends = jnp.amin(z, axis=-1, keepdims=True), jnp.amax(z, axis=-1, keepdims=True)
    low, high = lax.fori_loop(0, HALVINGS, halve, ends)  # a loop: half the time to compile
    return (low + high) / 2


def search_cost(
    z: Array, log_q: Array, m: Array, valid: Array, nprobe: Array, slope: Array, seen: Seen | None = None
) -> Array:
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
    inside = jax.nn.sigmoid((z - border(lax.stop_gradient(z), nprobe)) / SOFTNESS)
    q = jnp.exp(log_q)
    u = over_rows(jnp.where(valid[..., None], lax.stop_gradient(inside), 0), seen) / jnp.clip(valid.sum(), min=1)
    s = (u * m).sum()
    cost = (inside * seen_of(m, seen) + seen_of(u, seen) * q).sum(axis=-1) / s
    found = (inside * q).sum(axis=-1)
    return jnp.where(valid, cost - slope * found, 0).sum()


def mean_use(log_p: Array, log_q: Array, valid: Array, seen: Seen | None = None) -> Array:
    """Mean p over both sides of the valid pairs, arguments as of meet. Returns (nlist,)"""
    p = jnp.exp(log_p) + jnp.exp(log_q)
    return over_rows(jnp.where(valid[..., None], p, 0), seen) / (2 * jnp.clip(valid.sum(), min=1))


def next_use(m: Array, mean_p: Array, use_rate: Array) -> Array:
    """The next m: (1 - a) m + a mean p. (nlist,)"""
    return (1 - use_rate) * m + use_rate * mean_p
