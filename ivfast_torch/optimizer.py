"""Adam, as a function from weights, gradients and moments to the next ones."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam

from ivfast.method import DEEP_SHARE

BETAS = (0.9, 0.999)
EPSILON = 1e-8  # it is added outside the root


class Moments(NamedTuple):
    """Running means of gradients and of their squares, by the weights' names."""

    first: dict[str, Tensor]
    second: dict[str, Tensor]


def init_moments(params: dict[str, Tensor]) -> Moments:
    """Zeros."""
    return Moments(*({name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2)))


def adam_step(
    params: dict[str, Tensor], gradients: dict[str, Tensor], moments: Moments, step: Tensor, lr: Tensor
) -> tuple[dict[str, Tensor], Moments]:
    """One step: u moves with lr, the deep path's weights with 0.15 lr.

    step: () int32, finite steps before this one; lr: () learning rate of this step
    """
    for names, share in ((["u"], 1), ([name for name in params if name != "u"], DEEP_SHARE)):
        if names:
            adam(
                [params[name] for name in names],
                [gradients[name] for name in names],
                [moments.first[name] for name in names],
                [moments.second[name] for name in names],
                [],
                [step.to(params[name].device, torch.float32) for name in names],
                foreach=False, fused=True, amsgrad=False,
                beta1=BETAS[0], beta2=BETAS[1], lr=float(lr) * share, weight_decay=0.0, eps=EPSILON,
                maximize=False,
            )  # fmt: skip
    return params, moments
