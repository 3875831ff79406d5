"""Which type everything is computed in, and how a loss scale recovers, as values."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ivfast.method import GROWTH_INTERVAL, LARGEST_SCALE, SMALLEST_SCALE


class Policy(NamedTuple):
    """Types of a step: the same fields in both backends."""

    name: str
    product: torch.dtype  # inputs of matrix products are rounded to it
    activation: torch.dtype  # results of the deep path's products, and its activations
    stat: torch.dtype  # accumulation, distances, norms, softmax, loss, m, parameters
    scaled: bool  # whether the loss scale moves
    growth_interval: int = GROWTH_INTERVAL  # finite steps in a row after which it doubles


class LossScale(NamedTuple):
    """What the loss is multiplied by, so that half gradients neither vanish nor overflow."""

    value: Tensor  # () a power of two
    good_steps: Tensor  # () int32, finite steps since the last change
    n_skipped: Tensor  # () int32, steps skipped in all
    n_in_a_row: Tensor  # () int32, steps skipped since the last finite one


def make_policy(name: str) -> Policy:
    """float32, float64 (what tests compare with), or O1|O2-float16|bfloat16 (see README)."""
    if name in ("float32", "float64"):
        dtype = {"float32": torch.float32, "float64": torch.float64}[name]
        return Policy(name, dtype, dtype, dtype, scaled=False)
    mode, _, amp_dtype = name.partition("-")
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}[amp_dtype]
    return Policy(name, half, {"O1": torch.float32, "O2": half}[mode], torch.float32, scaled=True)


def product(x: Tensor, weight: Tensor, policy: Policy, result: torch.dtype) -> Tensor:
    """x @ weight: inputs rounded to policy.product, accumulated in policy.stat, rounded to result.

    The same holds for both products of the backward pass, whose results are of x's type and of
    the weight's.

    x: (..., rows, inner), weight: (..., inner, columns); returns (..., rows, columns) result
    """
    if policy.product == policy.stat:
        return _multiply(x, weight, policy, result)
    return _HalfProduct.apply(x, weight, policy, result)  # pyright: ignore[reportReturnType]


class _HalfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, policy: Policy, result: torch.dtype) -> Tensor:
        halves = x.to(policy.product), weight.to(policy.product)
        ctx.save_for_backward(*halves)
        ctx.policy, ctx.types = policy, (x.dtype, weight.dtype)
        return _multiply(*halves, policy, result)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        policy, (of_x, of_weight) = ctx.policy, ctx.types
        half = gradients[0].to(policy.product)
        to_x = _multiply(half, weight.mT, policy, of_x) if ctx.needs_input_grad[0] else None
        return to_x, _multiply(x.mT, half, policy, of_weight), None, None


def _multiply(left: Tensor, right: Tensor, policy: Policy, result: torch.dtype) -> Tensor:
    """A product of matrices of one type, accumulated in policy.stat and rounded once."""
    if left.dtype == policy.stat:
        return (left @ right).to(result)
    if left.is_cuda:
        multiply = torch.mm if left.ndim == 2 else torch.bmm
        return multiply(left, right, out_dtype=torch.float32).to(result)
    if left.dtype == result == torch.bfloat16:
        return torch.matmul(left, right)  # oneDNN: accumulates in float32, rounds once
    # float16 has no usable product on the CPU, and bfloat16 none that gives float32
    return (left.to(torch.float32) @ right.to(torch.float32)).to(result)


def rounded(x: Tensor, policy: Policy) -> Tensor:
    """x as products see it: rounded to policy.product, in policy.stat."""
    return x.to(policy.product).to(policy.stat)


def init_scale(start: float, policy: Policy) -> LossScale:
    """start: the loss scale's first value; without mixed precision it is 1 and stays so."""
    value = torch.asarray(start if policy.scaled else 1, dtype=policy.stat)
    return LossScale(value, *(torch.asarray(0, dtype=torch.int32) for _ in range(3)))


def next_scale(loss_scale: LossScale, finite: Tensor, policy: Policy) -> LossScale:
    """The rule of ivfast.network.precision, for one step. finite: () bool"""
    good = torch.where(finite, loss_scale.good_steps + 1, 0)
    value = loss_scale.value
    if policy.scaled:
        grown = good >= policy.growth_interval
        value = torch.where(grown, torch.clip(value * 2, max=LARGEST_SCALE), value)
        value = torch.where(finite, value, torch.clip(value / 2, min=SMALLEST_SCALE))
        good = torch.where(grown, 0, good)
    skipped = torch.where(finite, 0, 1).to(torch.int32)
    in_a_row = torch.where(finite, 0, loss_scale.n_in_a_row + 1)
    return LossScale(value.to(policy.stat), good, loss_scale.n_skipped + skipped, in_a_row)


def all_finite(gradients: list[Tensor]) -> Tensor:
    """Whether every entry is finite. () bool"""
    return torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all()
