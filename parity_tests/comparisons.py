"""What is compared of one training step or a few, as functions of a tolerance. Planted faults meet the same ones."""

from collections.abc import Callable

import numpy as np
from safetensors.numpy import load, save

from ivfast.network.backend import Chunk
from parity_tests import reference
from parity_tests.cases import CHUNK_STEPS, Problem
from parity_tests.comparator import compare
from parity_tests.twins import (
    JAX,
    TORCH,
    Arrays,
    Batch,
    Twin,
    after_chunks,
    intermediates,
    logits,
    loss_and_gradients,
)

PRECISION = "float64"
FLOAT64 = 1e-10  # largest gap seen: 9e-13, of a sum of losses over an epoch; of everything else 3e-14
SLOPES = 1e-8  # largest gap seen: 2e-9, the finite differences' own error
N_ENTRIES = 4  # of each weight whose gradient is checked by finite differences


def short_batch(problem: Problem, epoch: int = 1) -> Batch:
    """The last batch of an epoch: it ends in padding."""
    steps = problem.source.n_steps
    chunks = problem.chunks(epoch)
    chunk, at = chunks[-1], (steps - 1) % len(chunks[0].x)
    return Batch(chunk.x[at], chunk.x_pair[at], chunk.valid[at])


def by_both(compute: Callable[[Twin], Arrays]) -> tuple[Arrays, Arrays]:
    """What JAX computes, and torch."""
    return compute(JAX), compute(TORCH)


def forward(problem: Problem, tolerance: float) -> float:
    """Logits of both routers."""
    batch = short_batch(problem)
    return compare("forward", *by_both(lambda twin: logits(twin, problem, batch, PRECISION)), tolerance)


def every_intermediate(problem: Problem, tolerance: float) -> float:
    """Every named value between a batch and its loss."""
    batch = short_batch(problem)
    return compare("intermediates", *by_both(lambda twin: intermediates(twin, problem, batch, PRECISION)), tolerance)


def loss(problem: Problem, tolerance: float) -> float:
    """Total and parts of the loss."""
    batch = short_batch(problem)
    return compare("loss", *by_both(lambda twin: loss_and_gradients(twin, problem, batch, PRECISION)[0]), tolerance)


def gradients(problem: Problem, tolerance: float) -> float:
    """The gradient by every weight."""
    batch = short_batch(problem)
    found = by_both(lambda twin: loss_and_gradients(twin, problem, batch, PRECISION)[1])
    return compare("gradients", *found, tolerance)


def epoch_of_steps(problem: Problem, tolerance: float) -> float:
    """Weights, moments, m and step after an epoch with a short batch and padded steps, and its metrics."""
    chunks = problem.chunks(2)
    (state, metrics), (other_state, other_metrics) = (
        after_chunks(twin, problem, chunks, PRECISION) for twin in (JAX, TORCH)
    )
    return max(compare("state", state, other_state, tolerance), compare("metrics", metrics, other_metrics, tolerance))


def handed_over(problem: Problem, first: Twin, second: Twin, tolerance: float) -> float:
    """An epoch by one backend, written and continued by the other, against two epochs by one."""
    halfway = after_chunks(first, problem, problem.chunks(2), PRECISION)[0]
    written = problem._replace(state=load(save(halfway)))
    later = problem.chunks(3)
    handed = after_chunks(second, written, later, PRECISION)[0]
    alone = after_chunks(first, problem, [*problem.chunks(2), *later], PRECISION)[0]
    return compare("state", handed, alone, tolerance)


def forward_by_numpy(problem: Problem, twin: Twin, tolerance: float) -> float:
    """Every named value against NumPy."""
    batch = short_batch(problem)
    return compare(
        "intermediates",
        intermediates(twin, problem, batch, PRECISION),
        reference.intermediates(problem, batch),
        tolerance,
    )


def loss_by_numpy(problem: Problem, twin: Twin, tolerance: float) -> float:
    """The loss against NumPy."""
    batch = short_batch(problem)
    found = loss_and_gradients(twin, problem, batch, PRECISION)[0]
    return compare("loss", found, reference.losses(problem, batch), tolerance)


def gradients_by_numpy(problem: Problem, twin: Twin, tolerance: float) -> float:
    """A few entries of every gradient against finite differences of the NumPy loss."""
    batch = short_batch(problem)
    found = loss_and_gradients(twin, problem, batch, PRECISION)[1]
    rng = np.random.default_rng(3)
    entries = {name: rng.choice(value.size, N_ENTRIES, replace=False) for name, value in found.items()}
    some = {name: value.ravel()[entries[name]] for name, value in found.items()}
    return compare("gradients", some, reference.some_gradients(problem, batch, entries), tolerance)


def step_by_numpy(problem: Problem, twin: Twin, tolerance: float) -> float:
    """The state after one step on the short batch, against NumPy along the same gradients."""
    batch = short_batch(problem)
    chunk = Chunk(_first_of_chunk(batch.x), _first_of_chunk(batch.x_pair), _first_of_chunk(batch.valid))
    found = after_chunks(twin, problem, [chunk], PRECISION)[0]
    along = loss_and_gradients(twin, problem, batch, PRECISION)[1]
    return compare("state", found, reference.after_step(problem, batch, along), tolerance)


def _first_of_chunk(side: np.ndarray) -> np.ndarray:
    """One step and padding, in the shape that is compiled already."""
    return np.concatenate([side[None], np.zeros((CHUNK_STEPS - 1, *side.shape), side.dtype)])
