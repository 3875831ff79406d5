"""One training step, and a chunk of them as one compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import NET_WEIGHT
from ivfast.network.backend import Blocks, Goal, Metrics
from ivfast_jax.blocks import Seen, in_blocks, vote
from ivfast_jax.loss import mean_use, meet, next_use, search_cost
from ivfast_jax.model import Constants, DCNet, log_membership, net_logits
from ivfast_jax.optimizer import Moments, adam_step
from ivfast_jax.precision import LossScale, all_finite, next_scale
from ivfast_jax.shards import DATA, width_of


class TrainState(NamedTuple):
    """All that changes from step to step."""

    params: dict[str, Array]  # by the names of ivfast.network.backend.starting_weights
    moments: Moments
    use: dict[str, Array]  # m of centers and, with a deep path, net; (nlist,), sums to 1
    step: Array  # () int32, finite steps so far
    loss_scale: LossScale  # changed by every step
    lists: Any = None  # (nlist, listed) int32, as nearest_buckets; None without blocks


class Losses(NamedTuple):
    """What one batch says besides its gradient."""

    centers: Array  # () sum over pairs of meet(z_centers)
    net: Array  # () sum over pairs of meet(z_net), 0 without a deep path
    mean_p: dict[str, Array]  # mean membership by router, (nlist,)


def forward(
    network: DCNet, params: dict[str, Array], x: Array, constants: Constants, k: Array, seen: Seen | None = None
) -> dict[str, Array]:
    """Logits at sharpness k, by router. x: (..., n, dim) policy.stat; returns (..., n, nlist) each. seen: as DCNet"""
    rows = x.reshape(-1, x.shape[-1]) if seen is None else x
    both: Any = network.apply({"params": params}, rows, constants, seen)
    z_centers, z_net = net_logits(both[0], both[1], k)
    found = {"centers": z_centers} if z_net is None else {"centers": z_centers, "net": z_net}
    return {router: z.reshape(*x.shape[:-1], -1) for router, z in found.items()}


def batch_loss(
    params: dict[str, Array], loss_scale: Array, use: dict[str, Array], x: Array, x_pair: Array, valid: Array,
    goal: Goal, network: DCNet, constants: Constants, seen: Seen | None = None,
) -> tuple[Array, Losses]:  # fmt: skip
    """loss(z_centers) + 0.3 loss(z_net), mean over the valid pairs, times the loss scale.

        loss = meet(x, x') + weight (search_cost(x, x') + search_cost(x', x)) / 2

    x, x_pair: (batch, dim), or in parts (parts, rows, dim); valid: (batch,) bool likewise
    seen: in blocks, where batch is (blocks, pairs)
    """
    z = forward(network, params, jnp.concatenate([x, x_pair], axis=-2), constants, goal.k, seen)
    sums, totals = {}, {}
    mean_p = {}
    for router, logits in z.items():
        log_p, log_q = jnp.split(log_membership(logits), 2, axis=-2)
        z_x, z_pair = jnp.split(logits, 2, axis=-2)
        rest = use[router], valid, goal.nprobe, goal.slope, seen
        sums[router] = meet(log_p, log_q, use[router], valid, seen)
        both = search_cost(z_x, log_q, *rest) + search_cost(z_pair, log_p, *rest)
        totals[router] = sums[router] + goal.weight * both / 2
        mean_p[router] = mean_use(lax.stop_gradient(log_p), lax.stop_gradient(log_q), valid, seen)
    none = jnp.zeros_like(sums["centers"])
    total = (totals["centers"] + NET_WEIGHT * totals.get("net", none)) / jnp.clip(valid.sum(), min=1)
    centers, net = (lax.stop_gradient(part) for part in (sums["centers"], sums.get("net", none)))
    return loss_scale * total, Losses(centers, net, mean_p)


def gradients_of(params: dict[str, Array], loss_scale: Array, *rest: Any) -> tuple[dict[str, Array], Losses]:
    """The loss's gradient by params, the loss scale divided out again. rest: what else batch_loss takes"""
    scaled, losses = jax.grad(batch_loss, has_aux=True)(params, loss_scale, *rest)
    return {name: gradient / loss_scale for name, gradient in scaled.items()}, losses


def keep_if(finite: Array, move: Callable[[], Any], old: Any) -> Any:
    """What a step leads to, old after a step that is not finite."""
    return jax.tree.map(lambda new, before: jnp.where(finite, new, before), move(), old)


def train_step(
    state: TrainState, x: Array, x_pair: Array, valid: Array, goal: Goal, network: DCNet, constants: Constants,
    cells: Any = None, blocks: Blocks | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One step; a non-finite gradient leaves everything untouched and is counted.

    x, x_pair: (batch, dim); valid: (batch,) bool, at least one True; cells: (batch, 2, near) int32, in blocks
    """
    seen = None
    if blocks is None and width_of(DATA) > 1:  # both sides of a pair on one device
        x, x_pair, valid = (in_blocks(rows, len(rows) // width_of(DATA)) for rows in (x, x_pair, valid))
    if blocks is not None:
        x, x_pair, valid, cells = (in_blocks(rows, blocks.pairs) for rows in (x, x_pair, valid, cells))
        seen = vote(state.lists, cells, valid, blocks.seen)
    rest = state.use, x, x_pair, valid, goal, network, constants, seen
    gradients, losses = gradients_of(state.params, state.loss_scale.value, *rest)
    finite = all_finite(list(gradients.values()))
    loss_scale = next_scale(state.loss_scale, finite, network.policy)
    none, zero = jnp.zeros_like(losses.centers), jnp.zeros_like(loss_scale.n_skipped)

    def move() -> tuple[TrainState, Metrics]:
        lr = constants.learning_rates[state.step]
        params, moments = adam_step(state.params, gradients, state.moments, state.step, lr)
        use = {router: next_use(m, losses.mean_p[router], constants.use_rate) for router, m in state.use.items()}
        metrics = Metrics(losses.centers, losses.net, valid.sum(dtype=jnp.int32), zero, loss_scale.n_in_a_row)
        return TrainState(params, moments, use, state.step + 1, state.loss_scale, state.lists), metrics

    skipped = Metrics(none, none, zero, zero + 1, loss_scale.n_in_a_row)
    state, metrics = keep_if(finite, move, (state, skipped))
    return state._replace(loss_scale=loss_scale), metrics


def train_chunk(
    state: TrainState, x: Array, x_pair: Array, valid: Array, goal: Goal, network: DCNet, constants: Constants,
    cells: Any = None, blocks: Blocks | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """Consecutive steps; those without a valid pair do nothing.

    x, x_pair: (steps, batch, dim); valid: (steps, batch) bool; cells: (steps, batch, 2, near) int32, in blocks
    returns: sums over the steps
    """
    zero, count = jnp.zeros_like(state.loss_scale.value), jnp.zeros_like(state.loss_scale.n_skipped)
    idle = Metrics(zero, zero, count, count, count)

    def one(state: TrainState, batch: tuple[Array, Array, Array, Any]) -> tuple[TrainState, Metrics]:
        def step() -> tuple[TrainState, Metrics]:
            return train_step(state, *batch[:3], goal, network, constants, batch[3], blocks)

        return lax.cond(batch[2].any(), step, lambda: (state, idle))

    state, metrics = lax.scan(one, state, (x, x_pair, valid, cells))
    sums = jax.tree.map(lambda values: values.sum(axis=0, dtype=values.dtype), metrics)
    return state, sums._replace(n_in_a_row=metrics.n_in_a_row.max())
