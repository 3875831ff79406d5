"""The graph of some points extended to a few more: only what is new is searched for, exactly."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.exact import nearest_of, searcher
from ivfast.data.vectors import Points
from ivfast.runtime.progress import Progress
from ivfast.start.descent import Means, graph_of

ROWS = 2048  # looked at at once


class Part(NamedTuple):
    """Nearly all of some points, whose graph a run has left in its cache."""

    points: Points  # these alone, as the run saw them
    rows: np.ndarray  # (m,) int64 ascending, their numbers among all
    folder: Path  # of the cache


def nearest_by_part(points: Points, part: Part, k: int, progress: Progress, means: Means) -> np.ndarray:
    """The k nearest of every point among the others, nearest first, (n, k) int32, by the graph of a part of them."""
    graph = graph_of(part.points, k, progress, means._replace(folder=part.folder))
    progress.note(f"neighbours: {len(points) - len(part.rows):,} vectors more are searched for exactly")
    return extend(points, part.rows, graph[:, :k], progress)


def extend(points: Points, rows: np.ndarray, graph: np.ndarray, progress: Progress) -> np.ndarray:
    """The nearest of every point: as right as the graph for those in it, exact for the others.

    rows: (m,) int64 ascending, points that are in the graph; graph: (m, k) int32 numbers of `rows`, nearest first
    returns: (n, k) int32 numbers of points, nearest first
    """
    everyone, k = np.arange(len(points)), graph.shape[1]
    new = np.setdiff1d(everyone, rows)
    found = np.empty((len(points), k), dtype=np.int32)
    found[new] = nearest_of(new, points, everyone, k, "neighbours of the rest", progress)
    find = searcher(points.x(new), points.metric)
    with progress.bar("extending the graph", len(rows)) as bar:
        for start in range(0, len(rows), ROWS):
            own, near = rows[start : start + ROWS], rows[graph[start : start + ROWS]]
            x = points.x(own)
            others = new[find(x, min(k, len(new)))[1]]
            first, last = (_distances(points, x, one)[:, 0] for one in (others[:, :1], near[:, -1:]))
            nearer = np.flatnonzero(first < last)
            both = np.concatenate([near[nearer], others[nearer]], axis=1)
            order = np.argsort(_distances(points, x[nearer], both), axis=1, kind="stable")[:, :k]
            near[nearer] = np.take_along_axis(both, order, axis=1)
            found[own] = near
            bar.advance(len(own))
    return found


def _distances(points: Points, x: np.ndarray, near: np.ndarray) -> np.ndarray:
    """From x (n, dim) to the points numbered `near` (n, m): squared under L2, the negative product under IP; (n, m)."""
    theirs = points.x(near.ravel()).reshape(*near.shape, -1)
    if points.metric == "IP":
        return -np.einsum("nd,nmd->nm", x, theirs)
    return np.square(x[:, None] - theirs).sum(axis=2)
