"""Mixed precision: one policy and one loss scale, in both backends."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ivfast_torch.precision
from ivfast.network.backend import Chunk, Goal
from parity_tests.cases import CHUNK_STEPS, GOAL, HALF, MODES, Case, Problem, make_problem
from parity_tests.comparator import compare
from parity_tests.comparisons import FLOAT64, short_batch
from parity_tests.twins import (
    JAX,
    TORCH,
    TWINS,
    Arrays,
    Twin,
    after_chunks,
    intermediates,
    loss_and_gradients,
    to_numpy,
)

pytestmark = pytest.mark.parity

each_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
HALF_STEPS = 1e-3  # largest gap seen: 1.7e-4; float32 sums of another order round to another half now and then

STAT = (
    *("centers", "d2", "z", "deep", "standardised", "layers_0", "layers_1", "layers_2", "norms_0", "norms_1"),
    *(
        f"{router}.{name}"
        for router in ("centers", "net")
        for name in ("log_p", "meet", "search_cost", "back", "mean_p", "next_use")
    ),
)
ACTIVATIONS = ("gelus_0", "gelus_1")


def float32_problem(metric: str = "IP") -> Problem:
    """A deep one, its state as a run has it."""
    problem = make_problem(Case(metric, deep=True, drop=False))
    state = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in problem.state.items()}
    return problem._replace(state=state)


@each_twin
@pytest.mark.parametrize("mode", ["float32", "O1-bfloat16", "O2-float16"])
def test_every_intermediate_is_of_the_policy_s_type(mode: str, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    half = HALF.get(mode.split("-")[-1], np.float32)
    activation = half if mode.startswith("O2") else np.float32
    results: list[Any] = []
    whole = twin.model.product

    def watched(*args: Any) -> Any:
        results.append(to_numpy(whole(*args)).dtype)
        return whole(*args)

    problem = float32_problem()
    with monkeypatch.context() as patch:
        patch.setattr(twin.model, "product", watched)
        found = {name: value.dtype for name, value in intermediates(twin, problem, short_batch(problem), mode).items()}
    assert found == dict.fromkeys(STAT, np.float32) | dict.fromkeys(ACTIVATIONS, activation)
    assert results == [np.float32, np.float32, activation, activation, activation]  # d2 twice, then three layers
    if twin is TORCH:  # JAX gives a gradient the type of its weight, or fails; its eager gradient takes 3 s
        gradients = loss_and_gradients(twin, problem, short_batch(problem), mode)[1]
        assert {value.dtype for value in gradients.values()} == {np.dtype(np.float32)}
    state, _ = after_chunks(twin, problem, problem.chunks(2), mode)
    whole_numbers = {"step", "scale/good_steps", "scale/n_skipped", "scale/n_in_a_row"}
    assert {name: v.dtype for name, v in state.items()} == {
        name: np.dtype(np.int32 if name in whole_numbers else np.float32) for name in problem.state
    }


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a jaxpr and of all within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


CARRIERS = {"custom_vjp_call", "jit", "pjit", "cond", "scan"}  # their contents are looked at


@pytest.mark.parametrize("mode", ["float32", *MODES])
def test_every_product_of_the_compiled_step_is_half_and_nothing_else_computes_in_half(mode: str) -> None:
    problem = float32_problem()
    backend = JAX.backend(problem, mode)
    state = backend.from_state_dict(problem.state)
    chunk = problem.chunks(2)[0]
    rows, goal = (chunk.x, chunk.x_pair, chunk.valid), Goal(*map(np.float32, GOAL))
    jaxpr = backend._chunk.trace(state, *rows, goal, constants=backend.constants).jaxpr
    half = np.dtype(HALF.get(mode.split("-")[-1], np.float32))
    n_products = 0
    for equation in equations(jaxpr):
        types = [v.aval.dtype for v in (*equation.invars, *equation.outvars) if hasattr(v.aval, "dtype")]
        assert np.float64 not in types
        if equation.primitive.name == "dot_general":
            n_products += 1
            assert types[:2] == [half, half]
            assert equation.params["preferred_element_type"] == np.float32
            assert types[2] == np.float32
        elif half != np.float32 and half in types and equation.primitive.name not in CARRIERS:
            assert equation.primitive.name in {"convert_element_type", "transpose"}
    # 4 forward; backward 6, and two by x itself that XLA leaves out where a half product states both
    assert n_products == (10 if mode == "float32" else 12)


@pytest.mark.parametrize(
    ("mode", "metric"), [("O1-float16", "L2"), ("O1-bfloat16", "IP"), ("O2-float16", "IP"), ("O2-bfloat16", "L2")]
)
def test_an_epoch_of_half_steps_is_the_same_in_both_backends(mode: str, metric: str) -> None:
    problem = float32_problem(metric)
    states = [after_chunks(twin, problem, problem.chunks(2), mode)[0] for twin in TWINS]
    compare("state", states[0], states[1], HALF_STEPS)


class HalfOperations(TorchDispatchMode):
    """Counts torch's operations that read or write a half type."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        values = [v for v in (*args, result) if isinstance(v, torch.Tensor)]
        if any(value.dtype in (torch.float16, torch.bfloat16) for value in values):
            self.seen[func.overloadpacket.__name__] += 1
        return result


@pytest.mark.parametrize("mode", MODES)
def test_torch_multiplies_halves_and_does_nothing_else_in_half(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = float32_problem()
    multiply, seen = ivfast_torch.precision._multiply, []
    half = ivfast_torch.precision.make_policy(mode).product

    def watched(left: torch.Tensor, right: torch.Tensor, policy: Any, result: torch.dtype) -> torch.Tensor:
        seen.append({left.dtype, right.dtype})
        return multiply(left, right, policy, result)

    monkeypatch.setattr(ivfast_torch.precision, "_multiply", watched)
    with HalfOperations() as operations:
        loss_and_gradients(TORCH, problem, short_batch(problem), mode)
    assert seen == [{half}] * 10  # 4 forward, 6 backward: none by x
    assert operations.seen.keys() <= {"_to_copy", "mm", "t", "transpose", "permute", "detach", "view"}, operations.seen


def rule(finites: list[bool], value: float, interval: int = 2000) -> list[tuple[float, int, int, int]]:
    """The loss scale of docs/guide.md in plain Python: value, good steps, skipped, skipped in a row after each step."""
    good = skipped = in_a_row = 0
    seen = []
    for finite in finites:
        good, in_a_row = (good + 1, 0) if finite else (0, in_a_row + 1)
        skipped += not finite
        if good == interval:
            value, good = min(value * 2, 2.0**24), 0
        if not finite:
            value = max(value / 2, 1.0)
        seen.append((value, good, skipped, in_a_row))
    return seen


def by_jax(finites: list[bool], start: float, interval: int = 2000) -> list[tuple[float, ...]]:
    policy = JAX.precision.make_policy("O2-float16")._replace(growth_interval=interval)

    def one(scale: Any, finite: Any) -> tuple[Any, Any]:
        after = JAX.precision.next_scale(scale, finite, policy)
        return after, after

    seen = jax.lax.scan(one, JAX.precision.init_scale(start, policy), jnp.asarray(finites))[1]
    return list(zip(*(part.tolist() for part in seen), strict=True))


def by_torch(finites: list[bool], start: float, interval: int = 2000) -> list[tuple[float, ...]]:
    policy = TORCH.precision.make_policy("O2-float16")._replace(growth_interval=interval)
    scale, seen = TORCH.precision.init_scale(start, policy), []
    for finite in torch.tensor(finites):
        scale = TORCH.precision.next_scale(scale, finite, policy)
        seen.append(tuple(part.item() for part in scale))
    return seen


def test_loss_scale_follows_the_rule_to_both_bounds() -> None:
    rng = np.random.default_rng(4)
    finites = [True] * 1999 + [False] + [True] * 2000 + [False] * 2  # one short of doubling, then just so
    finites += [True] * 8001  # to the upper bound, and into it
    finites += [False] * 27 + [True, False, True]  # to the lower bound, and into it
    finites += (rng.random(500) < 0.9).tolist()
    expected = rule(finites, 2.0**22)
    assert {value for value, *_ in expected} == {2.0**i for i in range(25)}
    assert by_jax(finites, 2.0**22) == expected
    assert by_torch(finites, 2.0**22) == expected


def test_loss_scale_of_a_short_run_grows_back_by_the_same_rule() -> None:
    finites = [False] * 10 + [True] * 44 + [False] + [True] * 14 + [False] + [True] * 229
    expected = rule(finites, 2.0**24, 15)
    assert expected[9][0] == 2.0**14
    assert expected[-1][0] == 2.0**24
    assert by_jax(finites, 2.0**24, 15) == expected
    assert by_torch(finites, 2.0**24, 15) == expected


def planted(problem: Problem, places: tuple[int, ...], value: float | None) -> list[Chunk]:
    """Two epochs, some of whose steps are multiplied by a value, or left out (None)."""
    chunks = [*problem.chunks(2), *problem.chunks(3)]
    for place in places:
        chunk, at = chunks[place // CHUNK_STEPS], place % CHUNK_STEPS
        if value is None:
            chunk.valid[at] = False
        else:
            chunk.x[at] *= np.float32(value)
    return chunks


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_skips_leave_both_backends_the_same_state_as_if_they_had_not_been(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem(Case(metric, deep=True, drop=False))
    scripted = (1, 2, 4, 8, 13)  # of 16 places, of which 6, 7, 14 and 15 are padding
    states: dict[tuple[str, float | None], Arrays] = {}
    for twin in TWINS:
        plain = twin.precision.make_policy("float64")
        monkeypatch.setattr(twin.package, "make_policy", lambda _, plain=plain: plain._replace(scaled=True))
        backend = twin.package.make_backend(problem.setup, -1, "float64")
        for value in (np.nan, None):
            state = backend.from_state_dict({name: array.copy() for name, array in problem.state.items()})
            n_skipped = 0
            for chunk in planted(problem, scripted, value):
                state, metrics = backend.train_chunk(state, chunk, GOAL)
                n_skipped += int(metrics.n_skipped)
            assert n_skipped == (5 if value else 0)
            states[twin.name, value] = backend.state_dict(state)
        skipping, without = (states[twin.name, value] for value in (np.nan, None))
        assert skipping.pop("scale/value") == 1  # 8, then 5 times half, but at least 1
        assert skipping["step"] == without["step"] == problem.state["step"] + 12 - 5
        for name in without.keys() - {f"scale/{key}" for key in ("value", "good_steps", "n_skipped", "n_in_a_row")}:
            np.testing.assert_array_equal(skipping[name], without[name], err_msg=name)
    compare("state", states["jax", np.nan], states["torch", np.nan], FLOAT64)
