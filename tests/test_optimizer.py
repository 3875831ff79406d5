"""Adam of both backends against a float64 Adam by hand, five steps."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch

import ivfast_jax.optimizer
import ivfast_torch.optimizer

RATES = (0.5, 0.1, 0.02, 0.3, 0.01)
SHAPES = {"u": (4, 3), "layers_0.weight": (3, 5), "layers_0.bias": (5,)}
Arrays = dict[str, np.ndarray]


def draw(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def gradients_of(step: int, params: Arrays) -> Arrays:
    """Sizes from 1e-9, where epsilon counts, to 1."""
    return {
        name: value * (1e-9, 1e-8, 1e-6, 1e-3, 1.0)[step] for name, value in draw(100 + step).items() if name in params
    }


def adam_by_hand(params: Arrays, steps: int) -> tuple[Arrays, Arrays, Arrays]:
    """Adam (0.9, 0.999, 1e-8 outside the root), u with lr, the MLP with 0.15 lr."""
    params = {name: value.copy() for name, value in params.items()}
    first, second = ({name: np.zeros_like(value) for name, value in params.items()} for _ in range(2))
    for t in range(steps):
        for name, g in gradients_of(t, params).items():
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            mean = first[name] / (1 - 0.9 ** (t + 1))
            root = np.sqrt(second[name] / (1 - 0.999 ** (t + 1)))
            params[name] -= RATES[t] * (1.0 if name == "u" else 0.15) * mean / (root + 1e-8)
    return params, first, second


def by_jax(params: Arrays, steps: int) -> tuple[Arrays, Arrays, Arrays]:
    with jax.enable_x64(True):  # noqa: FBT003
        held = {name: jax.numpy.asarray(value) for name, value in params.items()}
        moments = ivfast_jax.optimizer.init_moments(held)
        for t in range(steps):
            gradients = {name: jax.numpy.asarray(value) for name, value in gradients_of(t, params).items()}
            lr = jax.numpy.float64(RATES[t])
            held, moments = ivfast_jax.optimizer.adam_step(held, gradients, moments, jax.numpy.int32(t), lr)
        found = ({name: np.asarray(value) for name, value in part.items()} for part in (held, *moments))
        return tuple(found)  # type: ignore[return-value]


def by_torch(params: Arrays, steps: int) -> tuple[Arrays, Arrays, Arrays]:
    held = {name: torch.tensor(value) for name, value in params.items()}
    moments = ivfast_torch.optimizer.init_moments(held)
    for t in range(steps):
        gradients = {name: torch.tensor(value) for name, value in gradients_of(t, params).items()}
        step, lr = torch.tensor(t, dtype=torch.int32), torch.tensor(RATES[t], dtype=torch.float64)
        held, moments = ivfast_torch.optimizer.adam_step(held, gradients, moments, step, lr)
    found = ({name: value.numpy() for name, value in part.items()} for part in (held, *moments))
    return tuple(found)  # type: ignore[return-value]


@pytest.fixture(params=[by_jax, by_torch], ids=["jax", "torch"])
def run(request: pytest.FixtureRequest) -> Callable[[Arrays, int], tuple[Arrays, Arrays, Arrays]]:
    return request.param


@pytest.mark.parametrize("steps", [1, 5])
def test_adam_step_is_adam_with_a_share_for_the_deep_path(run: Callable, steps: int):
    found, expected = run(draw(0), steps), adam_by_hand(draw(0), steps)
    for one, two in zip(found, expected, strict=True):
        assert one.keys() == two.keys()
        for name in SHAPES:
            assert one[name].dtype == np.float64
            # float64 in both: the order of operations alone
            np.testing.assert_allclose(one[name], two[name], rtol=1e-10)


def test_centers_alone_have_no_deep_weights(run: Callable):
    (found, _, _), (expected, _, _) = run({"u": draw(0)["u"]}, 5), adam_by_hand(draw(0), 5)
    np.testing.assert_allclose(found["u"], expected["u"], rtol=1e-10)


def test_x64_does_not_leak():
    by_jax(draw(0), 1)
    assert jax.numpy.asarray(np.ones(2)).dtype == np.float32
