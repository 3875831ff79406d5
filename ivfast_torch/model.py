"""DCNet: the linear path, whose weight rows are the centers, and the deep path."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ivfast.method import MOVE, NEAR
from ivfast_torch.precision import Policy, product, rounded


class Constants(NamedTuple):
    """What training does not change. See ivfast.network.backend.Setup."""

    start: Tensor  # (nlist, dim)
    radius: Tensor  # (nlist,)
    mean: Tensor  # (dim,)
    scale: Tensor  # ()
    delta_floor: Tensor  # ()
    learning_rates: Tensor  # (finite steps,)
    use_rate: Tensor  # ()


class Dense(nn.Module):
    """x @ weight, rounded to policy.activation, + bias in policy.stat."""

    def __init__(self, n_in: int, n_out: int, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.weight = nn.Parameter(torch.empty(n_in, n_out, device="meta"))
        self.bias = nn.Parameter(torch.empty(n_out, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, n_in) -> (n, n_out) policy.stat"""
        return product(x, self.weight, self.policy, self.policy.activation).to(self.policy.stat) + self.bias


class _LayerNorm(nn.Module):
    """LayerNorm over the last axis, epsilon 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width, device="meta"))
        self.bias = nn.Parameter(torch.empty(width, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, width) -> the same"""
        return functional.layer_norm(x, self.scale.shape, self.scale, self.bias, eps=1e-5)


class DCNet(nn.Module):
    """Both paths of the network. Parameters are handed in at each call (torch.func)."""

    def __init__(self, param_list: tuple[int, ...], metric: str, policy: Policy) -> None:
        super().__init__()
        self.metric, self.policy = metric, policy
        self.u = nn.Parameter(torch.empty(param_list[-1], param_list[0], device="meta"))
        widths = list(pairwise(param_list))
        self.n_layers = len(widths) if len(widths) > 1 else 0
        for i, (n_in, n_out) in enumerate(widths[: self.n_layers]):
            self.add_module(f"layers_{i}", Dense(n_in, n_out, policy))
            if i + 1 < self.n_layers:
                self.add_module(f"norms_{i}", _LayerNorm(n_out))

    def forward(self, x: Tensor, constants: Constants) -> tuple[Tensor, Tensor | None]:
        """Logits of the linear path at k = 1, and what the deep path adds (None: there is none).

        x: (n, dim) policy.stat; returns (n, nlist) policy.stat each
        """
        c = centers(self.u, constants, self.metric)
        z = center_logits(x, c, constants.delta_floor, self.metric, self.policy)
        return z, self.deep(x, constants)

    def deep(self, x: Tensor, constants: Constants) -> Tensor | None:
        """The MLP: Dense - LayerNorm - GELU, the last Dense alone. (n, dim) -> (n, nlist)"""
        if not self.n_layers:
            return None
        h = (x - constants.mean) / constants.scale
        for i in range(self.n_layers - 1):
            layer, norm = self.get_submodule(f"layers_{i}"), self.get_submodule(f"norms_{i}")
            h = functional.gelu(norm(layer(h)), approximate="none").to(self.policy.activation)
        return self.get_submodule(f"layers_{self.n_layers - 1}")(h)


def centers(u: Tensor, constants: Constants, metric: str) -> Tensor:
    """Where the buckets' centers are.

        c_b = start_b + 16 r_b u_b, of unit norm under IP

    u: (nlist, dim); returns (nlist, dim)
    """
    moved = constants.start + MOVE * constants.radius[:, None] * u
    if metric == "L2":
        return moved
    return moved / torch.sqrt(torch.square(moved).sum(dim=1, keepdim=True))


def squared_distances(x: Tensor, c: Tensor, metric: str, policy: Policy) -> Tensor:
    """d^2 of rows to centers, at least 0 (see ivfast.route.distances.squared_distances).

    Norms are of the vectors as the product sees them, else rounding would move whole buckets:
    under IP the rounding's share is added to 1 + 1, under L2 rounded vectors are squared.

    x: (n, dim), c: (nlist, dim); returns (n, nlist) policy.stat
    """
    products = product(x, c.T, policy, policy.stat)
    if policy.product != policy.stat and metric == "IP":
        off_x, off_c = (
            (torch.square(rounded(v, policy)).sum(dim=1) - torch.square(v).sum(dim=1)).detach() for v in (x, c)
        )
        return torch.clamp(2 + off_x[:, None] + off_c - 2 * products, min=0)
    if metric == "IP":
        return torch.clamp(2 - 2 * products, min=0)
    norms = [torch.square(rounded(v, policy)).sum(dim=1) for v in (x, c)]
    return torch.clamp(norms[0][:, None] + norms[1] - 2 * products, min=0)


def center_logits(x: Tensor, c: Tensor, delta_floor: Tensor, metric: str, policy: Policy) -> Tensor:
    """Logits of the linear path at k = 1 (see ivfast.route.distances.center_logits).

        z_b(x) = - d_b(x)^2 / delta(x), no gradient through delta

    x: (n, dim), c: (nlist, dim); returns (n, nlist) policy.stat
    """
    d2 = squared_distances(x, c, metric, policy)
    near = min(NEAR, d2.shape[1])
    delta = torch.topk(d2.detach(), near, largest=False)[0].mean(dim=1, keepdim=True)
    return -d2 / torch.maximum(delta, delta_floor)


def net_logits(z: Tensor, deep: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits of both routers at sharpness k: z_centers = k z, z_net = k z + deep."""
    z_centers = k * z
    return z_centers, None if deep is None else z_centers + deep


def log_membership(z: Tensor) -> Tensor:
    """Log p = log softmax of logits. (n, nlist) -> (n, nlist)"""
    return torch.log_softmax(z, dim=-1)
