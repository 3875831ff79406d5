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

    Nor is anything said of codes, which lie elsewhere than vectors, of lists on disk, which would be read whole, or
    where training was given a log of queries.

    query: (n, dim) floats
    """
    faiss_index = index.faiss_index
    if index.kind != "Flat" or index.model.was_given_log or on_disk(faiss_index) is not None:
        return ""
    ids = stored_ids(faiss_index)
    if not len(ids):
        return ""
    own = vectors_of(faiss_index, ids[spread(len(ids), PROBES)])
    asked = index.model.as_stored(query[spread(len(query), PROBES)], "query")
    of_queries, of_own = _distances(index, asked)[:, 0], _distances(index, own)
    size = np.linalg.norm(own - own.mean(axis=0, dtype=np.float64), axis=1)
    of_own[of_own <= SAME * size[:, None]] = np.inf
    of_own = of_own.min(axis=1)
    of_own = of_own[np.isfinite(of_own)]
    if not is_another_kind(farther(of_queries, of_own)):
        return ""
    return warning_of(float(np.median(of_queries)), float(np.median(of_own)))


def _distances(index: SearchedIndex, x: np.ndarray) -> np.ndarray:
    """To the nearest that are stored. x: (n, dim) float32, as stored; returns (n, 10) float64, inf: no more of them"""
    found = index.search(x, NEAREST, nprobe=index.model.nlist)[0]
    ids = np.unique(found[found >= 0])
    stored = vectors_of(index.faiss_index, ids).astype(np.float64)
    near = stored[np.searchsorted(ids, np.where(found < 0, ids[0], found))]
    distances = np.linalg.norm(near - x[:, None], axis=2)
    distances[found < 0] = np.inf
    return distances
