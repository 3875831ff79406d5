"""One training step, and a chunk of them as one compiled call."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import Array, lax

from ivfast.method import NET_WEIGHT
from ivfast.network.backend import Goal, Metrics
from ivfast_jax.loss import mean_use, meet, next_use, probing
from ivfast_jax.model import Constants, DCNet, log_membership, net_logits
from ivfast_jax.optimizer import Moments, adam_step
from ivfast_jax.precision import LossScale, all_finite, next_scale


class TrainState(NamedTuple):
    """All that changes from step to step."""

    params: dict[str, Array]  # by the names of ivfast.network.backend.starting_weights
    moments: Moments
    use: dict[str, Array]  # m of centers and, with a deep path, net; (nlist,), sums to 1
    step: Array  # () int32, finite steps so far
    scale: LossScale  # changed by every step


class Losses(NamedTuple):
    """What one batch says besides its gradient."""

    centers: Array  # () sum over pairs of meet(z_centers)
    net: Array  # () sum over pairs of meet(z_net), 0 without a deep path
    mean_p: dict[str, Array]  # mean membership by router, (nlist,)


def forward(network: DCNet, params: dict[str, Array], x: Array, constants: Constants, k: Array) -> dict[str, Array]:
    """Logits at sharpness k, by router. x: (n, dim) policy.stat; returns (n, nlist) each"""
    both: Any = network.apply({"params": unflatten_dict(params, sep=".")}, x, constants)
    z_centers, z_net = net_logits(both[0], both[1], k)
    return {"centers": z_centers} if z_net is None else {"centers": z_centers, "net": z_net}


def batch_loss(
    params: dict[str, Array], use: dict[str, Array], x: Array, x_pair: Array, valid: Array,
    goal: Goal, scale: Array, network: DCNet, constants: Constants,
) -> tuple[Array, Losses]:  # fmt: skip
    """loss(z_centers) + 0.3 loss(z_net), mean over the valid pairs, times the loss scale.

        loss = meet(x, x') + weight (probing(x, x') + probing(x', x)) / 2

    x, x_pair: (batch, dim); valid: (batch,) bool
    """
    z = forward(network, params, jnp.concatenate([x, x_pair]), constants, goal.k)
    sums, totals = {}, {}
    mean_p = {}
    for router, logits in z.items():
        log_p, log_q = jnp.split(log_membership(logits), 2)
        z_x, z_pair = jnp.split(logits, 2)
        rest = use[router], valid, goal.nprobe, goal.slope
        sums[router] = meet(log_p, log_q, use[router], valid)
        both = probing(z_x, log_q, *rest) + probing(z_pair, log_p, *rest)
        totals[router] = sums[router] + goal.weight * both / 2
        mean_p[router] = lax.stop_gradient(mean_use(log_p, log_q, valid))
    none = jnp.zeros_like(sums["centers"])
    total = (totals["centers"] + NET_WEIGHT * totals.get("net", none)) / jnp.maximum(valid.sum(), 1)
    return scale * total, Losses(sums["centers"], sums.get("net", none), mean_p)


def train_step(
    state: TrainState, x: Array, x_pair: Array, valid: Array, goal: Goal, network: DCNet, constants: Constants
) -> tuple[TrainState, Metrics]:
    """One step; a non-finite gradient leaves everything untouched and is counted.

    x, x_pair: (batch, dim); valid: (batch,) bool, at least one True
    """
    grad = jax.grad(batch_loss, has_aux=True)
    scaled, losses = grad(state.params, state.use, x, x_pair, valid, goal, state.scale.value, network, constants)
    gradients = {name: gradient / state.scale.value for name, gradient in scaled.items()}
    finite = all_finite(list(gradients.values()))
    scale = next_scale(state.scale, finite, network.policy)
    lr = constants.learning_rates[state.step]
    params, moments = adam_step(state.params, gradients, state.moments, state.step, lr)
    use = {r: next_use(m, losses.mean_p[r], constants.use_rate) for r, m in state.use.items()}
    moved = TrainState(params, moments, use, state.step + 1, state.scale)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
    return state._replace(scale=scale), Metrics(
        jnp.where(finite, losses.centers, 0),
        jnp.where(finite, losses.net, 0),
        jnp.where(finite, valid.sum(dtype=jnp.int32), 0),
        jnp.where(finite, jnp.int32(0), jnp.int32(1)),
        scale.n_in_a_row,
    )


def train_chunk(
    state: TrainState, x: Array, x_pair: Array, valid: Array, goal: Goal, network: DCNet, constants: Constants
) -> tuple[TrainState, Metrics]:
    """Consecutive steps; those without a valid pair do nothing.

    x, x_pair: (steps, batch, dim); valid: (steps, batch) bool; returns sums over the steps
    """

    def one(state: TrainState, batch: tuple[Array, Array, Array]) -> tuple[TrainState, Metrics]:
        zero = jnp.zeros((), x.dtype)
        idle = Metrics(zero, zero, jnp.int32(0), jnp.int32(0), jnp.int32(0))
        return lax.cond(
            batch[2].any(),
            lambda: train_step(state, *batch, goal, network, constants),
            lambda: (state, idle),
        )

    state, metrics = lax.scan(one, state, (x, x_pair, valid))
    sums = jax.tree.map(lambda values: values.sum(axis=0, dtype=values.dtype), metrics)
    return state, sums._replace(n_in_a_row=metrics.n_in_a_row.max())
