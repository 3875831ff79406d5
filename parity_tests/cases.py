"""The cases that are compared, and one small random problem for each. Nothing in it is zero or one."""

from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ivfast.data.space import Space
from ivfast.data.vectors import Points, Vectors
from ivfast.network.backend import Chunk, Goal, Setup, starting_weights
from ivfast.start.neighbors import LearnSet, make_neighbors
from ivfast.train.pairs import PairSource, epoch_chunks
from ivfast.train.schedule import learning_rates

NLIST, DIM, HIDDEN = 24, 12, (18, 15)
N_LEARN, N_TRAIN, FTOPK, BATCH = 420, 330, 5, 64  # 330 = 5 x 64 + 10: the last batch of an epoch is short
CHUNK_STEPS = 4  # 6 steps an epoch: the second chunk ends in two steps of padding
EPOCHS = 9
DROP_PROP = 0.2
GOAL = Goal(7.3, 5.0, 9.0, 0.4)
SPREAD = 0.3  # of the vectors around their bucket, so that memberships are neither even nor certain
MODES = ("O1-float16", "O1-bfloat16", "O2-float16", "O2-bfloat16")
HALF: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class Case(NamedTuple):
    """One row of the table."""

    metric: str
    deep: bool
    drop: bool

    @property
    def name(self) -> str:
        """As pytest shows it."""
        return "-".join((self.metric, "deep" if self.deep else "linear", "drop" if self.drop else "whole"))


CASES = [Case(metric, deep, drop) for metric in ("IP", "L2") for deep in (False, True) for drop in (False, True)]


class Problem(NamedTuple):
    """The same numpy input for whoever computes."""

    case: Case
    setup: Setup
    state: dict[str, np.ndarray]  # as Backend.state_dict, float64: six finite steps behind it
    source: PairSource

    def chunks(self, epoch: int) -> list[Chunk]:
        """All pairs of one epoch."""
        return list(epoch_chunks(self.source, epoch, CHUNK_STEPS))

    def group(self, name: str) -> dict[str, np.ndarray]:
        """One group of the state: params, first, second, use or scale."""
        return {key.removeprefix(f"{name}/"): v for key, v in self.state.items() if key.startswith(f"{name}/")}


def make_problem(case: Case, seed: int = 5) -> Problem:
    """Draw one problem; equal seeds give equal problems."""
    rng = np.random.default_rng(seed)
    start = _rows(rng.standard_normal((NLIST, DIM)), case.metric)
    learn = start[rng.integers(NLIST, size=N_LEARN)] + SPREAD * rng.standard_normal((N_LEARN, DIM))
    space = Space(case.metric, np.zeros(DIM, np.float32), np.float32(1))
    points = Points(Vectors("learn", Path("drawn"), _rows(learn, case.metric)), space)
    train = np.sort(rng.choice(N_LEARN, N_TRAIN, replace=False))
    neighbors = make_neighbors(
        train, train[rng.integers(N_TRAIN, size=(N_TRAIN, FTOPK))], train[:0], np.zeros((0, FTOPK), int), FTOPK
    )
    source = PairSource(LearnSet(points, neighbors), BATCH, DROP_PROP if case.drop else 0.0, seed)
    param_list = (DIM, *HIDDEN, NLIST) if case.deep else (DIM, NLIST)
    setup = Setup(
        param_list, case.metric, start, rng.uniform(0.05, 0.15, NLIST).astype(np.float32),
        (0.1 * rng.standard_normal(DIM)).astype(np.float32), np.float32(0.7), 1e-3,
        learning_rates(2e-3, EPOCHS, 1, source.n_steps), 0.13,
    )  # fmt: skip
    return Problem(case, setup, _state(rng, setup, source.n_steps), source)


def _rows(x: np.ndarray, metric: str) -> np.ndarray:
    unit = np.linalg.norm(x, axis=1, keepdims=True) if metric == "IP" else 1.0
    return (x / unit).astype(np.float32)


def _state(rng: np.random.Generator, setup: Setup, step: int) -> dict[str, np.ndarray]:
    """A state in mid-training: all weights, moments and m random."""
    state: dict[str, np.ndarray] = {"step": np.array(step, dtype=np.int32)}
    for name, start in starting_weights(setup.param_list, 0).items():
        fan_in = start.shape[0] if name.startswith("layers") and start.ndim == 2 else 4
        drawn = rng.standard_normal(start.shape) * (0.05 if name == "u" else fan_in**-0.5)
        state[f"params/{name}"] = drawn + 1 if name.endswith("scale") else drawn
        state[f"first/{name}"] = 1e-2 * rng.standard_normal(start.shape)
        state[f"second/{name}"] = 1e-4 * rng.uniform(0.5, 2, start.shape)
    for router in ("centers", "net")[: 1 + setup.deep]:
        state[f"use/{router}"] = rng.dirichlet(np.full(NLIST, 2.0))
    state["scale/value"] = np.array(8.0)
    for key, count in (("good_steps", 17), ("n_skipped", 2), ("n_in_a_row", 3)):
        state[f"scale/{key}"] = np.array(count, dtype=np.int32)
    return state
