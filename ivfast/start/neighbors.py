"""Nearest neighbours of vectors among themselves: they stand in for the queries to come."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import flat_index, nearest_among
from ivfast.data.vectors import BLOCK_BYTES, Points, Vectors, rows_per_block
from ivfast.method import COUNTED
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress
from ivfast.start.kinship import in_common, kinship, strangers_apart

GOOD_RECALL = 0.95  # of the IVF search; nprobe doubles until it is reached
SAMPLE = 1000  # vectors on which that recall is measured
N_ASKED = 20  # a vector asks for so many nearest at least: with ten, each vector has too few askers
HELD_OUT_SHARE, HELD_OUT_LEAST, HELD_OUT_MOST = 0.05, 1000, 20_000


class SearchLimits(NamedTuple):
    """Sizes from which on a search for neighbours goes another way."""

    exact_learn: int = 200_000  # up to here every learn vector is searched for exactly
    exact_held_out: int = 2_000_000  # up to here the held-out vectors are
    # An exact search works in cache. Where an IVF search probes more than one list in sixteen, it is the slower one.
    ivf_pays: int = 16
    block_bytes: int = BLOCK_BYTES  # read at once


LIMITS = SearchLimits()


class Neighbors(NamedTuple):
    """Who trains, who is held out, and the nearest of both. All numbers are rows of learn."""

    train: np.ndarray  # (n_train,) int64, ascending
    train_nearest: np.ndarray  # (n_train, ftopk or more) int32, nearest first, all of them training vectors
    held_out: np.ndarray  # (n_held_out,) int64, ascending
    answers: np.ndarray  # (n_held_out, up to 10) int64, nearest among all other learn vectors
    train_kinship: np.ndarray  # (n_train, ftopk) uint8, how much each pair counts (see ivfast.start.kinship)
    answers_kinship: np.ndarray  # as answers, uint8

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


def n_nearest(ftopk: int, n: int) -> int:
    """How many nearest each of n vectors asks for: ftopk, at least 20 where there are so many."""
    return min(max(ftopk, N_ASKED), n - 1)


def n_held_out(n: int) -> int:
    """How many of n learn vectors are held out."""
    return min(max(round(HELD_OUT_SHARE * n), min(HELD_OUT_LEAST, n // 5)), HELD_OUT_MOST)


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the held-out vectors: 5 % of learn, at least 1,000 or a fifth of it, at most 20,000.

    returns: rows that train and rows held out, both ascending int64
    """
    held_out = generator(seed, 0, "held_out").choice(n, n_held_out(n), replace=False)
    mask = np.zeros(n, dtype=bool)
    mask[held_out] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


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
    learn: Points, ftopk: int, seed: int, progress: Progress, limits: SearchLimits = LIMITS
) -> Neighbors:
    """Split learn and search for the nearest of each vector, itself left out.

    Held-out vectors have the ten answers that an evaluation counts, whatever ftopk is.
    """
    train, held_out = split(len(learn), seed)
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
            index = _ivf(learn, train, progress, limits)
            nearest = _search_all(index, learn, train, most, progress, limits)
        with progress.stage("held-out answers"):
            answers = _answers(index, learn, held_out, n_answers, progress, limits)
    with progress.stage("kinship"):
        return make_neighbors(train, nearest, held_out, answers, ftopk)


def make_neighbors(
    train: np.ndarray, train_nearest: np.ndarray, held_out: np.ndarray, answers: np.ndarray, ftopk: int
) -> Neighbors:
    """Count how much pairs have in common (see ivfast.start.kinship); all arrays as in Neighbors."""
    counts = in_common(train, train_nearest, ftopk, (train, train_nearest))
    # of a held-out vector's nearest only its answers are known
    of_answers = in_common(held_out, answers, answers.shape[1], (train, train_nearest), (held_out, answers))
    apart = strangers_apart(counts)
    train_kinship, answers_kinship = (kinship(found, apart=apart) for found in (counts, of_answers))
    return Neighbors(train, train_nearest, held_out, answers, train_kinship, answers_kinship)


def nearest_of_all(points: Points, k: int, progress: Progress, limits: SearchLimits = LIMITS) -> np.ndarray:
    """The k nearest of every point among the others (all, where they are fewer), nearest first, (n, k) int32."""
    rows, k = np.arange(len(points)), min(k, len(points) - 1)
    if len(points) <= limits.exact_learn:
        x = points.x(slice(None))
        return _exact(x, x, rows, rows, k, points.metric, progress).astype(np.int32)
    return _search_all(_ivf(points, rows, progress, limits), points, rows, k, progress, limits)


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


def without_self(near: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Drop each row's own number, or its last entry where that is not among them.

    near: (n, k + 1) numbers, nearest first; ids: (n,) the rows' own; returns (n, k)
    """
    own = near == ids[:, None]
    own[~own.any(axis=1), -1] = True
    return near[~own].reshape(len(near), near.shape[1] - 1)


def _search_all(
    index: faiss.IndexIVFFlat, points: Points, rows: np.ndarray, k: int, progress: Progress, limits: SearchLimits
) -> np.ndarray:
    """Neighbours of the rows that the index holds, (rows, k) int32. The index keeps the nprobe that was good."""
    nprobe, recall = _choose_nprobe(index, points, rows, k)
    exact = limits.ivf_pays * nprobe > index.nlist
    way = f"IVF search, nprobe {nprobe} of {index.nlist}, measured recall {recall:.3f}"
    progress.note(f"neighbours: exact search, faster than {way}" if exact else f"neighbours: {way}")
    index.nprobe = nprobe
    nearest = np.empty((len(rows), k), dtype=np.int32)
    step = min(rows_per_block(points.dim, limits.block_bytes), 65_536)
    with progress.bar("neighbours", len(rows)) as bar:
        for start in range(0, len(rows), step):
            ids = rows[start : start + step]
            x = points.x(ids)
            if exact:
                near = nearest_among(x, points, rows, k + 1, block_bytes=limits.block_bytes)[1]
                nearest[start : start + step] = without_self(near, ids)
            else:
                nearest[start : start + step] = _search(index, x, ids, k)
            bar.advance(len(ids))
    return nearest


def _answers(
    index: faiss.IndexIVFFlat, learn: Points, held_out: np.ndarray, k: int, progress: Progress, limits: SearchLimits
) -> np.ndarray:
    x = learn.x(held_out)
    if len(learn) > limits.exact_held_out:
        index.add_with_ids(x, held_out)
        index.nprobe = min(index.nlist, 4 * index.nprobe)
        return _search(index, x, held_out, k)
    with progress.bar("held-out answers", len(learn)) as bar:
        near = nearest_among(x, learn, np.arange(len(learn)), k + 1, bar, limits.block_bytes)[1]
    return without_self(near, held_out)


def _ivf(points: Points, rows: np.ndarray, progress: Progress, limits: SearchLimits) -> faiss.IndexIVFFlat:
    """An IVF index over some rows of the points, by their numbers."""
    nlist = int(4 * np.sqrt(len(rows)))
    quantizer = flat_index(points.dim, points.metric)
    index = faiss.IndexIVFFlat(quantizer, points.dim, nlist, quantizer.metric_type)
    index.cp.max_points_per_centroid = 64
    sample = rows[:: max(1, len(rows) // (64 * nlist))]
    index.train(points.x(sample))
    step = rows_per_block(points.dim, limits.block_bytes)
    with progress.bar(f"indexing {points.vectors.name}", len(rows)) as bar:
        for start in range(0, len(rows), step):
            ids = rows[start : start + step]
            index.add_with_ids(points.x(ids), ids)
            bar.advance(len(ids))
    return index


def _choose_nprobe(index: faiss.IndexIVFFlat, points: Points, rows: np.ndarray, k: int) -> tuple[int, float]:
    """Double nprobe until its recall on a sample is good, with all lists probed as the truth."""
    x = points.x(rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE])
    index.nprobe = index.nlist
    truth = index.search(x, k + 1)[1]
    nprobe = 16
    while True:
        index.nprobe = nprobe = min(nprobe, index.nlist)
        near = index.search(x, k + 1)[1]
        recall = float(np.mean((near[:, :, None] == truth[:, None, :]).any(axis=2)))
        if recall >= GOOD_RECALL or nprobe == index.nlist:
            return nprobe, recall
        nprobe *= 2


def _search(index: faiss.IndexIVFFlat, x: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Neighbours of x, itself left out; rows whose probed lists hold too few are searched in all lists."""
    near = index.search(x, k + 1)[1]
    short = np.flatnonzero((near < 0).any(axis=1))
    if len(short):
        everywhere = faiss.SearchParametersIVF(nprobe=index.nlist)  # pyright: ignore[reportCallIssue]
        near[short] = index.search(x[short], k + 1, params=everywhere)[1]
    return without_self(near, ids)
