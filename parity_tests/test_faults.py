"""Faults planted in one twin: the comparisons of the parity tests catch each of them."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import pytest
import torch
from torch.nn import functional

import ivfast_jax.model
import ivfast_jax.optimizer
import ivfast_torch.model
import ivfast_torch.optimizer
import ivfast_torch.step
from parity_tests import comparisons
from parity_tests.cases import Case, Problem, make_problem
from parity_tests.comparator import DifferenceError
from parity_tests.twins import JAX, TORCH, TWINS, Twin

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("x64")]

CASE = Case("L2", deep=True, drop=False)

Plant = Callable[[pytest.MonkeyPatch], None]
Comparison = Callable[[Problem, float], float]


class Fault(NamedTuple):
    """What is wrong in one twin, and what must catch it."""

    name: str
    plant: Plant
    caught_by: tuple[Comparison, ...]


def jax_gelu(patch: pytest.MonkeyPatch) -> None:
    gelu = jax.nn.gelu
    patch.setattr(jax.nn, "gelu", lambda h, approximate: gelu(h, approximate=not approximate))


def torch_gelu(patch: pytest.MonkeyPatch) -> None:
    gelu = functional.gelu
    patch.setattr(functional, "gelu", lambda h, approximate: gelu(h, approximate="tanh"))  # noqa: ARG005


def early_use(twin: Twin, constant: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    """The loss of a step looks at m from after it."""
    step, meet, rate = twin.step, twin.step.meet, make_problem(CASE).setup.use_rate

    def meet_later(log_p: Any, log_q: Any, m: Any, valid: Any, seen: Any = None) -> Any:
        mean_p = step.mean_use(constant(log_p), constant(log_q), valid, seen)
        return meet(log_p, log_q, step.next_use(m, mean_p, rate), valid, seen)

    patch.setattr(step, "meet", meet_later)


def dropped_batch(twin: Twin, patch: pytest.MonkeyPatch) -> None:
    """Short batches train nothing."""
    train = twin.package.Backend.train_chunk

    def train_whole(backend: Any, state: Any, chunk: Any, goal: Any) -> Any:
        return train(backend, state, chunk._replace(valid=chunk.valid & chunk.valid.all(axis=1, keepdims=True)), goal)

    patch.setattr(twin.package.Backend, "train_chunk", train_whole)


def gradient_through_delta(patch: pytest.MonkeyPatch) -> None:
    passing = SimpleNamespace(top_k=jax.lax.top_k, rsqrt=jax.lax.rsqrt, stop_gradient=lambda value: value)
    patch.setattr(ivfast_jax.model, "lax", passing)


def one_sided_use(patch: pytest.MonkeyPatch) -> None:
    both = ivfast_torch.step.mean_use

    def of_one(log_p: Any, _: Any, valid: Any, seen: Any = None) -> Any:
        return both(log_p, log_p, valid, seen)

    patch.setattr(ivfast_torch.step, "mean_use", of_one)


def constant(module: Any, name: str, value: Any) -> Plant:
    return lambda patch: patch.setattr(module, name, value)


by_forward = (comparisons.forward, comparisons.every_intermediate, comparisons.loss, comparisons.gradients)
by_loss = by_forward[1:]
by_steps = (comparisons.epoch_of_steps,)

FAULTS = [
    Fault("LayerNorm epsilon of Flax in JAX", constant(ivfast_jax.model, "LAYER_EPSILON", 1e-6), by_forward),
    Fault("LayerNorm epsilon in torch", constant(ivfast_torch.model, "LAYER_EPSILON", 1e-6), by_forward),
    Fault("tanh GELU of Flax in JAX", jax_gelu, by_forward),
    Fault("tanh GELU in torch", torch_gelu, by_forward),
    Fault("m updated before in JAX", partial(early_use, JAX, jax.lax.stop_gradient), by_loss),
    Fault("m updated before in torch", partial(early_use, TORCH, torch.Tensor.detach), (*by_loss, *by_steps)),
    Fault("dropped last batch in JAX", partial(dropped_batch, JAX), by_steps),
    Fault("dropped last batch in torch", partial(dropped_batch, TORCH), by_steps),
    Fault("gradient through delta in JAX", gradient_through_delta, (comparisons.gradients,)),
    Fault("m of one side in torch", one_sided_use, (comparisons.every_intermediate, *by_steps)),
    Fault("other weight of the net's loss in torch", constant(ivfast_torch.step, "NET_WEIGHT", 0.31), by_loss[1:]),
    Fault("other Adam epsilon in torch", constant(ivfast_torch.optimizer, "EPSILON", 1e-7), by_steps),
    Fault("one learning rate for all in torch", constant(ivfast_torch.optimizer, "DEEP_SHARE", 1), by_steps),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(CASE)
    fault.plant(monkeypatch)
    for comparison in fault.caught_by:
        with pytest.raises(DifferenceError):
            comparison(problem, comparisons.FLOAT64)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_a_fault_in_both_twins_is_caught_by_numpy(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(CASE)
    for each in TWINS:
        monkeypatch.setattr(each.model, "MOVE", 15.0)
    comparisons.every_intermediate(problem, comparisons.FLOAT64)
    for comparison in (comparisons.forward_by_numpy, comparisons.loss_by_numpy, comparisons.gradients_by_numpy):
        with pytest.raises(DifferenceError):
            comparison(problem, twin, comparisons.SLOPES)
