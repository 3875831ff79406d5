"""Adam, as a function from weights, gradients and moments to the next ones."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ivfast.method import DEEP_SHARE

BETAS = (0.9, 0.999)
EPSILON = 1e-8  # it is added outside the root


class Moments(NamedTuple):
    """Running means of gradients and of their squares, by the weights' names."""

    first: dict[str, Array]
    second: dict[str, Array]


def init_moments(params: dict[str, Any]) -> Moments:
    """Zeros."""
    return Moments(*({name: np.zeros_like(value) for name, value in params.items()} for _ in range(2)))


def adam_step(
    params: dict[str, Array], gradients: dict[str, Array], moments: Moments, step: Array, lr: Array
) -> tuple[dict[str, Array], Moments]:
    """One step: u moves with lr, the deep path's weights with 0.15 lr.

    step: () int32, finite steps before this one; lr: () learning rate of this step
    """
    first = optax.tree.update_moment(gradients, moments.first, BETAS[0], 1)
    second = optax.tree.update_moment_per_elem_norm(gradients, moments.second, BETAS[1], 2)
    t = (step + 1).astype(lr.dtype)
    # 1 - beta^t, which optax's own Adam computes in float32: 2e-5 off in early steps, where torch's is exact
    corrections = [-jnp.expm1(t * math.log(beta)) for beta in BETAS]
    moved = {}
    for name, value in params.items():
        root = jnp.sqrt(second[name] / corrections[1])
        share = 1 if name == "u" else DEEP_SHARE
        moved[name] = value - lr * share * (first[name] / corrections[0]) / (root + EPSILON)
    return moved, Moments(first, second)
