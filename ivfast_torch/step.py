"""One training step, and a chunk of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from ivfast.method import NET_WEIGHT
from ivfast.network.backend import Blocks, Goal, Metrics
from ivfast_torch.blocks import Seen, in_blocks, vote
from ivfast_torch.loss import mean_use, meet, next_use, search_cost
from ivfast_torch.model import Constants, DCNet, log_membership, net_logits
from ivfast_torch.optimizer import Moments, adam_step
from ivfast_torch.precision import LossScale, all_finite, next_scale


class TrainState(NamedTuple):
    """All that changes from step to step."""

    params: dict[str, Tensor]  # by the names of ivfast.network.backend.starting_weights
    moments: Moments
    use: dict[str, Tensor]  # m of centers and, with a deep path, net; (nlist,), sums to 1
    step: Tensor  # () int32, finite steps so far
    loss_scale: LossScale  # changed by every step
    lists: Any = None  # (nlist, listed) int32, as nearest_buckets; None without blocks


class Losses(NamedTuple):
    """What one batch says besides its gradient."""

    centers: Tensor  # () sum over pairs of meet(z_centers)
    net: Tensor  # () sum over pairs of meet(z_net), 0 without a deep path
    mean_p: dict[str, Tensor]  # mean membership by router, (nlist,)


def forward(
    network: DCNet, params: dict[str, Tensor], x: Tensor, constants: Constants, k: Tensor, seen: Seen | None = None
) -> dict[str, Tensor]:
    """Logits at sharpness k, by router. x: (..., n, dim) policy.stat; returns (..., n, nlist) each. seen: as DCNet"""
    rows = x.reshape(-1, x.shape[-1]) if seen is None else x
    both: Any = functional_call(network, params, (rows, constants, seen))
    z_centers, z_net = net_logits(both[0], both[1], k)
    found = {"centers": z_centers} if z_net is None else {"centers": z_centers, "net": z_net}
    return {router: z.reshape(*x.shape[:-1], -1) for router, z in found.items()}


def batch_loss(
    params: dict[str, Tensor], loss_scale: Tensor, use: dict[str, Tensor], x: Tensor, x_pair: Tensor, valid: Tensor,
    goal: Goal, network: DCNet, constants: Constants, seen: Seen | None = None,
) -> tuple[Tensor, Losses]:  # fmt: skip
    """loss(z_centers) + 0.3 loss(z_net), mean over the valid pairs, times the loss scale.

        loss = meet(x, x') + weight (search_cost(x, x') + search_cost(x', x)) / 2

    x, x_pair: (batch, dim), or in parts (parts, rows, dim); valid: (batch,) bool likewise
    seen: in blocks, where batch is (blocks, pairs)
    """
    z = forward(network, params, torch.concatenate([x, x_pair], dim=-2), constants, goal.k, seen)
    sums, totals = {}, {}
    mean_p = {}
    for router, logits in z.items():
        log_p, log_q = torch.chunk(log_membership(logits), 2, dim=-2)
        z_x, z_pair = torch.chunk(logits, 2, dim=-2)
        rest = use[router], valid, goal.nprobe, goal.slope, seen
        sums[router] = meet(log_p, log_q, use[router], valid, seen)
        both = search_cost(z_x, log_q, *rest) + search_cost(z_pair, log_p, *rest)
        totals[router] = sums[router] + goal.weight * both / 2
        mean_p[router] = mean_use(torch.detach(log_p), torch.detach(log_q), valid, seen)
    none = torch.zeros_like(sums["centers"])
    total = (totals["centers"] + NET_WEIGHT * totals.get("net", none)) / torch.clip(valid.sum(), min=1)
    centers, net = (torch.detach(part) for part in (sums["centers"], sums.get("net", none)))
    return loss_scale * total, Losses(centers, net, mean_p)


def gradients_of(params: dict[str, Tensor], loss_scale: Tensor, *rest: Any) -> tuple[dict[str, Tensor], Losses]:
    """The loss's gradient by params, the loss scale divided out again. rest: what else batch_loss takes"""
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total, losses = batch_loss(leaves, loss_scale, *rest)
    values = torch.autograd.grad(total, list(leaves.values()))
    # contiguous: fused Adam walks memory, and the gradient of c.T comes transposed
    scaled = {name: value.contiguous() for name, value in zip(params, values, strict=True)}
    return {name: gradient.div_(loss_scale) for name, gradient in scaled.items()}, losses


def keep_if(finite: Tensor, move: Callable[[], Any], old: Any) -> Any:
    """What a step leads to, old after a step that is not finite."""
    return move() if finite else old  # one of them alone: Adam moves weights in place


def train_step(
    state: TrainState, x: Tensor, x_pair: Tensor, valid: Tensor, goal: Goal, network: DCNet, constants: Constants,
    cells: Any = None, blocks: Blocks | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One step; a non-finite gradient leaves everything untouched and is counted.

    x, x_pair: (batch, dim); valid: (batch,) bool, at least one True; cells: (batch, 2, near) int32, in blocks
    """
    seen = None
    if blocks is not None:
        x, x_pair, valid, cells = (in_blocks(rows, blocks.pairs) for rows in (x, x_pair, valid, cells))
        seen = vote(state.lists, cells, valid, blocks.seen)
    rest = state.use, x, x_pair, valid, goal, network, constants, seen
    gradients, losses = gradients_of(state.params, state.loss_scale.value, *rest)
    finite = all_finite(list(gradients.values()))
    loss_scale = next_scale(state.loss_scale, finite, network.policy)
    none, zero = torch.zeros_like(losses.centers), torch.zeros_like(loss_scale.n_skipped)

    def move() -> tuple[TrainState, Metrics]:
        lr = constants.learning_rates[state.step]
        params, moments = adam_step(state.params, gradients, state.moments, state.step, lr)
        use = {router: next_use(m, losses.mean_p[router], constants.use_rate) for router, m in state.use.items()}
        metrics = Metrics(losses.centers, losses.net, valid.sum(dtype=torch.int32), zero, loss_scale.n_in_a_row)
        return TrainState(params, moments, use, state.step + 1, state.loss_scale, state.lists), metrics

    skipped = Metrics(none, none, zero, zero + 1, loss_scale.n_in_a_row)
    state, metrics = keep_if(finite, move, (state, skipped))
    return state._replace(loss_scale=loss_scale), metrics


def train_chunk(
    state: TrainState, x: Tensor, x_pair: Tensor, valid: Tensor, goal: Goal, network: DCNet, constants: Constants,
    cells: Any = None, blocks: Blocks | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """Consecutive steps; those without a valid pair do nothing.

    x, x_pair: (steps, batch, dim); valid: (steps, batch) bool; cells: (steps, batch, 2, near) int32, in blocks
    returns: sums over the steps
    """
    zero, count = torch.zeros_like(state.loss_scale.value), torch.zeros_like(state.loss_scale.n_skipped)
    idle = Metrics(zero, zero, count, count, count)

    def one(state: TrainState, batch: tuple[Tensor, Tensor, Tensor, Any]) -> tuple[TrainState, Metrics]:
        def step() -> tuple[TrainState, Metrics]:
            return train_step(state, *batch[:3], goal, network, constants, batch[3], blocks)

        return step() if batch[2].any() else (state, idle)

    sums = idle
    for batch in zip(x, x_pair, valid, [None] * len(x) if cells is None else cells, strict=True):
        state, metrics = one(state, batch)
        longest = torch.maximum(sums.n_in_a_row, metrics.n_in_a_row)
        sums = Metrics(*(a + b for a, b in zip(sums, metrics, strict=True)))._replace(n_in_a_row=longest)
    return state, sums
