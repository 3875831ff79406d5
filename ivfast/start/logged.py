"""Logged queries: which train, which are held out, and what others like them would ask for."""

from typing import NamedTuple

import numpy as np

from ivfast.data.exact import flat_index, nearest_among, without_self
from ivfast.data.vectors import Points, unit_rows
from ivfast.data.with_queries import with_queries
from ivfast.method import COUNTED
from ivfast.runtime.draws import generator
from ivfast.runtime.progress import Progress
from ivfast.start.neighbors import LearnSet

HELD_OUT_SHARE, HELD_OUT_LEAST, HELD_OUT_MOST = 0.25, 100, 4000  # of the log; of a short one half at most
DRAWN_SHARE, DRAWN_MOST = 1.0, 100_000  # queries that train, drawn ones counted: beside the stored vectors, and at most
MIDDLE = 3  # nearest vectors whose middle stands for what a query is about: one alone is often an odd one
BETWEEN = 5  # logged queries nearest to one, towards which others are drawn, as in the paper
SHRINK = 2.5  # ridge of the map from middles to queries, times the mean of the squares that it is added to
RULES = {
    "held_out": [HELD_OUT_SHARE, HELD_OUT_LEAST, HELD_OUT_MOST],
    "drawn": [DRAWN_SHARE, DRAWN_MOST, MIDDLE, BETWEEN, SHRINK],
}
DRAWN_FOR_LEARN, DRAWN_FOR_BASE = 5, 6  # draws of the seed


class Asked(NamedTuple):
    """Queries, and the stored vectors that are nearest to them."""

    queries: np.ndarray  # (m, dim) float32, inside
    nearest: np.ndarray  # (m, k) int32, nearest first

    def joined(self, other: "Asked") -> "Asked":
        """Both."""
        return Asked(*(np.concatenate([mine, theirs]) for mine, theirs in zip(self, other, strict=True)))


class Log(NamedTuple):
    """A log, parted, and searched for in learn."""

    training: Asked  # those that train, with drawn ones behind them
    held_out: Asked


def split_log(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the held-out queries of a log: a quarter, at least 100 (or half of it where that is fewer), at most 4,000.

    returns: numbers of those that train and of those held out, both ascending int64
    """
    n_held = min(max(round(HELD_OUT_SHARE * n), min(HELD_OUT_LEAST, n // 2)), HELD_OUT_MOST)
    order = generator(seed, 0, "held_out", 1).permutation(n)
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def ask(queries: np.ndarray, points: Points, among: np.ndarray, k: int, progress: Progress) -> Asked:
    """Search for what queries ask for, exactly. queries: (m, dim) float32, inside; among: numbers of points"""
    with progress.bar("answers of queries", len(among), "rows compared with") as bar:
        near = nearest_among(queries, points, among, k, bar)[1]
    return Asked(queries, near.astype(np.int32))


def ask_like(
    logged: Asked, points: Points, among: np.ndarray, seed: int, part: int, progress: Progress
) -> Asked:  # fmt: skip
    """Logged queries, and others that are drawn as if they were logged: a log names few of the vectors that are stored.

    Half of them lie between two logged queries (`between`), half lie beside what is stored as logged ones do
    (`beside`). Each half alone scanned more (docs/experiments.md, "A log of real queries").

    logged: with their nearest
    among: numbers of points that are asked for
    part: which draw of the seed it is
    returns: the logged queries first; as many in all as numbers, at most 100,000
    """
    n = n_drawn(len(among), len(logged.queries))
    if not n:
        return logged
    rng = generator(seed, 0, "sample", part)
    n_between = n // 2
    drawn = np.concatenate([
        between(logged.queries, n_between, points.metric, rng),
        beside(logged, points, among, n - n_between, rng, progress),
    ])  # fmt: skip
    drawn = unit_rows(drawn) if points.metric == "IP" else drawn.astype(np.float32)
    return logged.joined(ask(drawn, points, among, logged.nearest.shape[1], progress))


def n_drawn(n: int, n_logged: int) -> int:
    """How many queries are drawn beside so many logged ones, of n vectors that are asked for."""
    return max(0, min(round(DRAWN_SHARE * n), DRAWN_MOST) - n_logged)


def between(queries: np.ndarray, n: int, metric: str, rng: np.random.Generator) -> np.ndarray:
    """Queries somewhere between a logged one and one of the five logged ones nearest to it.

    This is SMOTE (Chawla, Bowyer, Hall and Kegelmeyer, Journal of Artificial Intelligence Research, 2002).

    queries: (m, dim) float32, inside; returns (n, dim) float64
    """
    k = min(BETWEEN, len(queries) - 1)
    index = flat_index(queries.shape[1], metric)
    index.add(queries)
    near = without_self(index.search(queries, k + 1)[1], np.arange(len(queries)))
    one = rng.integers(0, len(queries), n)
    other = near[one, rng.integers(0, k, n)]
    return queries[one] + rng.random((n, 1)) * (queries[other] - queries[one])


def beside(
    logged: Asked, points: Points, among: np.ndarray, n: int, rng: np.random.Generator, progress: Progress
) -> np.ndarray:
    """Queries that lie beside some stored vectors as logged queries lie beside what they ask for.

    How these lie is learned: a linear map from the middle of a query's three nearest vectors to the query, and what
    remains of each query. A drawn one is the map of the middle around some stored vector, and the remains of some
    logged query.

    returns: (n, dim) float64
    """
    middles = _middles(points, logged.nearest)
    weights = fit_map(middles, logged.queries)
    remains = logged.queries - apply_map(weights, middles)
    around = among[np.sort(rng.integers(0, len(among), n))]
    with progress.bar("drawing queries", len(among), "rows compared with") as bar:
        near = nearest_among(points.x(around), points, among, MIDDLE, bar)[1]
    return apply_map(weights, _middles(points, near)) + remains[rng.integers(0, len(remains), n)]


def fit_map(middles: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The linear map with an offset that best tells a query from its middle, by ridge regression in float64.

    Minimises sum |W m + b - q|^2 + lambda |W|^2, lambda 2.5 times the mean over entries of m of their summed squares
    around the mean. So strong a ridge draws queries that differ as logged ones do; the map that tells a query best
    scanned a tenth more.

    middles, queries: (n, dim); returns (dim + 1, dim) float64, the offset last
    """
    dim = middles.shape[1]
    mean, mean_query = middles.mean(axis=0, dtype=np.float64), queries.mean(axis=0, dtype=np.float64)
    away = middles - mean
    squares = away.T @ away
    ridge = max(SHRINK * np.trace(squares) / dim, np.finfo(np.float64).tiny)
    weight = np.linalg.solve(squares + ridge * np.eye(dim), away.T @ (queries - mean_query))
    return np.vstack([weight, mean_query - mean @ weight])


def apply_map(weights: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """middles: (n, dim); returns (n, dim) float64"""
    return middles @ weights[:-1] + weights[-1]


def _middles(points: Points, nearest: np.ndarray) -> np.ndarray:
    """(n, k) numbers, nearest first; returns (n, dim) float32, of unit norm under IP"""
    near = nearest[:, :MIDDLE]
    middle = points.x(near.ravel()).reshape(*near.shape, -1).mean(axis=1)
    return unit_rows(middle) if points.metric == "IP" else middle


def part_log(queries: np.ndarray, learn: LearnSet, seed: int, progress: Progress) -> Log:
    """Part a log, draw queries like those that train, and search learn for the nearest of all of them.

    queries: (n, dim) float32, inside
    """
    points, first = learn.points, learn.neighbors.first
    among = np.unique(first) if len(first) else np.arange(len(points))
    trains, held = split_log(len(queries), seed)
    asked = ask(queries, points, among, learn.neighbors.train_nearest.shape[1], progress)
    training, held_out = (Asked(queries[rows], asked.nearest[rows]) for rows in (trains, held))
    return Log(ask_like(training, points, among, seed, DRAWN_FOR_LEARN, progress), held_out)


def n_stands_for(n: int, n_asking: int) -> float:
    """For how many queries one counts that asks for n vectors, so that all together count as often as these."""
    return max(1.0, DRAWN_SHARE * n / n_asking)


def with_log(learn: LearnSet, training: Asked, held_out: Asked) -> LearnSet:
    """The same learn, of which queries ask as well: some train beside its vectors, others are held out instead of them.

    Their numbers go on where those of learn end.
    """
    neighbors, points = learn.neighbors, learn.points
    n, width = len(points), neighbors.train_kinship.shape[1]
    k = min(neighbors.train_nearest.shape[1], training.nearest.shape[1])
    asked = training.joined(held_out)
    numbers = n + np.arange(len(asked.queries))
    n_training = len(training.queries)
    answers = held_out.nearest[:, :COUNTED].astype(np.int64)
    first = neighbors.first
    return LearnSet(
        with_queries(points, asked.queries),
        neighbors._replace(
            train=np.concatenate([neighbors.train, numbers[:n_training]]),
            train_nearest=np.concatenate([neighbors.train_nearest[:, :k], training.nearest[:, :k]]),
            train_kinship=np.concatenate([neighbors.train_kinship, np.ones((n_training, width), np.uint8)]),
            held_out=numbers[n_training:],
            answers=answers,
            answers_kinship=np.ones(answers.shape, np.uint8),
            first=np.concatenate([first, numbers]) if len(first) else first,
        ),
    )
