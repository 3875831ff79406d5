"""One way of calling both backends: the same numpy input, the same named numpy output."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import ivfast_jax
import ivfast_jax.model
import ivfast_jax.precision
import ivfast_jax.step
import ivfast_torch
import ivfast_torch.model
import ivfast_torch.precision
import ivfast_torch.step
from ivfast.network.backend import Chunk, Goal, Metrics
from parity_tests.cases import GOAL, Case, Problem, make_problem

Arrays = dict[str, np.ndarray]


class Batch(NamedTuple):
    """One step of a chunk."""

    x: np.ndarray  # (batch, dim)
    x_pair: np.ndarray
    valid: np.ndarray  # (batch,) bool


class Twin(NamedTuple):
    """A backend, and the two things that frameworks spell differently."""

    name: str
    package: Any
    model: Any
    step: Any
    precision: Any
    array: Callable[..., Any]  # numpy -> the framework's own, of a policy's type
    gradient: Callable[..., tuple[Any, Any, dict[str, Any]]]  # total, Losses, gradients by name

    def backend(self, problem: Problem, precision: str) -> Any:
        """On the CPU. Kept, since compiling is most of the time: cases differ in nothing else."""
        return _backend(self, problem.case.metric, problem.case.deep, precision)


@cache
def _backend(twin: Twin, metric: str, deep: bool, precision: str) -> Any:
    setup = make_problem(Case(metric, deep, drop=False)).setup  # dropping touches no setup
    return twin.package.make_backend(setup, gpu=-1, precision=precision)


def intermediates(twin: Twin, problem: Problem, batch: Batch, precision: str) -> Arrays:
    """Every named value between a batch and its loss."""
    backend = twin.backend(problem, precision)
    metric, constants, policy = problem.setup.metric, backend.constants, backend.policy
    params, use = (_arrays(twin, problem.group(group), policy) for group in ("params", "use"))
    x = twin.array(np.concatenate([batch.x, batch.x_pair]), policy.stat)
    valid = twin.array(batch.valid, None)
    goal = [twin.array(value, policy.stat) for value in (GOAL.nprobe, GOAL.slope)]
    c = twin.model.centers(params["u"], constants, metric)
    z = twin.model.center_logits(x, c, constants.delta_floor, metric, policy)
    named = {"centers": c, "d2": twin.model.squared_distances(x, c, metric, policy), "z": z}
    deep, layers = watched_layers(twin, params, x, constants, policy)
    named |= layers | ({} if deep is None else {"deep": deep})
    both = twin.step.net_logits(z, deep, twin.array(GOAL.k, policy.stat))
    for router, logits in zip(use, both, strict=False):
        log_p = twin.step.log_membership(logits)
        sides = log_p[: len(batch.x)], log_p[len(batch.x) :]
        mean_p = twin.step.mean_use(*sides, valid)
        found = {
            "log_p": log_p,
            "meet": twin.step.meet(*sides, use[router], valid),
            "search_cost": twin.step.search_cost(logits[: len(batch.x)], sides[1], use[router], valid, *goal),
            "back": twin.step.search_cost(logits[len(batch.x) :], sides[0], use[router], valid, *goal),
            "mean_p": mean_p,
            "next_use": twin.step.next_use(use[router], mean_p, constants.use_rate),
        }
        named |= {f"{router}.{name}": value for name, value in found.items()}
    return {name: to_numpy(value) for name, value in named.items()}


def logits(twin: Twin, problem: Problem, batch: Batch, precision: str) -> Arrays:
    """What forward says of a batch, by router."""
    backend = twin.backend(problem, precision)
    params = _arrays(twin, problem.group("params"), backend.policy)
    x, k = (twin.array(value, backend.policy.stat) for value in (batch.x, GOAL.k))
    found = twin.step.forward(backend.network, params, x, backend.constants, k)
    return {router: to_numpy(z) for router, z in found.items()}


def loss_and_gradients(twin: Twin, problem: Problem, batch: Batch, precision: str) -> tuple[Arrays, Arrays]:
    """Total and parts of the loss, and the gradient of the total by the weights' names."""
    backend = twin.backend(problem, precision)
    params, use = (_arrays(twin, problem.group(group), backend.policy) for group in ("params", "use"))
    x, x_pair, scale, *goal = (twin.array(value, backend.policy.stat) for value in (batch.x, batch.x_pair, 1, *GOAL))
    total, parts, gradients = twin.gradient(
        params, scale, use, x, x_pair, twin.array(batch.valid, None), Goal(*goal), backend.network, backend.constants
    )
    losses = {"total": total, "centers": parts.centers, "net": parts.net}
    return _numpy(losses), _numpy(gradients)


def after_chunks(twin: Twin, problem: Problem, chunks: Iterable[Chunk], precision: str) -> tuple[Arrays, Arrays]:
    """The state after training steps, and the sums of the steps' metrics."""
    backend = twin.backend(problem, precision)
    state = backend.from_state_dict({name: value.copy() for name, value in problem.state.items()})
    sums = np.zeros(len(Metrics._fields))
    for chunk in chunks:
        state, metrics = backend.train_chunk(state, chunk, GOAL)
        sums += [float(value) for value in metrics]
    return backend.state_dict(state), dict(zip(Metrics._fields, map(np.array, sums), strict=True))


def to_numpy(value: Any) -> np.ndarray:
    """An array of either framework, copied, of the same type."""
    if not isinstance(value, torch.Tensor):
        return np.array(value)
    if value.dtype == torch.bfloat16:  # torch knows no NumPy type for it
        return value.detach().view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
    return value.detach().numpy().copy()


def _numpy(values: dict[str, Any]) -> Arrays:
    return {name: to_numpy(value) for name, value in values.items()}


def _arrays(twin: Twin, values: Arrays, policy: Any) -> dict[str, Any]:
    return {name: twin.array(value, policy.stat) for name, value in values.items()}


def watched_layers(twin: Twin, params: dict[str, Any], x: Any, constants: Any, policy: Any) -> tuple[Any, dict]:
    """What the deep path adds, and every layer's result on the way."""
    named: dict[str, Any] = {}

    def watched(layer: Callable[..., Any]) -> Callable[..., Any]:
        def keep(params: dict[str, Any], name: str, entered: Any, *policy: Any) -> Any:
            result = layer(params, name, entered, *policy)
            _keep(named, name, entered, result)
            return result

        return keep

    with pytest.MonkeyPatch.context() as patch:
        for layer in ("dense", "layer_norm"):
            patch.setattr(twin.model, layer, watched(getattr(twin.model, layer)))
        return twin.model.deep(params, x, constants, policy), named


def _keep(named: dict[str, Any], layer: str, entered: Any, result: Any) -> None:
    """A layer's result, and what enters a Dense: the standardised x, or the GELU before it."""
    kind, _, place = layer.partition("_")
    if kind == "layers":
        named["standardised" if place == "0" else f"gelus_{int(place) - 1}"] = entered
    named[layer] = result


def _jax_gradient(*batch: Any) -> tuple[Any, Any, dict[str, Any]]:
    (total, losses), gradients = jax.value_and_grad(ivfast_jax.step.batch_loss, has_aux=True)(*batch)
    return total, losses, gradients


def _torch_gradient(params: dict[str, Any], *batch: Any) -> tuple[Any, Any, dict[str, Any]]:
    for value in params.values():
        value.requires_grad_()
    total, losses = ivfast_torch.step.batch_loss(params, *batch)
    gradients = torch.autograd.grad(total, list(params.values()))
    return total, losses, dict(zip(params, gradients, strict=True))


JAX = Twin(
    "jax", ivfast_jax, ivfast_jax.model, ivfast_jax.step, ivfast_jax.precision,
    lambda value, dtype: jnp.asarray(value, dtype=dtype), _jax_gradient,
)  # fmt: skip
TORCH = Twin(
    "torch", ivfast_torch, ivfast_torch.model, ivfast_torch.step, ivfast_torch.precision,
    lambda value, dtype: torch.tensor(value, dtype=dtype), _torch_gradient,
)  # fmt: skip
TWINS = (JAX, TORCH)
