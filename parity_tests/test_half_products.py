"""One half product in both backends, held to float64: what enters, what is accumulated, what is rounded."""

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from parity_tests.cases import HALF, MODES
from parity_tests.twins import TORCH, TWINS, Twin, to_numpy

pytestmark = pytest.mark.parity

each_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
EXACT: dict[str, Any] = {"xla_allow_excess_precision": False}  # as the backend compiles a chunk

# Of a float32 sum of n products, as a share of sqrt(n) 2^-24 times the sum of their magnitudes.
ACCUMULATION = 2.0  # largest seen: 0.86, of 40 products; a half accumulator is hundreds off


def products(twin: Twin, x: Any, weight: Any, gradient: Any, policy: Any, result: Any) -> list[np.ndarray]:
    """x @ weight, and the gradient by both, compiled as the backends compile."""
    product = twin.precision.product
    if twin is TORCH:
        x.requires_grad_()
        weight.requires_grad_()
        y = product(x, weight, policy, result)
        return [to_numpy(value) for value in (y, *torch.autograd.grad(y, [x, weight], gradient))]

    def both(x: Any, weight: Any, gradient: Any) -> Any:
        y, back = jax.vjp(lambda x, weight: product(x, weight, policy, result), x, weight)
        return y, *back(gradient)

    compiled = jax.jit(both, compiler_options=EXACT)
    return [to_numpy(value) for value in compiled(x, weight, gradient)]


def given(twin: Twin, value: np.ndarray, dtype: Any) -> Any:
    """Rounded by the framework itself, so that overflow warns nobody."""
    wide = twin.array(value, twin.precision.make_policy("float32").stat)
    return wide.to(dtype) if twin is TORCH else wide.astype(dtype)


def check_product(found: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Against float64: float32's accumulation, and half an ulp where the result is of a half type."""
    exact = left @ right
    error = ACCUMULATION * left.shape[1] ** 0.5 * 2.0**-24 * (np.abs(left) @ np.abs(right))
    if found.dtype != np.float32:
        info = ml_dtypes.finfo(found.dtype)
        error += float(info.eps) / 2 * (np.abs(exact) + error) + float(info.smallest_subnormal) / 2
    assert (np.abs(found.astype(np.float64) - exact) <= error).all()


@each_twin
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("entered", ["stat", "activation"])
def test_products_round_what_enters_and_accumulate_in_float32(mode: str, entered: str, twin: Twin) -> None:
    """entered: the type of x: the first layer's and the linear path's, or a hidden layer's."""
    policy = twin.precision.make_policy(mode)
    half = HALF[mode.split("-")[1]]
    rng = np.random.default_rng(3)
    drawn = [rng.standard_normal(shape).astype(np.float32) for shape in ((1500, 700), (700, 40), (1500, 40))]
    x, weight = given(twin, drawn[0], getattr(policy, entered)), given(twin, drawn[1], policy.stat)
    gradient = given(twin, drawn[2], policy.activation)
    wide = [value.astype(half).astype(np.float64) for value in drawn]
    y, to_x, to_weight = products(twin, x, weight, gradient, policy, policy.activation)
    result = {"O1": np.float32, "O2": half}[mode[:2]]
    assert y.dtype == result
    assert to_x.dtype == (result if entered == "activation" else np.float32)
    assert to_weight.dtype == np.float32
    check_product(y, wide[0], wide[1])
    check_product(to_x, wide[2], wide[1].T)
    check_product(to_weight, wide[0].T, wide[2])


@each_twin
@pytest.mark.parametrize("mode", MODES)
def test_products_of_blocks_are_one_product_a_block(mode: str, twin: Twin) -> None:
    policy = twin.precision.make_policy(mode)
    half = HALF[mode.split("-")[1]]
    rng = np.random.default_rng(4)
    drawn = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 64, 256), (3, 256, 40), (3, 64, 40))]
    x, weight = (given(twin, value, policy.stat) for value in drawn[:2])
    gradient = given(twin, drawn[2], policy.activation)
    y, to_x, to_weight = products(twin, x, weight, gradient, policy, policy.activation)
    assert y.dtype == {"O1": np.float32, "O2": half}[mode[:2]]
    assert to_x.dtype == to_weight.dtype == np.float32
    for at in range(3):
        wide = [value[at].astype(half).astype(np.float64) for value in drawn]
        check_product(y[at], wide[0], wide[1])
        check_product(to_x[at], wide[2], wide[1].T)
        check_product(to_weight[at], wide[0].T, wide[2])


@each_twin
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_distances_are_those_of_the_rounded_vectors(metric: str, mode: str, twin: Twin) -> None:
    """Compiled as the backends compile: a compiler may not leave a rounding out. Else whole buckets move."""
    policy = twin.precision.make_policy(mode)
    rng = np.random.default_rng(6)
    x, c = (rng.standard_normal((n, 256)) for n in (300, 50))
    x, c = ((v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (x, c))
    rounded = [v.astype(HALF[mode.split("-")[1]]).astype(np.float64) for v in (x, c)]
    exact = np.square(rounded[0][:, None] - rounded[1]).sum(axis=2)

    def distances(x: Any, c: Any) -> Any:
        return twin.model.squared_distances(x, c, metric, policy)

    compiled = distances if twin is TORCH else jax.jit(distances, compiler_options=EXACT)
    found = to_numpy(compiled(given(twin, x, policy.stat), given(twin, c, policy.stat)))
    # 1e-6: 256 float32 products; 5e-7 seen. bfloat16's rounding left out: 2e-3
    assert np.abs(found - exact).max() <= 1e-6


@each_twin
@pytest.mark.parametrize("mode", ["O1-float16", "O2-float16"])
def test_subnormal_float16_is_not_flushed_to_zero(mode: str, twin: Twin) -> None:
    policy = twin.precision.make_policy(mode)
    tiny = np.arange(1, 1025, dtype=np.float32)[:, None] * np.float32(2.0**-24)  # up to the least normal number
    one = np.ones((1, 1), np.float32)
    found = products(
        twin, given(twin, tiny, policy.stat), given(twin, one, policy.stat), given(twin, tiny, policy.activation),
        policy, policy.activation,
    )  # fmt: skip
    for value, exact in zip(found, (tiny, tiny, np.square(tiny.astype(np.float64)).sum(keepdims=True)), strict=True):
        # 1e-5: the order of a float32 sum of 1,024 squares, 1.1e-6 seen; the others are exact
        np.testing.assert_allclose(value.astype(np.float64), exact, rtol=1e-5 if exact.size == 1 else 0)


@each_twin
@pytest.mark.parametrize(("mode", "enters", "leaves"), [
    ("O1-float16", [np.inf, np.inf], [90_000.0, 65_280.0]),
    ("O2-float16", [np.inf, np.inf], [np.inf, 65_280.0]),
    ("O1-bfloat16", [65_536.0, 70_144.0], [90_000.0, 65_280.0]),  # 2^16 and the nearest of 8 bits
    ("O2-bfloat16", [65_536.0, 70_144.0], [90_112.0, 65_280.0]),
])  # fmt: skip
def test_float16_overflows_above_65504_and_bfloat16_does_not(
    mode: str, enters: list[float], leaves: list[float], twin: Twin
) -> None:
    policy = twin.precision.make_policy(mode)

    def multiply(x: list[float], weight: float) -> np.ndarray:
        column, one = (np.array(value, np.float32).reshape(-1, 1) for value in (x, weight))
        args = (given(twin, column, policy.stat), given(twin, one, policy.stat), given(twin, column, policy.activation))
        return products(twin, *args, policy, policy.activation)[0][:, 0].astype(np.float64)

    assert multiply([65_520.0, 7e4], 1.0).tolist() == enters
    assert multiply([300.0], 300.0).tolist() == leaves[:1]
    assert multiply([255.0], 256.0).tolist() == leaves[1:]
