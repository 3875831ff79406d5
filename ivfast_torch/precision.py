"""Which type everything is computed in, as one value."""

from typing import NamedTuple

import torch
from torch import Tensor


class Policy(NamedTuple):
    """Types of a step: the same fields in both backends."""

    name: str
    product: torch.dtype  # inputs of matrix products are rounded to it
    activation: torch.dtype  # results of the deep path's products are rounded to it
    stat: torch.dtype  # accumulation, distances, norms, softmax, loss, m, parameters


def make_policy(name: str) -> Policy:
    """float32 (a run) or float64 (the reference that tests compare with)."""
    dtype = {"float32": torch.float32, "float64": torch.float64}[name]
    return Policy(name, dtype, dtype, dtype)


def product(x: Tensor, weight: Tensor, policy: Policy) -> Tensor:
    """X @ weight: inputs rounded to policy.product, accumulated in policy.stat.

    x: (rows, inner), weight: (inner, columns); returns (rows, columns) policy.stat
    """
    return x.to(policy.product).to(policy.stat) @ weight.to(policy.product).to(policy.stat)


def all_finite(gradients: list[Tensor]) -> Tensor:
    """Whether every entry is finite. () bool"""
    return torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all()
