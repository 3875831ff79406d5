"""DCNet: the linear path, whose weight rows are the centers, and the deep path."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import MOVE, NEAR
from ivfast.network.backend import weight_shapes
from ivfast_jax.blocks import Seen, gather
from ivfast_jax.precision import Policy, product, rounded
from ivfast_jax.shards import top_few

LAYER_EPSILON = 1e-5  # added to a variance; frameworks have defaults of their own
ROWS = 1024  # of start at a time: all distances between nlist centers would take too much memory


class Constants(NamedTuple):
    """What training does not change. See ivfast.network.backend.Setup."""

    start: Array  # (nlist, dim)
    radius: Array  # (nlist,)
    mean: Array  # (dim,)
    scale: Array  # ()
    delta_floor: Array  # ()
    learning_rates: Array  # (finite steps,)
    use_rate: Array  # ()


class DCNet(nn.Module):
    """Both paths of the network: a shell that names the weights, for those who apply and serialise modules.

    Weights are handed in at each call, as linen's apply does it; an nnx module would hold them itself.
    """

    param_list: tuple[int, ...]
    metric: str
    policy: Policy

    @nn.compact
    def __call__(self, x: Array, constants: Constants, seen: Seen | None = None) -> tuple[Array, Array | None]:
        """Logits of the linear path at k = 1, and what the deep path adds (None: there is none).

        x: (n, dim) policy.stat; returns (n, nlist) policy.stat each
        seen: in blocks, where x is (blocks, rows, dim) and logits (blocks, rows, seen)
        """
        shapes = weight_shapes(self.param_list)
        params = {name: self.param(name, nn.initializers.zeros, shape) for name, shape in shapes.items()}
        c = centers(params["u"], constants, self.metric)
        c = c if seen is None else gather(c, seen)
        z = center_logits(x, c, constants.delta_floor, self.metric, self.policy)
        return z, deep(params, x, constants, self.policy, seen)


def centers(u: Array, constants: Constants, metric: str) -> Array:
    """Where the buckets' centers are.

        c_b = start_b + 16 r_b u_b, of unit norm under IP

    u: (nlist, dim); returns (nlist, dim)
    """
    moved = constants.start + MOVE * constants.radius[:, None] * u
    if metric == "L2":
        return moved
    return moved / jnp.sqrt(jnp.square(moved).sum(axis=1, keepdims=True))


def squared_distances(x: Array, c: Array, metric: str, policy: Policy) -> Array:
    """d^2 of rows to centers, at least 0 (see ivfast.route.distances.squared_distances).

    Norms are of the vectors as the product sees them, else rounding would move whole buckets:
    under IP the rounding's share is added to 1 + 1, under L2 rounded vectors are squared.

    x: (..., n, dim), c: (..., nlist, dim); returns (..., n, nlist) policy.stat
    """
    products = product(x, c.mT, policy, policy.stat)
    if policy.product != policy.stat and metric == "IP":
        off_x, off_c = (
            lax.stop_gradient(jnp.square(rounded(v, policy)).sum(axis=-1) - jnp.square(v).sum(axis=-1)) for v in (x, c)
        )
        return jnp.clip(2 + off_x[..., None] + off_c[..., None, :] - 2 * products, min=0)
    if metric == "IP":
        return jnp.clip(2 - 2 * products, min=0)
    norms = [jnp.square(rounded(v, policy)).sum(axis=-1) for v in (x, c)]
    return jnp.clip(norms[0][..., None] + norms[1][..., None, :] - 2 * products, min=0)


def center_logits(x: Array, c: Array, delta_floor: Array, metric: str, policy: Policy) -> Array:
    """Logits of the linear path at k = 1 (see ivfast.route.distances.center_logits).

        z_b(x) = - d_b(x)^2 / delta(x), no gradient through delta

    x: (..., n, dim), c: (..., nlist, dim); returns (..., n, nlist) policy.stat
    """
    d2 = squared_distances(x, c, metric, policy)
    near = min(NEAR, d2.shape[-1])
    nearest = -top_few(-lax.stop_gradient(d2), near)[0]
    return -d2 / jnp.maximum(nearest.mean(axis=-1, keepdims=True), delta_floor)


def deep(
    params: dict[str, Array], x: Array, constants: Constants, policy: Policy, seen: Seen | None = None
) -> Array | None:
    """The MLP: dense - layer norm - GELU, the last dense alone. None without layers. (n, dim) -> (n, nlist)

    seen: as DCNet; only the last layer is one product a block
    """
    n_layers = sum(name.endswith(".weight") for name in params)
    if n_layers == 0:
        return None
    h = ((x - constants.mean) / constants.scale).reshape(-1, x.shape[-1])
    for i in range(n_layers - 1):
        h = layer_norm(params, f"norms_{i}", dense(params, f"layers_{i}", h, policy))
        h = jax.nn.gelu(h, approximate=False).astype(policy.activation)
    return dense(params, f"layers_{n_layers - 1}", h.reshape(*x.shape[:-1], h.shape[-1]), policy, seen)


def dense(params: dict[str, Array], name: str, x: Array, policy: Policy, seen: Seen | None = None) -> Array:
    """x @ weight, rounded to policy.activation, + bias. (n, in) -> (n, out) policy.stat

    seen: in blocks, the columns that each block has: (blocks, rows, in) -> (blocks, rows, seen)
    """
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    if seen is not None:
        weight, bias = gather(weight.mT, seen).mT, gather(bias, seen)[:, None]
    products = product(x, weight, policy, policy.activation)
    return products.astype(policy.stat) + bias


def layer_norm(params: dict[str, Array], name: str, x: Array) -> Array:
    """Rows of mean 0 and variance 1, times scale, + bias. (n, width) policy.stat -> the same"""
    scale, bias = params[f"{name}.scale"], params[f"{name}.bias"]
    mean = x.mean(axis=1, keepdims=True)
    # x - mean twice, as Flax's LayerNorm has it: as one value its gradient is added up in another order
    variance = jnp.square(x - mean).mean(axis=1, keepdims=True)
    return (x - mean) * (lax.rsqrt(variance + LAYER_EPSILON) * scale) + bias


def nearest_buckets(u: Array, constants: Constants, metric: str, policy: Policy, listed: int) -> Array:
    """Of each k-means bucket the centers that are nearest to its k-means center now, nearest first.

    In policy.stat throughout: rounded distances would tie. returns: (nlist, listed) int32
    """
    c, exact = centers(u, constants, metric), policy._replace(product=policy.stat)

    def nearest(row: Array) -> Array:
        return lax.top_k(-squared_distances(row[None], c, metric, exact)[0], listed)[1]

    return lax.map(nearest, constants.start, batch_size=ROWS).astype(jnp.int32)


def net_logits(z: Array, deep: Array | None, k: Array) -> tuple[Array, Array | None]:
    """Logits of both routers at sharpness k: z_centers = k z, z_net = k z + deep."""
    z_centers = k * z
    return z_centers, None if deep is None else z_centers + deep


def log_membership(z: Array) -> Array:
    """log p, the log softmax of logits. (n, nlist) -> (n, nlist)"""
    return jax.nn.log_softmax(z, axis=-1)
