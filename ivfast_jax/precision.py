"""Which type everything is computed in, and how a loss scale recovers, as values."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from ivfast.method import GROWTH_INTERVAL, LARGEST_SCALE, SMALLEST_SCALE


class Policy(NamedTuple):
    """Types of a step: the same fields in both backends."""

    name: str
    product: DTypeLike  # inputs of matrix products are rounded to it
    activation: DTypeLike  # results of the deep path's products, and its activations
    stat: DTypeLike  # accumulation, distances, norms, softmax, loss, m, parameters
    scaled: bool  # whether the loss scale moves
    growth_interval: int = GROWTH_INTERVAL  # finite steps in a row after which it doubles


class LossScale(NamedTuple):
    """What the loss is multiplied by, so that half gradients neither vanish nor overflow."""

    value: Array  # () a power of two
    good_steps: Array  # () int32, finite steps since the last change
    n_skipped: Array  # () int32, steps skipped in all
    n_in_a_row: Array  # () int32, steps skipped since the last finite one


def make_policy(name: str) -> Policy:
    """float32, float64 (what tests compare with), or O1|O2-float16|bfloat16 (see README)."""
    if name in ("float32", "float64"):
        dtype = {"float32": jnp.float32, "float64": jnp.float64}[name]
        return Policy(name, dtype, dtype, dtype, scaled=False)
    mode, _, amp_dtype = name.partition("-")
    half = {"float16": jnp.float16, "bfloat16": jnp.bfloat16}[amp_dtype]
    return Policy(name, half, {"O1": jnp.float32, "O2": half}[mode], jnp.float32, scaled=True)


def product(x: Array, weight: Array, policy: Policy, result: DTypeLike) -> Array:
    """x @ weight: inputs rounded to policy.product, accumulated in policy.stat, rounded to result.

    The same holds for both products of the backward pass, whose results are of x's type and of
    the weight's.

    x: (..., rows, inner), weight: (..., inner, columns); returns (..., rows, columns) result
    """
    if policy.product == policy.stat:
        return _multiply(x, weight, policy, result)
    return _half_product(x, weight, policy, result)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _half_product(x: Array, weight: Array, policy: Policy, result: DTypeLike) -> Array:
    return _half_forward(x, weight, policy, result)[0]


def _half_forward(
    x: Array, weight: Array, policy: Policy, result: DTypeLike
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    halves = x.astype(policy.product), weight.astype(policy.product)
    like = jnp.zeros((), x.dtype), jnp.zeros((), weight.dtype)
    return _multiply(*halves, policy, result), (*halves, *like)


def _half_backward(
    policy: Policy, result: DTypeLike, saved: tuple[Array, Array, Array, Array], gradient: Array
) -> tuple[Array, Array]:
    del result
    x, weight, like_x, like_weight = saved
    half = gradient.astype(policy.product)
    to_x = _multiply(half, weight.mT, policy, like_x.dtype)
    return to_x, _multiply(x.mT, half, policy, like_weight.dtype)


_half_product.defvjp(_half_forward, _half_backward)


def _multiply(left: Array, right: Array, policy: Policy, result: DTypeLike) -> Array:
    """A product of matrices of one type, accumulated in policy.stat and rounded once."""
    exact = lax.Precision.HIGHEST
    return jnp.matmul(left, right, precision=exact, preferred_element_type=policy.stat).astype(result)


def rounded(x: Array, policy: Policy) -> Array:
    """x as products see it: rounded to policy.product, in policy.stat."""
    half = x.astype(policy.product).astype(policy.stat)
    # else XLA's CPU compiler leaves bfloat16's rounding out within a fusion, whatever its options say
    bits = jnp.finfo(policy.stat).nexp, jnp.finfo(policy.product).nmant
    return lax.reduce_precision(half, exponent_bits=bits[0], mantissa_bits=bits[1])


def init_scale(start: float, policy: Policy) -> LossScale:
    """start: the loss scale's first value; without mixed precision it is 1 and stays so."""
    value = jnp.asarray(start if policy.scaled else 1, dtype=policy.stat)
    return LossScale(value, *(jnp.asarray(0, dtype=jnp.int32) for _ in range(3)))


def next_scale(loss_scale: LossScale, finite: Array, policy: Policy) -> LossScale:
    """The rule of ivfast.network.precision, for one step. finite: () bool"""
    good = jnp.where(finite, loss_scale.good_steps + 1, 0)
    value = loss_scale.value
    if policy.scaled:
        grown = good >= policy.growth_interval
        value = jnp.where(grown, jnp.clip(value * 2, max=LARGEST_SCALE), value)
        value = jnp.where(finite, value, jnp.clip(value / 2, min=SMALLEST_SCALE))
        good = jnp.where(grown, 0, good)
    skipped = jnp.where(finite, 0, 1).astype(jnp.int32)
    in_a_row = jnp.where(finite, 0, loss_scale.n_in_a_row + 1)
    return LossScale(value.astype(policy.stat), good, loss_scale.n_skipped + skipped, in_a_row)


def all_finite(gradients: list[Array]) -> Array:
    """Whether every entry is finite. () bool"""
    return jnp.stack([jnp.isfinite(gradient).all() for gradient in gradients]).all()
