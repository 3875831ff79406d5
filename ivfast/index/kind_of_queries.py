"""Of an index: whether queries lie as near to what it holds as its own vectors do."""

import numpy as np

from ivfast.data.another_kind import PROBES, SAME, farther, is_another_kind, warning_of
from ivfast.index.entries import stored_ids, vectors_of
from ivfast.index.fill import on_disk
from ivfast.index.index import SearchedIndex
from ivfast.runtime.draws import spread

NEAREST = 10  # of a stored vector that are looked at: itself and its twins are left out


def tell_another_kind(index: SearchedIndex, query: np.ndarray) -> str:
    """In one line that queries lie farther from what is stored than stored vectors do; "" where they do not.

    Where a log of queries trained, its held-out queries stand for the stored vectors, and queries that lie nearer than
    they do are of another kind, too. Nothing is said of codes, which lie elsewhere than vectors, and of lists on disk,
    which would be read whole.

    query: (n, dim) floats
    """
    faiss_index, logged = index.faiss_index, index.model.held_out_queries
    if index.kind != "Flat" or not len(index) or on_disk(faiss_index) is not None:
        return ""
    of_queries = _distances(index, index.model.as_stored(query[spread(len(query), PROBES)], "query"))[:, 0]
    if logged is not None:
        of_own, others = _distances(index, logged[spread(len(logged), PROBES)])[:, 0], ("the log", "queries of the log")
    else:
        of_own, others = _between_stored(index), ("what is stored", "rows of base")
    nearer = logged is not None and is_another_kind(farther(of_own, of_queries))
    if not nearer and not is_another_kind(farther(of_queries, of_own)):
        return ""
    return warning_of(float(np.median(of_queries)), float(np.median(of_own)), *others)


def _between_stored(index: SearchedIndex) -> np.ndarray:
    """From some stored vectors to the nearest that is no twin, (n,) float64."""
    ids = stored_ids(index.faiss_index)
    own = vectors_of(index.faiss_index, ids[spread(len(ids), PROBES)])
    distances = _distances(index, own)
    size = np.linalg.norm(own - own.mean(axis=0, dtype=np.float64), axis=1)
    distances[distances <= SAME * size[:, None]] = np.inf
    nearest = distances.min(axis=1)
    return nearest[np.isfinite(nearest)]


def _distances(index: SearchedIndex, x: np.ndarray) -> np.ndarray:
    """To the nearest that are stored. x: (n, dim) float32, as stored; returns (n, 10) float64, inf: no more of them"""
    found = index.search(x, NEAREST, nprobe=index.model.nlist)[0]
    ids = np.unique(found[found >= 0])
    stored = vectors_of(index.faiss_index, ids).astype(np.float64)
    near = stored[np.searchsorted(ids, np.where(found < 0, ids[0], found))]
    distances = np.linalg.norm(near - x[:, None], axis=2)
    distances[found < 0] = np.inf
    return distances
