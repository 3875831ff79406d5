"""DCNet: the linear path, whose weight rows are the centers, and the deep path."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ivfast.method import MOVE, NEAR
from ivfast.network.backend import weight_shapes
from ivfast_torch.blocks import Seen, gather
from ivfast_torch.precision import Policy, product, rounded

LAYER_EPSILON = 1e-5  # added to a variance; frameworks have defaults of their own
ROWS = 1024  # of start at a time: all distances between nlist centers would take too much memory


class Constants(NamedTuple):
    """What training does not change. See ivfast.network.backend.Setup."""

    start: Tensor  # (nlist, dim)
    radius: Tensor  # (nlist,)
    mean: Tensor  # (dim,)
    scale: Tensor  # ()
    delta_floor: Tensor  # ()
    learning_rates: Tensor  # (finite steps,)
    use_rate: Tensor  # ()


class DCNet(nn.Module):
    """Both paths of the network: a shell that names the weights, for those who apply and serialise modules.

    Weights are handed in at each call, as torch.func does it; here they are shapes alone.
    """

    def __init__(self, param_list: tuple[int, ...], metric: str, policy: Policy) -> None:
        super().__init__()
        self.param_list, self.metric, self.policy = param_list, metric, policy
        for name, shape in weight_shapes(param_list).items():
            layer, _, kind = name.rpartition(".")
            if layer and layer not in self._modules:
                self.add_module(layer, nn.Module())
            self.get_submodule(layer).register_parameter(kind, nn.Parameter(torch.empty(shape, device="meta")))

    def forward(self, x: Tensor, constants: Constants, seen: Seen | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits of the linear path at k = 1, and what the deep path adds (None: there is none).

        x: (n, dim) policy.stat; returns (n, nlist) policy.stat each
        seen: in blocks, where x is (blocks, rows, dim) and logits (blocks, rows, seen)
        """
        params: dict[str, Tensor] = dict(self.named_parameters())
        c = centers(params["u"], constants, self.metric)
        c = c if seen is None else gather(c, seen)
        z = center_logits(x, c, constants.delta_floor, self.metric, self.policy)
        return z, deep(params, x, constants, self.policy, seen)


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

    x: (..., n, dim), c: (..., nlist, dim); returns (..., n, nlist) policy.stat
    """
    products = product(x, c.mT, policy, policy.stat)
    if policy.product != policy.stat and metric == "IP":
        off_x, off_c = (
            torch.detach(torch.square(rounded(v, policy)).sum(dim=-1) - torch.square(v).sum(dim=-1)) for v in (x, c)
        )
        return torch.clip(2 + off_x[..., None] + off_c[..., None, :] - 2 * products, min=0)
    if metric == "IP":
        return torch.clip(2 - 2 * products, min=0)
    norms = [torch.square(rounded(v, policy)).sum(dim=-1) for v in (x, c)]
    return torch.clip(norms[0][..., None] + norms[1][..., None, :] - 2 * products, min=0)


def center_logits(x: Tensor, c: Tensor, delta_floor: Tensor, metric: str, policy: Policy) -> Tensor:
    """Logits of the linear path at k = 1 (see ivfast.route.distances.center_logits).

        z_b(x) = - d_b(x)^2 / delta(x), no gradient through delta

    x: (..., n, dim), c: (..., nlist, dim); returns (..., n, nlist) policy.stat
    """
    d2 = squared_distances(x, c, metric, policy)
    near = min(NEAR, d2.shape[-1])
    nearest = torch.topk(torch.detach(d2), near, largest=False)[0]
    return -d2 / torch.maximum(nearest.mean(dim=-1, keepdim=True), delta_floor)


def deep(
    params: dict[str, Tensor], x: Tensor, constants: Constants, policy: Policy, seen: Seen | None = None
) -> Tensor | None:
    """The MLP: dense - layer norm - GELU, the last dense alone. None without layers. (n, dim) -> (n, nlist)

    seen: as DCNet; only the last layer is one product a block
    """
    n_layers = sum(name.endswith(".weight") for name in params)
    if n_layers == 0:
        return None
    h = ((x - constants.mean) / constants.scale).reshape(-1, x.shape[-1])
    for i in range(n_layers - 1):
        h = layer_norm(params, f"norms_{i}", dense(params, f"layers_{i}", h, policy))
        h = functional.gelu(h, approximate="none").to(policy.activation)
    return dense(params, f"layers_{n_layers - 1}", h.reshape(*x.shape[:-1], h.shape[-1]), policy, seen)


def dense(params: dict[str, Tensor], name: str, x: Tensor, policy: Policy, seen: Seen | None = None) -> Tensor:
    """x @ weight, rounded to policy.activation, + bias. (n, in) -> (n, out) policy.stat

    seen: in blocks, the columns that each block has: (blocks, rows, in) -> (blocks, rows, seen)
    """
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    if seen is not None:
        weight, bias = gather(weight.mT, seen).mT, gather(bias, seen)[:, None]
    products = product(x, weight, policy, policy.activation)
    return products.to(policy.stat) + bias


def layer_norm(params: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Rows of mean 0 and variance 1, times scale, + bias. (n, width) policy.stat -> the same"""
    scale, bias = params[f"{name}.scale"], params[f"{name}.bias"]
    return functional.layer_norm(x, scale.shape, scale, bias, eps=LAYER_EPSILON)


def nearest_buckets(u: Tensor, constants: Constants, metric: str, policy: Policy, listed: int) -> Tensor:
    """Of each k-means bucket the centers that are nearest to its k-means center now, nearest first.

    In policy.stat throughout: rounded distances would tie. returns: (nlist, listed) int32
    """
    c, exact = centers(u, constants, metric), policy._replace(product=policy.stat)

    def nearest(rows: Tensor) -> Tensor:
        return torch.topk(-squared_distances(rows, c, metric, exact), listed)[1]

    return torch.concatenate([nearest(rows) for rows in torch.split(constants.start, ROWS)]).to(torch.int32)


def net_logits(z: Tensor, deep: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits of both routers at sharpness k: z_centers = k z, z_net = k z + deep."""
    z_centers = k * z
    return z_centers, None if deep is None else z_centers + deep


def log_membership(z: Tensor) -> Tensor:
    """log p, the log softmax of logits. (n, nlist) -> (n, nlist)"""
    return torch.log_softmax(z, dim=-1)
