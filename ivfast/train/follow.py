"""What a process does that trains beside process 0: it is told what is prepared, and trains the same steps."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivfast.data.mapped import x_path
from ivfast.data.npy import open_array
from ivfast.data.vectors import Points, Vectors
from ivfast.network.backend import Backend, Goal, Setup, load_backend
from ivfast.network.hosts import Group
from ivfast.runtime.config import Config
from ivfast.runtime.errors import StopRequestedError, UserError
from ivfast.runtime.progress import Progress, silent
from ivfast.runtime.signals import pending, stop_if_pending, waiting
from ivfast.start.neighbors import LearnSet
from ivfast.train.pairs import PairSource, ahead, chunk_steps, epoch_chunks
from ivfast.train.steps import Sums, TooManySkipsError, run_chunks

ASKED = 8  # chunks after which processes ask one another whether to stop: each time they wait for the slowest


class Prepared(NamedTuple):
    """All that a process needs to train beside process 0."""

    setup: Setup
    precision: str
    state: dict[str, np.ndarray]  # as Backend.state_dict
    source: PairSource  # without x
    x: Path  # where x of learn lies, as formulas see it
    log_interval: int


class Epoch(NamedTuple):
    """What is trained next."""

    number: int
    step: int  # the first one
    goal: Goal


def prepared(backend: Backend, precision: str, state: Any, source: PairSource, config: Config) -> Prepared:
    """What others are told. state: of the backend; source: whose x is mapped"""
    points = source.learn.points
    path = x_path(points, config.save_path / "cache").absolute()
    bare = Points(Vectors("learn", path, np.empty((0, points.dim), np.float32)), points.space)
    neighbors = source.learn.neighbors
    few = neighbors._replace(train_nearest=neighbors.train_neighbors, answers=neighbors.answers[:0])
    source = source._replace(learn=LearnSet(bare, few), own=None)
    return Prepared(backend.setup, precision, backend.state_dict(state), source, path, config.log_interval)


def follow(config: Config, group: Group, progress: Progress) -> None:
    """Train until process 0 says that nothing is left. Signals are handed on: process 0 saves, and all stop."""
    with waiting():
        told: Prepared | None = group.tell()
        if told is None:
            return
        backend = load_backend("jax", told.setup, config.gpu, told.precision)
        source = told.source._replace(learn=told.source.learn._replace(points=_opened(told)))
        source = with_own_rows(source, backend)
        state = backend.from_state_dict(told.state)
        progress.note(f"process {group.process} of {group.n} trains beside process 0, which tells what is done")
        while (epoch := group.tell()) is not None:
            try:
                state, _ = train_steps(backend, state, source, epoch, told.log_interval, silent(), group)
            except (StopRequestedError, TooManySkipsError):
                continue  # process 0 tells why, and ends


def _opened(told: Prepared) -> Points:
    """x of learn, as process 0 wrote it down."""
    try:
        x = open_array(told.x, "x").view(np.ndarray)
    except UserError:
        raise UserError(
            f"--save_path: {told.x}, which process 0 has written, is not to be seen from here; expected one folder "
            "that all hosts share; name such a one"
        ) from None
    points = told.source.learn.points
    return replace(points, vectors=replace(points.vectors, rows=x), mapped=x)


def with_own_rows(source: PairSource, backend: Backend) -> PairSource:
    """The same pairs, of which x is read where this process needs it alone."""
    return source._replace(own=backend.own_rows(source.rows))


def train_steps(
    backend: Backend, state: Any, source: PairSource, epoch: Epoch, log_interval: int, progress: Progress,
    group: Group, save_at: Callable[[Any, int, bool], None] | None = None,
) -> tuple[Any, Sums]:  # fmt: skip
    """The rest of an epoch's steps, with all processes.

    save_at: saves where that is due; called after each chunk but the last with the state, the steps done and whether
    all stop
    raises: StopRequestedError where a signal has come to any process; TooManySkipsError
    """
    steps = chunk_steps(source.n_steps, source.batch_size, source.learn.points.dim)
    chunks = epoch_chunks(source, epoch.number, steps, epoch.step)
    if source.cells is not None:  # many buckets, and mostly many vectors: others are read in no time
        chunks = ahead(chunks)

    def after_chunk(state: Any, done: int) -> None:
        if done >= source.n_steps:  # after the last one its skips are read first
            return
        stop = pending()
        if group.n > 1:
            stop = (done - epoch.step) // steps % ASKED == 0 and group.any_says(stop)
        if save_at is not None:
            save_at(state, done, stop)
        if stop:
            stop_if_pending()
            raise StopRequestedError(signal.SIGTERM)  # it came to another process

    with group.at_steps(StopRequestedError, TooManySkipsError):
        return run_chunks(
            backend, state, chunks, epoch.goal, log_interval, source.n_steps, epoch.step, f"epoch {epoch.number}",
            progress, after_chunk,
        )  # fmt: skip
