"""One training step and a few, in float64: both backends against each other and against NumPy."""

import numpy as np
import pytest

from parity_tests import comparisons
from parity_tests.cases import CASES, Case, make_problem
from parity_tests.comparator import Table
from parity_tests.twins import JAX, TORCH, TWINS, Twin, to_numpy

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("x64")]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)


@every_case
def test_forward_is_the_same(case: Case, table: Table) -> None:
    problem = make_problem(case)
    table.check("forward", case, "float64", comparisons.FLOAT64, lambda limit: comparisons.forward(problem, limit))


@every_case
def test_every_named_intermediate_is_the_same(case: Case, table: Table) -> None:
    problem = make_problem(case)
    table.check(
        "intermediates",
        case,
        "float64",
        comparisons.FLOAT64,
        lambda limit: comparisons.every_intermediate(problem, limit),
    )


@every_case
def test_loss_is_the_same(case: Case, table: Table) -> None:
    problem = make_problem(case)
    table.check("loss", case, "float64", comparisons.FLOAT64, lambda limit: comparisons.loss(problem, limit))


@every_case
def test_every_gradient_is_the_same(case: Case, table: Table) -> None:
    problem = make_problem(case)
    table.check("gradients", case, "float64", comparisons.FLOAT64, lambda limit: comparisons.gradients(problem, limit))


@every_case
def test_an_epoch_with_a_short_batch_and_padded_steps_is_the_same(case: Case, table: Table) -> None:
    problem = make_problem(case)
    table.check(
        "epoch of steps", case, "float64", comparisons.FLOAT64, lambda limit: comparisons.epoch_of_steps(problem, limit)
    )


@every_case
@pytest.mark.parametrize(("first", "second"), [(JAX, TORCH), (TORCH, JAX)], ids=["jax-torch", "torch-jax"])
def test_a_state_written_by_one_is_continued_by_the_other(case: Case, first: Twin, second: Twin, table: Table) -> None:
    problem = make_problem(case)
    what = f"{first.name} state in {second.name}"
    table.check(
        what, case, "float64", comparisons.FLOAT64, lambda limit: comparisons.handed_over(problem, first, second, limit)
    )


@each_twin
@every_case
def test_intermediates_are_those_of_the_formulas(case: Case, twin: Twin, table: Table) -> None:
    problem = make_problem(case)
    what = f"{twin.name} forward by NumPy"
    table.check(
        what, case, "float64", comparisons.FLOAT64, lambda limit: comparisons.forward_by_numpy(problem, twin, limit)
    )


@each_twin
@every_case
def test_loss_is_that_of_the_formulas(case: Case, twin: Twin, table: Table) -> None:
    problem = make_problem(case)
    what = f"{twin.name} loss by NumPy"
    table.check(
        what, case, "float64", comparisons.FLOAT64, lambda limit: comparisons.loss_by_numpy(problem, twin, limit)
    )


@each_twin
@every_case
def test_gradients_are_slopes_of_the_loss(case: Case, twin: Twin, table: Table) -> None:
    problem = make_problem(case)
    what = f"{twin.name} gradients by NumPy"
    table.check(
        what, case, "float64", comparisons.SLOPES, lambda limit: comparisons.gradients_by_numpy(problem, twin, limit)
    )


@each_twin
@every_case
def test_step_is_adam_and_m_afterwards(case: Case, twin: Twin, table: Table) -> None:
    problem = make_problem(case)
    what = f"{twin.name} step by NumPy"
    table.check(
        what, case, "float64", comparisons.FLOAT64, lambda limit: comparisons.step_by_numpy(problem, twin, limit)
    )


@each_twin
@pytest.mark.parametrize("nprobe", [1.0, 4.6, 5.0, 24.0])
def test_border_lies_where_nprobe_buckets_are_above(nprobe: float, twin: Twin) -> None:
    z = np.random.default_rng(2).standard_normal((200, 24)) * 20
    z[0] = 3.0  # all equal
    found = to_numpy(twin.package.loss.border(twin.array(z, None), nprobe))
    off = np.ptp(z, axis=1, keepdims=True) / 2**20
    assert found.shape == (200, 1)
    assert ((z >= found - off).sum(axis=1) >= nprobe).all()
    assert ((z > found + off).sum(axis=1) < nprobe).all()
