"""Nearest neighbours of vectors among themselves: they stand in for the queries to come."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import nearest_among
from ivfast.data.vectors import Space, Vectors, rows_per_block
from ivfast.method import COUNTED
from ivfast.runtime.config import Config
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress
from ivfast.start.kinship import in_common, kinship, strangers_apart

EXACT_LEARN = 200_000  # up to here every learn vector is searched for exactly
EXACT_HELD_OUT = 2_000_000  # up to here the held-out vectors are
GOOD_RECALL = 0.95  # of the IVF search; nprobe doubles until it is reached
IVF_PAYS = 16  # lists to each one probed from which on an IVF search is the faster: an exact one works in cache
SAMPLE = 1000  # vectors on which that recall is measured
LEAST_ASKED = 20  # nearest of a vector that tell who asks, at least: of ten, a vector's askers are too few
HELD_OUT_SHARE, HELD_OUT_LEAST, HELD_OUT_MOST = 0.05, 1000, 20_000


class Neighbors(NamedTuple):
    """Training pairs and held-out pairs. All numbers are rows of learn."""

    train: np.ndarray  # (n_train,) int64, ascending
    train_nearest: np.ndarray  # (n_train, ftopk or more) int32, nearest first; rows of train: they tell who asks
    held_out: np.ndarray  # (n_held_out,) int64, ascending
    answers: np.ndarray  # (n_held_out, up to 10) int64, nearest among all other learn vectors: so many count in gt
    train_kinship: np.ndarray  # (n_train, ftopk) uint8, see ivfast.start.kinship, of train_neighbors
    answers_kinship: np.ndarray  # as answers, uint8

    @property
    def strangers_apart(self) -> bool:
        """Whether pairs count by their kinship, not alike."""
        return bool((self.train_kinship > 1).any())

    @property
    def train_neighbors(self) -> np.ndarray:
        """The other sides of training pairs, (n_train, ftopk) int32."""
        return self.train_nearest[:, : self.train_kinship.shape[1]]


def asked_for(ftopk: int, n: int) -> int:
    """How many nearest of each of n vectors tell who asks for which: ftopk, at least 20 where there are so many."""
    return min(max(ftopk, LEAST_ASKED), n - 1)


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


def check_split(learn: Vectors, config: Config) -> None:
    """Refuse a learn of which too few train or are held out for ftopk neighbours of each."""
    train, held_out = split(len(learn), config.seed)
    if len(train) <= config.ftopk or len(held_out) == 0:
        raise UserError(
            f"learn: {learn.path} has only {len(learn)} vectors, of which {len(train)} train, too few for "
            f"--ftopk {config.ftopk}; use more vectors or a smaller --ftopk"
        )


def find_neighbors(learn: Vectors, space: Space, ftopk: int, seed: int, progress: Progress) -> Neighbors:
    """Split learn and search for the nearest of each vector, itself left out.

    Held-out vectors have the ten answers that an evaluation counts, whatever ftopk is.
    """
    train, held_out = split(len(learn), seed)
    most, n_answers = asked_for(ftopk, len(train)), min(COUNTED, len(learn) - 1)
    if len(learn) <= EXACT_LEARN:
        x = learn.take(space, slice(None))
        among = np.arange(len(learn))
        nearest = _exact(x[train], x[train], train, train, most, space.metric, progress).astype(np.int32)
        answers = _exact(x[held_out], x, held_out, among, n_answers, space.metric, progress)
    else:
        index = _ivf(learn, space, train, progress)
        nearest = _search_all(index, learn, space, train, most, progress)
        answers = _answers(index, learn, space, held_out, n_answers, progress)
    return make_neighbors(train, nearest, held_out, answers, ftopk)


def make_neighbors(
    train: np.ndarray, train_nearest: np.ndarray, held_out: np.ndarray, answers: np.ndarray, ftopk: int
) -> Neighbors:
    """Tell how much pairs count (see ivfast.start.kinship); of a held-out vector's nearest its answers are known."""
    counts = in_common(train, train_nearest, ftopk, (train, train_nearest))
    of_answers = in_common(held_out, answers, answers.shape[1], (train, train_nearest), (held_out, answers))
    apart = strangers_apart(counts)
    train_kinship, answers_kinship = (kinship(found, apart=apart) for found in (counts, of_answers))
    return Neighbors(train, train_nearest, held_out, answers, train_kinship, answers_kinship)


def nearest_of_all(vectors: Vectors, space: Space, k: int, progress: Progress) -> np.ndarray:
    """The k nearest of every vector among the others (all, where they are fewer), nearest first, (n, k) int32."""
    rows, k = np.arange(len(vectors)), min(k, len(vectors) - 1)
    if len(vectors) <= EXACT_LEARN:
        x = vectors.take(space, slice(None))
        return _exact(x, x, rows, rows, k, space.metric, progress).astype(np.int32)
    return _search_all(_ivf(vectors, space, rows, progress), vectors, space, rows, k, progress)


def _exact(
    x: np.ndarray, base: np.ndarray, ids: np.ndarray, base_ids: np.ndarray,
    ftopk: int, metric: str, progress: Progress,
) -> np.ndarray:  # fmt: skip
    """ids: (n,) learn rows of x; base_ids: of base. Returns (n, ftopk) learn rows."""
    index = _flat(base.shape[1], metric)
    index.add(base)
    found = np.empty((len(x), ftopk), dtype=np.int64)
    step = 4096
    with progress.bar("neighbours", len(x)) as bar:
        for start in range(0, len(x), step):
            near = index.search(x[start : start + step], ftopk + 1)[1]
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


def _flat(dim: int, metric: str) -> faiss.Index:
    return faiss.IndexFlatIP(dim) if metric == "IP" else faiss.IndexFlatL2(dim)


def _search_all(
    index: faiss.IndexIVFFlat, learn: Vectors, space: Space, train: np.ndarray, ftopk: int, progress: Progress
) -> np.ndarray:
    """Neighbours of the rows that the index holds, int32; its nprobe stays as found good."""
    nprobe, recall = _choose_nprobe(index, learn, space, train, ftopk)
    exact = IVF_PAYS * nprobe > index.nlist
    way = f"IVF search, nprobe {nprobe} of {index.nlist}, measured recall {recall:.3f}"
    progress.note(f"neighbours: exact search, faster than {way}" if exact else f"neighbours: {way}")
    index.nprobe = nprobe
    nearest = np.empty((len(train), ftopk), dtype=np.int32)
    step = min(rows_per_block(learn.dim), 65_536)
    with progress.bar("neighbours", len(train)) as bar:
        for start in range(0, len(train), step):
            ids = train[start : start + step]
            x = learn.take(space, ids)
            if exact:
                nearest[start : start + step] = without_self(nearest_among(x, learn, space, train, ftopk + 1)[1], ids)
            else:
                nearest[start : start + step] = _search(index, x, ids, ftopk)
            bar.advance(len(ids))
    return nearest


def _answers(
    index: faiss.IndexIVFFlat, learn: Vectors, space: Space, held_out: np.ndarray, ftopk: int, progress: Progress
) -> np.ndarray:
    x = learn.take(space, held_out)
    if len(learn) > EXACT_HELD_OUT:
        index.add_with_ids(x, held_out)
        index.nprobe = min(index.nlist, 4 * index.nprobe)
        return _search(index, x, held_out, ftopk)
    with progress.bar("held-out answers", len(learn)) as bar:
        near = nearest_among(x, learn, space, np.arange(len(learn)), ftopk + 1, bar)[1]
    return without_self(near, held_out)


def _ivf(learn: Vectors, space: Space, train: np.ndarray, progress: Progress) -> faiss.IndexIVFFlat:
    """An IVF index over the training rows, numbered as rows of learn."""
    nlist = int(4 * np.sqrt(len(train)))
    quantizer = _flat(learn.dim, space.metric)
    index = faiss.IndexIVFFlat(quantizer, learn.dim, nlist, quantizer.metric_type)
    index.cp.max_points_per_centroid = 64
    sample = train[:: max(1, len(train) // (64 * nlist))]
    index.train(learn.take(space, sample))
    step = rows_per_block(learn.dim)
    with progress.bar(f"indexing {learn.name}", len(train)) as bar:
        for start in range(0, len(train), step):
            ids = train[start : start + step]
            index.add_with_ids(learn.take(space, ids), ids)
            bar.advance(len(ids))
    return index


def _choose_nprobe(
    index: faiss.IndexIVFFlat, learn: Vectors, space: Space, train: np.ndarray, ftopk: int
) -> tuple[int, float]:
    """Double nprobe until its recall on a sample is good; the truth is nprobe = nlist."""
    x = learn.take(space, train[:: max(1, len(train) // SAMPLE)][:SAMPLE])
    index.nprobe = index.nlist
    truth = index.search(x, ftopk + 1)[1]
    nprobe = 16
    while True:
        index.nprobe = nprobe = min(nprobe, index.nlist)
        near = index.search(x, ftopk + 1)[1]
        recall = float(np.mean((near[:, :, None] == truth[:, None, :]).any(axis=2)))
        if recall >= GOOD_RECALL or nprobe == index.nlist:
            return nprobe, recall
        nprobe *= 2


def _search(index: faiss.IndexIVFFlat, x: np.ndarray, ids: np.ndarray, ftopk: int) -> np.ndarray:
    """Neighbours of x, itself left out; rows whose probed lists hold too few are searched in all lists."""
    near = index.search(x, ftopk + 1)[1]
    short = np.flatnonzero((near < 0).any(axis=1))
    if len(short):
        everywhere = faiss.SearchParametersIVF(nprobe=index.nlist)  # pyright: ignore[reportCallIssue]
        near[short] = index.search(x[short], ftopk + 1, params=everywhere)[1]
    return without_self(near, ids)
