"""Which type everything is computed in, as one value."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


class Policy(NamedTuple):
    """Types of a step: the same fields in both backends."""

    name: str
    product: DTypeLike  # inputs of matrix products are rounded to it
    activation: DTypeLike  # results of the deep path's products are rounded to it
    stat: DTypeLike  # accumulation, distances, norms, softmax, loss, m, parameters


def make_policy(name: str) -> Policy:
    """float32 (a run) or float64 (the reference that tests compare with)."""
    dtype = {"float32": jnp.float32, "float64": jnp.float64}[name]
    return Policy(name, dtype, dtype, dtype)


def product(x: Array, weight: Array, policy: Policy) -> Array:
    """X @ weight: inputs rounded to policy.product, accumulated in policy.stat.

    x: (rows, inner), weight: (inner, columns); returns (rows, columns) policy.stat
    """
    return lax.dot(
        x.astype(policy.product),
        weight.astype(policy.product),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=policy.stat,
    )


def all_finite(gradients: list[Array]) -> Array:
    """Whether every entry is finite. () bool"""
    return jnp.stack([jnp.isfinite(gradient).all() for gradient in gradients]).all()
