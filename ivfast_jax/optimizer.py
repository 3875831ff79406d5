"""Adam, as a function from weights, gradients and moments to the next ones."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from ivfast.schedule import DEEP_SHARE

BETAS = (0.9, 0.999)
EPSILON = 1e-8  # outside the root


class Moments(NamedTuple):
    """Running means of gradients and of their squares, by the weights' names."""

    first: dict[str, Array]
    second: dict[str, Array]


def init_moments(params: dict[str, Array]) -> Moments:
    """Zeros."""
    return Moments(*({name: jnp.zeros_like(value) for name, value in params.items()} for _ in range(2)))


def adam_step(
    params: dict[str, Array], gradients: dict[str, Array], moments: Moments, step: Array, lr: Array
) -> tuple[dict[str, Array], Moments]:
    """One step: u moves with lr, the deep path's weights with 0.15 lr.

    step: () int32, finite steps before this one; lr: () learning rate of this step
    """
    adam = optax.scale_by_adam(*BETAS, eps=EPSILON)
    state: Any = optax.ScaleByAdamState(count=step, mu=moments.first, nu=moments.second)
    directions: Any
    directions, state = adam.update(gradients, state)
    moved = {name: params[name] - lr * (1 if name == "u" else DEEP_SHARE) * directions[name] for name in params}
    return moved, Moments(state.mu, state.nu)
