"""What a process does that trains beside process 0: it is told what is prepared, and trains the same steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivfast.data.mapped import x_path
from ivfast.data.npy import open_array
from ivfast.data.vectors import Points, Vectors
from ivfast.data.with_queries import WithQueries, with_queries
from ivfast.network.backend import Backend, Setup, load_backend
from ivfast.network.hosts import Ended, Group
from ivfast.runtime.config import Config
from ivfast.runtime.errors import StopRequestedError, UserError
from ivfast.runtime.progress import Progress, silent
from ivfast.runtime.signals import waiting
from ivfast.start.neighbors import LearnSet
from ivfast.train.pairs import PairSource
from ivfast.train.steps import TooManySkipsError
from ivfast.train.together import train_steps, with_own_rows


class Prepared(NamedTuple):
    """All that a process needs to train beside process 0."""

    setup: Setup
    precision: str
    state: dict[str, np.ndarray]  # as Backend.state_dict
    source: PairSource  # without x
    x: Path  # where x of learn lies, as formulas see it
    queries: np.ndarray | None  # (m, dim) float32, inside: of a log, which train as well
    log_interval: int


def prepared(backend: Backend, precision: str, state: Any, source: PairSource, config: Config) -> Prepared:
    """What others are told. state: of the backend; source: whose x is mapped"""
    points = source.learn.points
    path = x_path(points, config.save_path / "cache").absolute()
    bare = Points(Vectors("learn", path, np.empty((0, points.dim), np.float32)), points.space)
    neighbors = source.learn.neighbors
    few = neighbors._replace(train_nearest=neighbors.train_neighbors, answers=neighbors.answers[:0])
    source = source._replace(learn=LearnSet(bare, few), own=None)
    queries = points.queries if isinstance(points, WithQueries) else None
    return Prepared(backend.setup, precision, backend.state_dict(state), source, path, queries, config.log_interval)


def follow(config: Config, group: Group, progress: Progress) -> None:
    """Train until process 0 says that nothing is left. Signals are handed on: process 0 saves, and all stop.

    raises: what process 0 has ended with
    """
    with waiting():
        told: Prepared | Ended = group.tell()
        if isinstance(told, Ended):
            return told.share()
        backend = load_backend("jax", told.setup, config.gpu, told.precision)
        source = told.source._replace(learn=told.source.learn._replace(points=_opened(told)))
        source = with_own_rows(source, backend)
        state = backend.from_state_dict(told.state)
        progress.note(f"process {group.process} of {group.n} trains beside process 0, which tells what is done")
        while not isinstance(epoch := group.tell(), Ended):
            try:
                state, _ = train_steps(backend, state, source, epoch, told.log_interval, silent(), group)
            except (StopRequestedError, TooManySkipsError):
                continue  # process 0 tells why, and ends
    return epoch.share()


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
    points = replace(points, vectors=replace(points.vectors, rows=x), mapped=x)
    return points if told.queries is None else with_queries(points, told.queries)
