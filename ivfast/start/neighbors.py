"""Nearest neighbours of vectors among themselves: they stand in for the queries to come."""

from typing import NamedTuple

import numpy as np

from ivfast.data.exact import flat_index, nearest_of, without_self
from ivfast.data.twins import Distinct, distinct_rows
from ivfast.data.vectors import BLOCK_BYTES, Points, Vectors
from ivfast.method import COUNTED
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress, silent
from ivfast.start.descent import ALONE, Means, graph_of, pick
from ivfast.start.kinship import in_common, kinship, strangers_apart

N_ASKED = 20  # a vector asks for so many nearest at least: with ten, each vector has too few askers
HELD_OUT_SHARE, HELD_OUT_LEAST, HELD_OUT_MOST = 0.05, 1000, 10_000


class SearchLimits(NamedTuple):
    """Sizes of a search for neighbours."""

    exact_learn: int = 200_000  # up to here every vector is searched for exactly, beyond there is a graph of all
    block_bytes: int = BLOCK_BYTES  # read at once


LIMITS = SearchLimits()


class Neighbors(NamedTuple):
    """Who trains, who is held out, and the nearest of both. All numbers are rows of learn, and beyond them queries of a
    log, where there is one (see ivfast.start.logged).

    Of rows that are equal all speak of the first: twins are nobody's neighbours, and no answers.
    """

    train: np.ndarray  # (n_train,) int64, ascending
    train_nearest: (
        np.ndarray
    )  # (n_train, ftopk or more) int32, nearest first, all of them training vectors; a query's are of all learn
    held_out: np.ndarray  # (n_held_out,) int64, ascending
    answers: np.ndarray  # (n_held_out, up to 10) int64, nearest among all other learn vectors
    train_kinship: np.ndarray  # (n_train, ftopk) uint8, how much each pair counts (see ivfast.start.kinship)
    answers_kinship: np.ndarray  # as answers, uint8
    first: np.ndarray = np.empty(0, np.int64)  # (n_learn,) the first row equal to each; (0,) where all differ

    @property
    def strangers_apart(self) -> bool:
        """Whether pairs count by their kinship, not alike."""
        return bool((self.train_kinship > 1).any())

    @property
    def train_neighbors(self) -> np.ndarray:
        """The other sides of training pairs, (n_train, ftopk) int32."""
        return self.train_nearest[:, : self.train_kinship.shape[1]]


class LearnSet(NamedTuple):
    """Learn with its neighbours: what pairs are drawn from, and what every judgement looks at."""

    points: Points
    neighbors: Neighbors

    @property
    def n_pairs(self) -> int:
        """Pairs of an epoch: as many as vectors of learn train, whether or not queries of a log train beside them."""
        return int(np.searchsorted(self.neighbors.train, len(self.points)))


def n_nearest(ftopk: int, n: int) -> int:
    """How many nearest each of n vectors asks for: ftopk, at least 20 where there are so many."""
    return min(max(ftopk, N_ASKED), n - 1)


def n_held_out(n: int) -> int:
    """How many of n learn vectors are held out."""
    return min(max(round(HELD_OUT_SHARE * n), min(HELD_OUT_LEAST, n // 5)), HELD_OUT_MOST)


def split(distinct: Distinct, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the held-out vectors: 5 % of those that differ, at least 1,000 or a fifth of them, at most 10,000.

    A twin of a held-out vector does not train, and a vector with more twins than most have is not held out.

    returns: rows that train and rows held out, the first ones of different vectors, both ascending int64
    """
    rows, rare = distinct.rows, distinct.rare
    held_out = generator(seed, 0, "held_out").choice(rare, n_held_out(len(rows)), replace=False)
    mask = np.zeros(len(rows), dtype=bool)
    mask[held_out] = True
    return rows[~mask], rows[mask]


def check_split(learn: Vectors, ftopk: int) -> None:
    """Refuse a learn of which too few train or are held out for ftopk neighbours of each."""
    n_held = n_held_out(len(learn))
    n_train = len(learn) - n_held
    if n_train <= ftopk or n_held == 0:
        raise UserError(
            f"learn: {learn.path} has only {len(learn)} vectors, of which {n_train} train, too few for "
            f"--ftopk {ftopk}; use more vectors or a smaller --ftopk"
        )


def find_neighbors(
    learn: Points, ftopk: int, seed: int, progress: Progress, means: Means = ALONE, limits: SearchLimits = LIMITS
) -> Neighbors:
    """Split learn and search for the nearest of each vector, itself and its twins left out.

    Held-out vectors have the ten answers that an evaluation counts, whatever ftopk is.

    raises: UserError where too few vectors differ
    """
    distinct = distinct_rows(learn.vectors, limits.block_bytes)
    train, held_out = split(distinct, seed)
    if distinct.all_differ:
        return _find_neighbors(learn, train, held_out, ftopk, progress, means, limits)
    n, d = len(learn), len(distinct.rows)
    if len(train) <= ftopk:
        raise UserError(
            f"learn: {learn.vectors.path} has only {d:,} different vectors among {n:,}, of which {len(train)} train, "
            f"too few for --ftopk {ftopk}; use more vectors or a smaller --ftopk"
        )
    if not len(held_out):
        raise UserError(
            f"learn: {learn.vectors.path} has only {d:,} different vectors among {n:,}, too few to hold any out, which "
            "takes 5 or more; use other vectors"
        )
    progress.note(
        f"learn: {n - d:,} of {n:,} rows are twins of others; the {d:,} that differ train or are held out, each once"
    )
    trains, asks = (np.searchsorted(distinct.rows, rows) for rows in (train, held_out))
    found = _find_neighbors(learn.only(distinct.rows), trains, asks, ftopk, progress, means, limits)
    nearest, answers = distinct.rows[found.train_nearest].astype(np.int32), distinct.rows[found.answers]
    first = distinct.rows[distinct.of]
    return found._replace(train=train, train_nearest=nearest, held_out=held_out, answers=answers, first=first)


def _find_neighbors(
    learn: Points, train: np.ndarray, held_out: np.ndarray, ftopk: int, progress: Progress, means: Means,
    limits: SearchLimits,
) -> Neighbors:  # fmt: skip
    """Of points that all differ."""
    most, n_answers = n_nearest(ftopk, len(train)), min(COUNTED, len(learn) - 1)
    if len(learn) <= limits.exact_learn:
        x = learn.x(slice(None))
        among = np.arange(len(learn))
        with progress.stage("neighbours of learn"):
            nearest = _exact(x[train], x[train], train, train, most, learn.metric, progress).astype(np.int32)
        with progress.stage("held-out answers"):
            answers = _exact(x[held_out], x, held_out, among, n_answers, learn.metric, progress)
    else:
        with progress.stage("neighbours of learn"):
            graph = graph_of(learn, most, progress, means)
            nearest = pick(learn, train, graph[train], train, most, progress)
        with progress.stage("held-out answers"):
            answers = _answers(learn, held_out, graph, n_answers, progress, means, limits)
    with progress.stage("kinship"):
        return make_neighbors(train, nearest, held_out, answers, ftopk, progress)


def _answers(
    learn: Points, held_out: np.ndarray, graph: np.ndarray, k: int, progress: Progress, means: Means,
    limits: SearchLimits,
) -> np.ndarray:  # fmt: skip
    """The exact nearest of held-out vectors among all others, (n, k) int64. graph: of learn"""
    if means.exact(len(learn)) is not None:  # the graph is exact
        return graph[held_out, :k].astype(np.int64)
    everyone = np.arange(len(learn))
    return nearest_of(held_out, learn, everyone, k, "held-out answers", progress, limits.block_bytes)


def make_neighbors(
    train: np.ndarray, train_nearest: np.ndarray, held_out: np.ndarray, answers: np.ndarray, ftopk: int,
    progress: Progress | None = None,
) -> Neighbors:  # fmt: skip
    """Count how much pairs have in common (see ivfast.start.kinship); all arrays as in Neighbors."""
    with (progress or silent()).bar("comparing neighbours", len(train) + len(held_out)) as bar:
        counts = in_common(train, train_nearest, ftopk, (train, train_nearest), bar=bar)
        # of a held-out vector's nearest only its answers are known
        known = (train, train_nearest), (held_out, answers)
        of_answers = in_common(held_out, answers, answers.shape[1], *known, bar=bar)
    apart = strangers_apart(counts)
    train_kinship, answers_kinship = (kinship(found, apart=apart) for found in (counts, of_answers))
    return Neighbors(train, train_nearest, held_out, answers, train_kinship, answers_kinship)


def nearest_of_all(
    points: Points, k: int, progress: Progress, means: Means = ALONE, limits: SearchLimits = LIMITS
) -> np.ndarray:
    """The k nearest of every point among the others (all, where they are fewer), nearest first, (n, k) int32."""
    rows, k = np.arange(len(points)), min(k, len(points) - 1)
    if len(points) <= limits.exact_learn:
        x = points.x(slice(None))
        return _exact(x, x, rows, rows, k, points.metric, progress).astype(np.int32)
    return graph_of(points, k, progress, means)[:, :k]


def _exact(
    x: np.ndarray, base: np.ndarray, ids: np.ndarray, base_ids: np.ndarray, k: int, metric: str, progress: Progress
) -> np.ndarray:
    """ids: (n,) learn rows of x; base_ids: of base. Returns (n, k) learn rows."""
    index = flat_index(base.shape[1], metric)
    index.add(base)
    found = np.empty((len(x), k), dtype=np.int64)
    step = 4096
    with progress.bar("neighbours", len(x)) as bar:
        for start in range(0, len(x), step):
            near = index.search(x[start : start + step], k + 1)[1]
            found[start : start + step] = without_self(base_ids[near], ids[start : start + step])
            bar.advance(len(near))
    return found
