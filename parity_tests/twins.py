"""One way of calling both backends: the same numpy input, the same named numpy output."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax.traverse_util import unflatten_dict
from torch.func import functional_call

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
    """A backend, and the three things that frameworks spell differently."""

    name: str
    package: Any
    model: Any
    step: Any
    precision: Any
    array: Callable[..., Any]  # numpy -> the framework's own, of a policy's type
    layers: Callable[..., tuple[Any, dict[str, Any]]]  # the network's two results, and every layer's
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
    named = {"centers": c, "d2": twin.model.squared_distances(x, c, metric, policy)}
    (z, deep), layers = twin.layers(backend.network, params, x, constants)
    named |= layers | {"z": z} | ({} if deep is None else {"deep": deep})
    both = twin.step.net_logits(z, deep, twin.array(GOAL.k, policy.stat))
    for router, logits in zip(use, both, strict=False):
        log_p = twin.step.log_membership(logits)
        sides = log_p[: len(batch.x)], log_p[len(batch.x) :]
        mean_p = twin.step.mean_use(*sides, valid)
        found = {
            "log_p": log_p,
            "meet": twin.step.meet(*sides, use[router], valid),
            "probing": twin.step.probing(logits[: len(batch.x)], sides[1], use[router], valid, *goal),
            "back": twin.step.probing(logits[len(batch.x) :], sides[0], use[router], valid, *goal),
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
        params, use, x, x_pair, twin.array(batch.valid, None), Goal(*goal), scale, backend.network, backend.constants
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


def _jax_layers(network: Any, params: dict[str, Any], x: Any, constants: Any) -> tuple[Any, dict[str, Any]]:
    named: dict[str, Any] = {}

    def keep(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.name:
            _keep(named, context.module.name, args[0], result)
        return result

    with nn.intercept_methods(keep):
        return network.apply({"params": unflatten_dict(params, sep=".")}, x, constants), named


def _torch_layers(network: Any, params: dict[str, Any], x: Any, constants: Any) -> tuple[Any, dict[str, Any]]:
    named: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _, args, result, name=name: _keep(named, name, args[0], result))
        for name, module in network.named_children()
    ]
    try:
        return functional_call(network, params, (x, constants)), named
    finally:
        for hook in hooks:
            hook.remove()


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
    lambda value, dtype: jnp.asarray(value, dtype=dtype), _jax_layers, _jax_gradient,
)  # fmt: skip
TORCH = Twin(
    "torch", ivfast_torch, ivfast_torch.model, ivfast_torch.step, ivfast_torch.precision,
    lambda value, dtype: torch.tensor(value, dtype=dtype), _torch_layers, _torch_gradient,
)  # fmt: skip
TWINS = (JAX, TORCH)
