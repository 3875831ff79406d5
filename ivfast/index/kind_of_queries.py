"""Whether queries lie as near to what an index holds as its own vectors do."""

import numpy as np

from ivfast.data.another_kind import farther, in_words, is_another_kind
from ivfast.index.entries import stored_ids, vectors_of
from ivfast.index.index import SearchedIndex
from ivfast.runtime.draws import spread

PROBES = 100  # queries, and as many stored vectors, whose nearest is searched for
NEAREST = 10  # of a stored vector that are looked at: itself and its twins are left out
SAME = 1e-5  # beside a vector's length: two that lie nearer are one


def tell_another_kind(index: SearchedIndex, query: np.ndarray) -> str:
    """In one line that queries lie farther from what is stored than stored vectors do; "" where they do not.

    query: (n, dim) floats
    """
    if index.kind != "Flat" or index.model.held_out_queries is not None:
        return ""  # codes lie elsewhere than vectors; a log of queries has told the training
    faiss_index = index.faiss_index
    ids = stored_ids(faiss_index)
    own = vectors_of(faiss_index, ids[spread(len(ids), PROBES)])
    asked = index.model.as_stored(query[spread(len(query), PROBES)], "query")
    of_queries, of_own = _distances(index, asked)[:, 0], _distances(index, own)
    of_own[of_own <= SAME * np.linalg.norm(own, axis=1)[:, None]] = np.inf
    of_own = of_own.min(axis=1)
    of_own = of_own[np.isfinite(of_own)]
    if not is_another_kind(farther(of_queries, of_own)):
        return ""
    return in_words(float(np.median(of_queries)), float(np.median(of_own)))


def _distances(index: SearchedIndex, x: np.ndarray) -> np.ndarray:
    """To the nearest that are stored. x: (n, dim) float32, as stored; returns (n, 10) float64, inf: no more of them"""
    found = index.search(x, NEAREST, nprobe=index.model.nlist)[0]
    ids = np.unique(found[found >= 0])
    stored = vectors_of(index.faiss_index, ids).astype(np.float64)
    near = stored[np.searchsorted(ids, np.where(found < 0, ids[0], found))]
    distances = np.linalg.norm(near - x[:, None], axis=2)
    distances[found < 0] = np.inf
    return distances
