"""An index that grows: new vectors placed by the rule of the others, vectors taken out, and what has drifted."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import without_self
from ivfast.index.entries import ids_at, stored_ids, vectors_at, vectors_of
from ivfast.index.fill import add_entries, on_disk
from ivfast.index.index import SearchedIndex, whole_numbers
from ivfast.index.place import RANKS, Askers
from ivfast.index.probing import chosen, search_distinct, search_lists
from ivfast.runtime.errors import UserError
from ivfast.store.reverse import reverse_neighbors

BATCH = 16_384  # vectors that are placed at once
SPARE = 4  # times as many near vectors are looked at as count as askers
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
        if np.shape(vectors) == (0, self.model.dim):
            return np.empty(0, np.int64)
        return add_vectors(self, self.model.as_stored(vectors, "vectors"))

    def remove(self, ids: np.ndarray) -> int:
        """Take vectors out, with all their copies. ids: (n,) integers; returns how many vectors were there"""
        return remove_vectors(self, whole_numbers(ids, "ids"))

    def drift(self, recall: float = 0.9) -> Drift:
        """Whether what was added still resembles what was learned, and whether to train again.

        It says nothing of what was removed: a recall that is asked for may be missed after much of base has gone.

        recall: of the 10 nearest, to search for
        raises: UserError where nothing was added
        """
        return measure_drift(self, recall)


def add_vectors(index: SearchedIndex, rows: np.ndarray) -> np.ndarray:
    """Place and store rows, batch by batch: those of one batch are askers of the next ones.

    rows: (n, dim) float32, as stored; returns their ids
    """
    if index.kind.endswith("x4fs"):
        raise UserError(f"kind {index.kind!r}: packed codes can't be added to list by list; make the index again")
    _refuse_on_disk(index)
    for start in range(0, len(rows), BATCH):
        block = rows[start : start + BATCH]
        ids = np.arange(index.next_id, index.next_id + len(block))
        askers, reach = _askers(index, block, index.model.asking)
        buckets = index.model.place_new(block, index.copies, askers, index.probes_use)
        entry, column = np.nonzero(buckets >= 0)
        add_entries(index.faiss_index, block[entry], ids[entry], buckets[entry, column])
        index.reach = np.concatenate([index.reach, reach])
        index.next_id += len(block)
        index.n += len(block)
        index.refresh()
    return np.arange(index.next_id - len(rows), index.next_id)


def _askers(index: SearchedIndex, rows: np.ndarray, weights: np.ndarray) -> tuple[Askers, np.ndarray]:
    """Who will ask for new vectors: those who would have one among their own nearest, stored or new themselves.

    They are looked for among four times as many near vectors as count. How near their own nearest are is known (see
    `reach_of`), and with it at which place a new vector would stand among these.

    weights: (k,) of `asking_weights`; returns the askers, and the reach of the new vectors, (n, 8)
    """
    n, most = len(rows), SPARE * len(weights)
    scores, pairs, ids = _near(index, rows, most)
    sign = np.float32(-1 if index.model.metric == "IP" else 1)
    own, mates = faiss.knn(rows, rows, min(most + 1, n), metric=index.faiss_index.metric_type)
    itself = mates == np.arange(n)[:, None]
    worth = [np.where(ids >= 0, sign * scores, np.inf), np.where(itself, np.inf, sign * own)]  # smaller is nearer
    everyone = np.sort(np.concatenate(worth, axis=1), axis=1)
    reach = sign * everyone[:, np.minimum(RANKS, everyone.shape[1]) - 1].astype(np.float32)
    parts = [
        places(worth[0], sign * index.reach[np.maximum(ids, 0)]),
        places(worth[1], sign * reach[mates]),
    ]
    (row, column), (new, mate) = (np.nonzero(place < len(weights)) for place in parts)
    once, number = np.unique(pairs[row, column], return_inverse=True)
    x = np.concatenate([rows, vectors_at(index.faiss_index, once)])
    reverse = reverse_neighbors(
        stored=np.concatenate([row, new]),
        asker=np.concatenate([n + number, mates[new, mate]]),
        place=np.concatenate([parts[0][row, column], parts[1][new, mate]]),
        own=np.arange(n),
        weights=weights,
    )
    return Askers(x, reverse), reach


def places(distances: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """At which place, 0 the nearest, one would stand among those whose reach is known: midway between known ranks.

    distances: (n, m), smaller is nearer, inf: none; reach: (n, m, 8) likewise; returns (n, m) int64, above all: 2^30
    """
    nearer = (reach < distances[:, :, None]).sum(axis=2)
    borders = np.append(0, RANKS)
    middle = np.append((borders[:-1] + borders[1:] - 1) // 2, 1 << 30)
    return np.where(np.isfinite(distances), middle[nearer], 1 << 30)


def _near(index: SearchedIndex, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The near vectors that are stored, as their codes have them.

    returns: scores (n, m) float32, where they lie (n, m) int64, and ids (n, m) int64, -1 where none or a twin
    """
    most = min(k, index.calibration.most_k)
    threshold = index.threshold(most, min(FOUND, index.calibration.best(most)), None, None)
    many = k + int(np.ceil(k * index.copies))
    scores, pairs = search_lists(
        index.faiss_index, rows, many, *chosen(index.candidates(rows, threshold), threshold), pairs=True
    )
    once, at = np.unique(pairs, return_inverse=True)
    ids = ids_at(index.faiss_index, once)[at.reshape(pairs.shape)]
    order = np.argsort(ids, axis=1, kind="stable")
    by_id = np.take_along_axis(ids, order, axis=1)
    twin = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(twin, order[:, 1:], by_id[:, 1:] == by_id[:, :-1], axis=1)
    return scores, pairs, np.where(twin, -1, ids)


def _refuse_on_disk(index: SearchedIndex) -> None:
    """Lists on disk are what was saved: FAISS would change them in place, before anybody saves the rest."""
    if on_disk(index.faiss_index) is not None:
        raise UserError("the lists of this index are on disk and can't be changed in place; make it again")


def remove_vectors(index: SearchedIndex, ids: np.ndarray) -> int:
    """Take out all entries of some ids."""
    _refuse_on_disk(index)
    ids = np.unique(ids)
    there = stored_ids(index.faiss_index)
    gone = np.intersect1d(ids, there)
    if len(gone):
        index.faiss_index.remove_ids(faiss.IDSelectorBatch(gone))
        index.n -= len(gone)
        index.refresh()
    return len(gone)


def measure_drift(index: SearchedIndex, recall: float, k: int = 10) -> Drift:
    """Search vectors that were added, by the threshold that was measured on what was there before.

    raises: UserError where nothing was added
    """
    ids = stored_ids(index.faiss_index)
    added = ids[ids >= index.n_built]
    if not len(added):
        raise UserError("drift: nothing was added to this index; add vectors first")
    sample = added[np.linspace(0, len(added) - 1, min(SAMPLE, len(added))).astype(np.int64)]
    x, k = vectors_of(index.faiss_index, sample), min(k, len(ids) - 1, index.calibration.most_k)
    everything = index.prober.rank(x, index.model.nlist, index.shares)
    exact = search_distinct(index.faiss_index, x, k + 1, everything.buckets, everything.distances, index.copies)[1]
    one = index.reached(index.threshold(k, recall, None, None), x, k, recall, without_self(exact, sample), sample)
    expected = one.expected.scanned
    worse = (
        one.recall < recall - LOSS
        or one.scanned > GROWTH * expected
        or index.imbalance > GROWTH * index.imbalance_built
    )
    return Drift(len(added), recall, one.recall, expected, one.scanned, index.imbalance_built, index.imbalance, worse)
