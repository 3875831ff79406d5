"""One training step, and a chunk of them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from ivfast.method import NET_WEIGHT
from ivfast.network.backend import Goal, Metrics
from ivfast_torch.loss import mean_use, meet, next_use, probing
from ivfast_torch.model import Constants, DCNet, log_membership, net_logits
from ivfast_torch.optimizer import Moments, adam_step
from ivfast_torch.precision import LossScale, all_finite, next_scale


class TrainState(NamedTuple):
    """All that changes from step to step."""

    params: dict[str, Tensor]  # by the names of ivfast.network.backend.starting_weights
    moments: Moments
    use: dict[str, Tensor]  # m of centers and, with a deep path, net; (nlist,), sums to 1
    step: Tensor  # () int32, finite steps so far
    scale: LossScale  # changed by every step


class Losses(NamedTuple):
    """What one batch says besides its gradient."""

    centers: Tensor  # () sum over pairs of meet(z_centers)
    net: Tensor  # () sum over pairs of meet(z_net), 0 without a deep path
    mean_p: dict[str, Tensor]  # mean membership by router, (nlist,)


def forward(network: DCNet, params: dict[str, Tensor], x: Tensor, constants: Constants, k: Tensor) -> dict[str, Tensor]:
    """Logits at sharpness k, by router. x: (n, dim) policy.stat; returns (n, nlist) each"""
    z, deep = functional_call(network, params, (x, constants))
    z_centers, z_net = net_logits(z, deep, k)
    return {"centers": z_centers} if z_net is None else {"centers": z_centers, "net": z_net}


def batch_loss(
    params: dict[str, Tensor], use: dict[str, Tensor], x: Tensor, x_pair: Tensor, valid: Tensor,
    goal: Goal, scale: Tensor, network: DCNet, constants: Constants,
) -> tuple[Tensor, Losses]:  # fmt: skip
    """loss(z_centers) + 0.3 loss(z_net), mean over the valid pairs, times the loss scale.

        loss = meet(x, x') + weight (probing(x, x') + probing(x', x)) / 2

    x, x_pair: (batch, dim); valid: (batch,) bool
    """
    z = forward(network, params, torch.cat([x, x_pair]), constants, goal.k)
    sums, totals = {}, {}
    mean_p = {}
    for router, logits in z.items():
        log_p, log_q = torch.chunk(log_membership(logits), 2)
        z_x, z_pair = torch.chunk(logits, 2)
        rest = use[router], valid, goal.nprobe, goal.slope
        sums[router] = meet(log_p, log_q, use[router], valid)
        both = probing(z_x, log_q, *rest) + probing(z_pair, log_p, *rest)
        totals[router] = sums[router] + goal.weight * both / 2
        mean_p[router] = mean_use(log_p.detach(), log_q.detach(), valid)
    none = torch.zeros_like(sums["centers"])
    total = (totals["centers"] + NET_WEIGHT * totals.get("net", none)) / torch.clamp(valid.sum(), min=1)
    return scale * total, Losses(sums["centers"].detach(), sums.get("net", none).detach(), mean_p)


def train_step(
    state: TrainState, x: Tensor, x_pair: Tensor, valid: Tensor, goal: Goal, network: DCNet, constants: Constants
) -> tuple[TrainState, Metrics]:
    """One step; a non-finite gradient leaves everything untouched and is counted.

    x, x_pair: (batch, dim); valid: (batch,) bool, at least one True
    """
    scaled, losses = batch_loss(state.params, state.use, x, x_pair, valid, goal, state.scale.value, network, constants)
    values = torch.autograd.grad(scaled, list(state.params.values()))
    # contiguous: fused Adam walks memory, and the gradient of c.T comes transposed
    values = [value.contiguous().div_(state.scale.value) for value in values]
    gradients = dict(zip(state.params, values, strict=True))
    finite = all_finite(values)
    scale = next_scale(state.scale, finite, network.policy)
    zero = torch.zeros((), dtype=torch.int32, device=x.device)
    if not finite:
        nothing = torch.zeros_like(losses.centers)
        return state._replace(scale=scale), Metrics(nothing, nothing, zero, zero + 1, scale.n_in_a_row)
    lr = constants.learning_rates[state.step]
    with torch.no_grad():
        params, moments = adam_step(state.params, gradients, state.moments, state.step, lr)
    use = {r: next_use(m, losses.mean_p[r], constants.use_rate) for r, m in state.use.items()}
    moved = TrainState(params, moments, use, state.step + 1, scale)
    return moved, Metrics(losses.centers, losses.net, valid.sum(dtype=torch.int32), zero, zero)


def train_chunk(
    state: TrainState, x: Tensor, x_pair: Tensor, valid: Tensor, goal: Goal, network: DCNet, constants: Constants
) -> tuple[TrainState, Metrics]:
    """Consecutive steps; those without a valid pair do nothing.

    x, x_pair: (steps, batch, dim); valid: (steps, batch) bool; returns sums over the steps
    """
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    count = torch.zeros((), dtype=torch.int32, device=x.device)
    totals = Metrics(zero, zero, count, count, count)
    for batch in zip(x, x_pair, valid, strict=True):
        if batch[2].any():
            state, metrics = train_step(state, *batch, goal, network, constants)
            longest = torch.maximum(totals.n_in_a_row, metrics.n_in_a_row)
            totals = Metrics(*(a + b for a, b in zip(totals, metrics, strict=True)))._replace(n_in_a_row=longest)
    return state, totals
