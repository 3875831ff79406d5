"""Ties in a search of an index: vectors found that are as near to a query as the last right answer."""

import faiss
import numpy as np

from ivfast.data.ties import SAME, of_pairs
from ivfast.index.entries import stored_ids, vectors_of

NEARLY = 1e-4  # FAISS' scores are float32: whoever is nearer than this is looked at in float64


def tied(index: faiss.IndexIVF, x: np.ndarray, ids: np.ndarray, scores: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Which vectors found are as near as the last right answer.

    index: one that stores vectors as they are
    x: (n, dim) float32 queries; ids, scores: (n, k) of a search, -1: none; last: (n,) ids of the last right answers
    returns: (n, k) bool; False where the last right answer is not stored any more
    """
    metric = "IP" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "L2"
    there = np.isin(last, stored_ids(index))
    answers, place = np.unique(last[there], return_inverse=True)
    distance, tolerance = np.zeros(len(x)), np.full(len(x), -1.0)
    distance[there], tolerance[there] = of_pairs(x[there], vectors_of(index, answers)[place], metric)
    sign = -1 if metric == "IP" else 1
    near = np.abs(sign * scores - distance[:, None]) <= NEARLY / SAME * tolerance[:, None]
    row, column = np.nonzero((ids >= 0) & near)
    once, place = np.unique(ids[row, column], return_inverse=True)
    found = np.zeros(ids.shape, dtype=bool)
    theirs, _ = of_pairs(x[row], vectors_of(index, once)[place], metric)
    found[row, column] = np.abs(theirs - distance[row]) <= tolerance[row]
    return found
