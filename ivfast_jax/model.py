"""DCNet: the linear path, whose weight rows are the centers, and the deep path."""

from itertools import pairwise
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ivfast.method import MOVE, NEAR
from ivfast_jax.precision import Policy, product, rounded


class Constants(NamedTuple):
    """What training does not change. See ivfast.network.backend.Setup."""

    start: Array  # (nlist, dim)
    radius: Array  # (nlist,)
    mean: Array  # (dim,)
    scale: Array  # ()
    delta_floor: Array  # ()
    learning_rates: Array  # (finite steps,)
    use_rate: Array  # ()


class Dense(nn.Module):
    """x @ weight, rounded to policy.activation, + bias in policy.stat."""

    n_in: int
    n_out: int
    policy: Policy

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x: (n, n_in) -> (n, n_out) policy.stat"""
        weight = self.param("weight", nn.initializers.zeros, (self.n_in, self.n_out))
        bias = self.param("bias", nn.initializers.zeros, (self.n_out,))
        return product(x, weight, self.policy, self.policy.activation).astype(self.policy.stat) + bias


class DCNet(nn.Module):
    """Both paths of the network."""

    param_list: tuple[int, ...]
    metric: str
    policy: Policy

    def setup(self) -> None:
        """Parameters by the names of ivfast.network.backend.starting_weights."""
        self.u = self.param("u", nn.initializers.zeros, (self.param_list[-1], self.param_list[0]))
        widths = list(pairwise(self.param_list))
        deep = len(widths) > 1
        self.layers = [Dense(n_in, n_out, self.policy) for n_in, n_out in widths] if deep else []
        self.norms = [nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.policy.stat) for _ in widths[1:]]

    def __call__(self, x: Array, constants: Constants) -> tuple[Array, Array | None]:
        """Logits of the linear path at k = 1, and what the deep path adds (None: there is none).

        x: (n, dim) policy.stat; returns (n, nlist) policy.stat each
        """
        c = centers(self.u, constants, self.metric)
        z = center_logits(x, c, constants.delta_floor, self.metric, self.policy)
        return z, self.deep(x, constants)

    def deep(self, x: Array, constants: Constants) -> Array | None:
        """The MLP: Dense - LayerNorm - GELU, the last Dense alone. (n, dim) -> (n, nlist)"""
        if not self.layers:
            return None
        h = (x - constants.mean) / constants.scale
        for layer, norm in zip(self.layers, self.norms, strict=False):
            h = nn.gelu(norm(layer(h)), approximate=False).astype(self.policy.activation)
        return self.layers[-1](h)


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

    x: (n, dim), c: (nlist, dim); returns (n, nlist) policy.stat
    """
    products = product(x, c.T, policy, policy.stat)
    if policy.product != policy.stat and metric == "IP":
        off_x, off_c = (
            lax.stop_gradient(jnp.square(rounded(v, policy)).sum(axis=1) - jnp.square(v).sum(axis=1)) for v in (x, c)
        )
        return jnp.maximum(2 + off_x[:, None] + off_c - 2 * products, 0)
    if metric == "IP":
        return jnp.maximum(2 - 2 * products, 0)
    norms = [jnp.square(rounded(v, policy)).sum(axis=1) for v in (x, c)]
    return jnp.maximum(norms[0][:, None] + norms[1] - 2 * products, 0)


def center_logits(x: Array, c: Array, delta_floor: Array, metric: str, policy: Policy) -> Array:
    """Logits of the linear path at k = 1 (see ivfast.route.distances.center_logits).

        z_b(x) = - d_b(x)^2 / delta(x), no gradient through delta

    x: (n, dim), c: (nlist, dim); returns (n, nlist) policy.stat
    """
    d2 = squared_distances(x, c, metric, policy)
    near = min(NEAR, d2.shape[1])
    delta = -lax.top_k(-lax.stop_gradient(d2), near)[0].mean(axis=1, keepdims=True)
    return -d2 / jnp.maximum(delta, delta_floor)


def net_logits(z: Array, deep: Array | None, k: Array) -> tuple[Array, Array | None]:
    """Logits of both routers at sharpness k: z_centers = k z, z_net = k z + deep."""
    z_centers = k * z
    return z_centers, None if deep is None else z_centers + deep


def log_membership(z: Array) -> Array:
    """Log p = log softmax of logits. (n, nlist) -> (n, nlist)"""
    return jax.nn.log_softmax(z, axis=-1)
