"""An index that grows: new vectors placed by the rule of the others, vectors taken out, and what has drifted."""

from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.index.fill import add_entries
from ivfast.index.index import SearchedIndex
from ivfast.index.place import Askers
from ivfast.index.probing import chosen, search_distinct, search_lists
from ivfast.runtime.errors import UserError
from ivfast.store.demand import reverse_neighbors

BATCH = 16_384  # vectors that are placed at once
FOUND = 0.95  # recall at which the neighbours of new vectors are searched
SAMPLE = 1000  # vectors that drift is measured on
LOSS, GROWTH = 0.02, 1.2  # train again below so much less recall, or above so many times the scanned share or imbalance


class Drift(NamedTuple):
    """What was added since the index was made, beside what it was made for."""

    added: int  # vectors among those stored
    asked: float  # recall that was asked for
    recall: float  # that searches by the predicted threshold reach on vectors added
    expected_scanned: float  # share of all vectors at that recall, as measured when the index was made
    scanned: float  # on vectors added
    imbalance_built: float  # of the lists when the index was made
    imbalance: float  # now
    train_again: bool


class Index(SearchedIndex):
    """Vectors stored under a trained model: searched by a budget, added to, and asked whether they still fit it.

    faiss_index: the FAISS index itself, which plain FAISS can read, write and search too
    """

    def add(self, vectors: np.ndarray) -> np.ndarray:
        """Store new vectors by the same rule: where those who will ask for them look.

        vectors: (n, dim) float array, as base was handed over
        returns: their ids, (n,) int64
        raises: UserError on vectors of another shape or type, or an index whose codes can't be added to

        >>> index.add(query[:2])
        array([2000, 2001])
        """
        return add_vectors(self, self.model.as_stored(vectors, "vectors"))

    def remove(self, ids: np.ndarray) -> int:
        """Take vectors out, with all their copies. ids: (n,) integers; returns how many vectors were there"""
        return remove_vectors(self, np.asarray(ids, dtype=np.int64))

    def drift(self, recall: float = 0.9) -> Drift:
        """Whether what was added still resembles what was learned, and whether to train again."""
        return measure_drift(self, recall)


def add_vectors(index: SearchedIndex, rows: np.ndarray) -> np.ndarray:
    """Place and store rows, batch by batch: those of one batch are askers of the next ones.

    rows: (n, dim) float32, as stored; returns their ids
    """
    if index.kind.endswith("x4fs"):
        raise UserError(f"kind {index.kind!r}: packed codes can't be added to list by list; make the index again")
    for start in range(0, len(rows), BATCH):
        block = rows[start : start + BATCH]
        ids = np.arange(index.next_id, index.next_id + len(block))
        askers = _askers(index, block, index.model.asking)
        buckets = index.model.place_new(block, index.copies, askers, index.probes_use)
        entry, column = np.nonzero(buckets >= 0)
        add_entries(index.faiss_index, block[entry], ids[entry], buckets[entry, column])
        index.next_id += len(block)
        index.n += len(block)
        index.refresh()
    return np.arange(index.next_id - len(rows), index.next_id)


def _askers(index: SearchedIndex, rows: np.ndarray, weights: np.ndarray) -> Askers:
    """New vectors' own neighbours, among what is stored and among themselves, stand for those who have them as such.

    Who has a new vector among its nearest would take a search for each neighbour. Near pairs are near both ways, so
    that a vector's place among its neighbour's nearest is taken to be the neighbour's place among its own.

    weights: (k,) of `asking_weights`
    """
    k, n = len(weights), len(rows)
    scores, x, keys = _stored_near(index, rows, k)
    own = faiss.knn(rows, rows, min(k + 1, n), metric=index.faiss_index.metric_type)
    others = own[1] != np.arange(n)[:, None]
    sign = -1 if index.model.metric == "IP" else 1
    worst = np.float32(np.inf)
    both = np.concatenate([np.where(keys >= 0, sign * scores, worst), np.where(others, sign * own[0], worst)], axis=1)
    best = np.argsort(both, axis=1, kind="stable")[:, :k]
    asker = np.take_along_axis(np.concatenate([keys + n, own[1]], axis=1), best, axis=1)
    valid = np.isfinite(np.take_along_axis(both, best, axis=1))
    row, place = np.nonzero(valid)
    return Askers(np.concatenate([rows, x]), reverse_neighbors(row, asker[valid], place, np.arange(n), weights))


def _stored_near(index: SearchedIndex, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The near vectors that are stored, as their codes have them.

    returns: scores (n, m), x (found, dim) float32 of the different ones, and keys (n, m) into x, -1 where none
    """
    threshold = index.threshold(min(k, index.calibration.most_k), FOUND, None, None)
    many = k + int(np.ceil(k * index.copies))
    scores, pairs = search_lists(
        index.faiss_index, rows, many, *chosen(index.candidates(rows, threshold), threshold), pairs=True
    )
    once, key = np.unique(pairs, return_inverse=True)
    key = key.reshape(pairs.shape)
    first = int((once < 0).sum())  # -1 stands for nothing
    x = np.stack([_vector(index.faiss_index, int(pair)) for pair in once[first:]]) if len(once) > first else rows[:0]
    ids = np.array([_id(index.faiss_index, int(pair)) for pair in once[first:]], dtype=np.int64)
    of_entry = np.where(pairs >= 0, np.append(ids, -1)[key - first], -1)
    by_id = np.argsort(of_entry, axis=1, kind="stable")
    ordered = np.take_along_axis(of_entry, by_id, axis=1)
    twin = np.zeros(ordered.shape, dtype=bool)
    twin[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    again = np.empty_like(twin)
    np.put_along_axis(again, by_id, twin, axis=1)
    return scores, x, np.where((pairs >= 0) & ~again, key - first, -1)


def _vector(index: faiss.IndexIVF, pair: int) -> np.ndarray:
    x = np.empty(index.d, dtype=np.float32)
    index.reconstruct_from_offset(pair >> 32, pair & 0xFFFFFFFF, faiss.swig_ptr(x))
    return x


def _id(index: faiss.IndexIVF, pair: int) -> int:
    lists: Any = index.invlists
    return lists.get_single_id(pair >> 32, pair & 0xFFFFFFFF)


def remove_vectors(index: SearchedIndex, ids: np.ndarray) -> int:
    """Take out all entries of some ids."""
    ids = np.unique(ids)
    there = stored_ids(index)
    gone = np.intersect1d(ids, there)
    if len(gone):
        index.faiss_index.remove_ids(faiss.IDSelectorBatch(gone))
        index.n -= len(gone)
        index.refresh()
    return len(gone)


def stored_ids(index: SearchedIndex) -> np.ndarray:
    """The different ids in all lists, ascending int64."""
    lists = index.faiss_index.invlists
    assert lists is not None
    parts = [faiss.rev_swig_ptr(lists.get_ids(i), int(size)).copy() for i, size in enumerate(index.sizes) if size]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def measure_drift(index: SearchedIndex, recall: float, k: int = 10) -> Drift:
    """Search vectors that were added, by the threshold that was measured on what was there before.

    raises: UserError where nothing was added
    """
    ids = stored_ids(index)
    added = ids[ids >= index.n_built]
    if not len(added):
        raise UserError("drift: nothing was added to this index; add vectors first")
    sample = added[np.linspace(0, len(added) - 1, min(SAMPLE, len(added))).astype(np.int64)]
    x, k = _vectors_of(index, sample), min(k, len(ids) - 1)
    everything = np.tile(np.arange(index.model.nlist), (len(x), 1))
    exact = search_distinct(index.faiss_index, x, k + 1, everything, np.zeros(everything.shape), index.copies)[1]
    nearest = _without(exact, sample, k)
    threshold = index.threshold(k, recall, None, None)
    candidates = index.candidates(x, threshold)
    found = _without(index.search_chosen(candidates, threshold, x, k + 1)[1], sample, k)
    probed = candidates.gains > threshold
    scanned = float(index.shares[candidates.buckets[probed]].sum() / len(x))
    expected = index.calibration.predicted(threshold, k)[1]
    reached = float((found[:, :, None] == nearest[:, None, :]).any(axis=1).mean())
    worse = reached < recall - LOSS or scanned > GROWTH * expected or index.imbalance > GROWTH * index.imbalance_built
    return Drift(len(added), recall, reached, expected, scanned, index.imbalance_built, index.imbalance, worse)


def _without(ids: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """The first k different ids of each row other than its own. (n, k) int64, -2 where there are fewer"""
    found = np.full((len(ids), k), -2, dtype=np.int64)
    for row, (near, itself) in enumerate(zip(ids.tolist(), own.tolist(), strict=True)):
        different = [number for number in dict.fromkeys(near) if number not in (itself, -1)][:k]
        found[row, : len(different)] = different
    return found


def _vectors_of(index: SearchedIndex, ids: np.ndarray) -> np.ndarray:
    """The vectors of some ids, as their codes have them. ids ascending; returns (n, dim) float32"""
    lists = index.faiss_index.invlists
    assert lists is not None
    x = np.empty((len(ids), index.model.dim), dtype=np.float32)
    for i, size in enumerate(index.sizes):
        if not size:
            continue
        here = faiss.rev_swig_ptr(lists.get_ids(i), int(size))
        for offset in np.flatnonzero(np.isin(here, ids)):
            x[np.searchsorted(ids, here[offset])] = _vector(index.faiss_index, i << 32 | int(offset))
    return x
