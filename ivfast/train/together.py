"""The steps of an epoch, which all processes of a run train together."""

import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from ivfast.network.backend import Backend, Goal
from ivfast.network.hosts import Group
from ivfast.runtime.errors import StopRequestedError
from ivfast.runtime.progress import Progress
from ivfast.runtime.signals import pending, stop_if_pending
from ivfast.train.pairs import PairSource, ahead, chunk_steps, epoch_chunks
from ivfast.train.steps import Sums, TooManySkipsError, run_chunks

ASKED = 8  # chunks after which processes ask one another whether to stop: each time they wait for the slowest


class Epoch(NamedTuple):
    """What is trained next."""

    number: int
    step: int  # the first one
    goal: Goal


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
    returns: the next state, and sums over the steps
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
            _stop()

    with group.at_steps(StopRequestedError, TooManySkipsError):
        if group.n > 1 and group.any_says(pending()):  # an epoch may be a single chunk
            _stop()
        return run_chunks(
            backend, state, chunks, epoch.goal, log_interval, source.n_steps, epoch.step, f"epoch {epoch.number}",
            progress, after_chunk,
        )  # fmt: skip


def _stop() -> None:
    stop_if_pending()
    raise StopRequestedError(signal.SIGTERM)  # it came to another process
