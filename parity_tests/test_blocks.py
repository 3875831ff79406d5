"""Steps in blocks: both backends against each other, against NumPy, and against the step that sees all buckets."""

from typing import Any

import numpy as np
import pytest

from ivfast.network.backend import Blocks, Chunk, Goal
from ivfast.start.cells import Cells, place_in_line
from parity_tests import reference_blocks as reference
from parity_tests.cases import BATCH, GOAL, NLIST, Case, Problem, make_problem
from parity_tests.comparator import compare
from parity_tests.twins import JAX, TORCH, TWINS, Arrays, Twin, to_numpy

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("x64")]

FLOAT64 = 1e-11  # largest gap seen: 2e-13
SLOPES = 1e-8  # as in comparisons
BLOCKS = Blocks(pairs=8, seen=10, listed=6)
CASES = [Case(metric, deep, drop=True) for metric in ("IP", "L2") for deep in (False, True)]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)


def make_blocks(case: Case, blocks: Blocks = BLOCKS, batch: int = BATCH - 3) -> Problem:
    """A problem whose steps go in blocks. Batches are no multiple of a block."""
    problem = make_problem(case)
    start, rows = problem.setup.start, problem.source.learn.points.x(slice(None))
    nearest = np.square(rows[:, None] - start).sum(axis=2).argsort(axis=1)[:, :3].astype(np.int32)
    source = problem.source._replace(
        batch_size=batch, cells=Cells(nearest, place_in_line(start)), block_pairs=blocks.pairs
    )
    lists = reference.nearest_buckets(problem, blocks.listed)
    state = problem.state | {"blocks/lists": lists.astype(np.int32)}
    return problem._replace(setup=problem.setup._replace(blocks=blocks), state=state, source=source)


def short_step(problem: Problem) -> Chunk:
    """The last step of an epoch: its last blocks hold padding alone."""
    chunk = problem.chunks(1)[-1]
    at = int(np.flatnonzero(chunk.valid.any(axis=1))[-1])
    assert chunk.cells is not None
    return Chunk(chunk.x[at], chunk.x_pair[at], chunk.valid[at], chunk.cells[at])


def loss_and_gradients(twin: Twin, problem: Problem, step: Chunk, precision: str = "float64") -> Arrays:
    """Buckets seen, total and parts of the loss, mean_p, and the gradient of the total by the weights' names."""
    backend = twin.package.make_backend(problem.setup, -1, precision)
    blocks, stat = problem.setup.blocks, backend.policy.stat
    assert blocks is not None

    def arrays(group: str) -> dict[str, Any]:
        return {name: twin.array(value, stat) for name, value in problem.group(group).items()}

    types = {"x": stat, "x_pair": stat, "valid": None, "cells": None}
    sides = [twin.array(getattr(step, name), dtype) for name, dtype in types.items()]
    x, x_pair, valid, cells = (twin.package.blocks.in_blocks(rows, blocks.pairs) for rows in sides)
    lists = twin.array(problem.state["blocks/lists"], None)
    seen = twin.package.blocks.vote(lists, cells, valid, blocks.seen)
    goal = Goal(*(twin.array(value, stat) for value in GOAL))
    total, losses, gradients = twin.gradient(
        arrays("params"), twin.array(1, stat), arrays("use"), x, x_pair, valid, goal, backend.network,
        backend.constants, seen,
    )  # fmt: skip
    found = {"seen": seen.buckets, "total": total, "centers": losses.centers, "net": losses.net}
    found |= {f"mean_p.{router}": value for router, value in losses.mean_p.items()}
    found |= {f"gradient.{name}": value for name, value in gradients.items()}
    return {name: to_numpy(value) for name, value in found.items()}


@every_case
def test_buckets_seen_loss_and_gradients_are_the_same(case: Case) -> None:
    problem = make_blocks(case)
    step = short_step(problem)
    compare("blocks", loss_and_gradients(JAX, problem, step), loss_and_gradients(TORCH, problem, step), FLOAT64)


@each_twin
@every_case
def test_buckets_seen_loss_and_use_are_those_of_the_formulas(case: Case, twin: Twin) -> None:
    problem = make_blocks(case)
    step = short_step(problem)
    found = loss_and_gradients(twin, problem, step)
    expected = reference.losses(problem, step)
    compare("blocks", {name: found[name] for name in expected}, expected, FLOAT64)
    assert 0 < (found["mean_p.centers"] > 0).sum() < NLIST  # some are seen by no block


@each_twin
@every_case
def test_gradients_are_slopes_of_the_loss(case: Case, twin: Twin) -> None:
    problem = make_blocks(case)
    step = short_step(problem)
    found = loss_and_gradients(twin, problem, step)
    rng = np.random.default_rng(3)
    for name, value in problem.group("params").items():
        gradient = found[f"gradient.{name}"].ravel()
        likely = np.flatnonzero(gradient)  # of a bucket that nobody sees there is no slope
        places = rng.choice(likely, min(4, len(likely)), replace=False)
        slopes = reference.slopes(problem, step, name, places)
        np.testing.assert_allclose(gradient[places], slopes, rtol=SLOPES, atol=SLOPES * np.abs(value).max())


@each_twin
@every_case
def test_blocks_that_see_all_buckets_are_the_step_without_blocks(case: Case, twin: Twin) -> None:
    problem = make_blocks(case, BLOCKS._replace(seen=NLIST))
    step = short_step(problem)
    found = loss_and_gradients(twin, problem, step)
    dense = twin.package.make_backend(problem.setup._replace(blocks=None), -1, "float64")
    params, use = (
        {name: twin.array(value, dense.policy.stat) for name, value in problem.group(group).items()}
        for group in ("params", "use")
    )
    x, x_pair, scale, *goal = (twin.array(value, dense.policy.stat) for value in (step.x, step.x_pair, 1, *GOAL))
    total, losses, gradients = twin.gradient(
        params, scale, use, x, x_pair, twin.array(step.valid, None), Goal(*goal), dense.network, dense.constants
    )
    expected = {"total": total, "centers": losses.centers, "net": losses.net}
    expected |= {f"mean_p.{router}": value for router, value in losses.mean_p.items()}
    expected |= {f"gradient.{name}": value for name, value in gradients.items()}
    named = {name: to_numpy(value) for name, value in expected.items()}
    compare("all seen", {name: found[name] for name in named}, named, FLOAT64)


@every_case
def test_an_epoch_in_blocks_is_the_same_and_lists_follow_the_centers(case: Case) -> None:
    problem = make_blocks(case)
    ends = []
    for twin in TWINS:
        backend = twin.package.make_backend(problem.setup, -1, "float64")
        state = backend.from_state_dict({name: value.copy() for name, value in problem.state.items()})
        chunks = problem.chunks(2)
        assert [chunk.new_lists for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        for chunk in chunks:
            state, _ = backend.train_chunk(state, chunk, GOAL)
        before = backend.state_dict(state)
        again = chunks[0]._replace(valid=np.zeros_like(chunks[0].valid))  # nothing moves, lists are made anew
        ends.append(backend.state_dict(backend.train_chunk(state, again, GOAL)[0]))
        np.testing.assert_array_equal(before["blocks/lists"], problem.state["blocks/lists"])
        moved = problem._replace(state=ends[-1])
        np.testing.assert_array_equal(ends[-1]["blocks/lists"], reference.nearest_buckets(moved, BLOCKS.listed))
    assert (ends[0]["blocks/lists"] != problem.state["blocks/lists"]).any()
    compare("state", ends[0], ends[1], FLOAT64)


@each_twin
def test_half_types_make_no_difference_of_how_many_blocks_there_are(twin: Twin) -> None:
    """Every bucket seen: the same numbers are rounded, sums in another order now and then to the other side."""
    case, mode = CASES[3], "O2-float16"
    problem = make_blocks(case, BLOCKS._replace(seen=NLIST))
    step = short_step(problem)
    one_block = make_blocks(case, Blocks(len(step.valid), NLIST, BLOCKS.listed))
    found, expected = (loss_and_gradients(twin, each, step, mode) for each in (problem, one_block))
    for name in expected.keys() - {"seen"}:
        most = np.abs(expected[name]).max()
        off = np.abs(found[name] - expected[name]).max()
        assert off <= 2e-3 * most, name  # seen: 6e-4


@each_twin
def test_most_takes_the_largest_and_of_ties_the_smaller(twin: Twin) -> None:
    rng = np.random.default_rng(4)
    votes = rng.integers(0, 9, (60, 40)).astype(np.int32)
    votes[0], votes[1, 5:] = 0, 0
    votes[2] = 8
    for n in (1, 7, 39, 40):
        found = to_numpy(twin.package.blocks.most(twin.array(votes, None), n, 8))
        expected = np.sort(np.argsort(-votes, axis=1, kind="stable")[:, :n], axis=1)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
