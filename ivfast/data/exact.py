"""Exact nearest neighbours, block by block."""

from collections.abc import Callable, Iterable

import faiss
import numpy as np

from ivfast.data.vectors import BLOCK_BYTES, Points, rows_per_block
from ivfast.runtime.progress import Bar, Progress

# x (n, dim), blocks of others (m, dim), k, metric -> the k nearest: closeness (n, k) float32 and numbers (n, k) int32
DeviceSearch = Callable[[np.ndarray, Iterable[np.ndarray], int, str], tuple[np.ndarray, np.ndarray]]


def flat_index(dim: int, metric: str) -> faiss.Index:
    """An empty FAISS index that compares a query with everything. metric: IP or L2"""
    return faiss.IndexFlatIP(dim) if metric == "IP" else faiss.IndexFlatL2(dim)


def searcher(
    rows: np.ndarray, metric: str, search: DeviceSearch | None = None
) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """What finds the exact k nearest of x among rows: FAISS, or an accelerator's search where there is one.

    rows: (m, dim) float32, k or more
    returns: a call (x (n, dim) float32, k) -> inner products or squared distances (n, k) float32 and numbers (n, k)
    """
    if search is None:
        index = flat_index(rows.shape[1], metric)
        index.add(rows)
        return index.search

    def on_device(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        closeness, numbers = search(x, [rows], k, metric)
        if metric == "IP":
            return closeness, numbers
        return np.maximum(np.square(x).sum(axis=1, keepdims=True) - closeness, 0), numbers

    return on_device


def nearest_among(
    x: np.ndarray, points: Points, rows: np.ndarray, k: int, bar: Bar | None = None, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """The exact k nearest of x among some of the points, which are read block by block.

    x: (n, dim) float32; rows: (m,) those of points that are searched
    returns: inner products or squared distances (n, k) float32, and rows (n, k), nearest first; k is at most m
    """
    metric = faiss.METRIC_INNER_PRODUCT if points.metric == "IP" else faiss.METRIC_L2
    heap = faiss.ResultHeap(len(x), min(k, len(rows)), keep_max=points.metric == "IP")
    step = rows_per_block(points.dim, block_bytes)
    for start in range(0, len(rows), step):
        block = points.x(rows[start : start + step])
        distances, near = faiss.knn(x, block, min(k, len(block)), metric=metric)
        heap.add_result(distances, near + start)
        if bar is not None:
            bar.advance(len(block))
    heap.finalize()
    return heap.D, rows[heap.I]


def nearest_of(
    rows: np.ndarray, points: Points, among: np.ndarray, k: int, title: str, progress: Progress,
    block_bytes: int = BLOCK_BYTES,
) -> np.ndarray:  # fmt: skip
    """The exact k nearest of some points among others of them, itself left out, nearest first.

    rows: (n,) numbers of points; among: (m,) those that are searched, more than k
    returns: (n, k) int64 numbers of points
    """
    found = np.empty((len(rows), k), dtype=np.int64)
    step = rows_per_block(points.dim, block_bytes)
    with progress.bar(title, len(among) * -(-len(rows) // step), "rows compared with") as bar:
        for start in range(0, len(rows), step):
            own = rows[start : start + step]
            near = nearest_among(points.x(own), points, among, k + 1, bar, block_bytes)[1]
            found[start : start + step] = without_self(near, own)
    return found


def without_self(near: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Drop each row's own number, or its last entry where that is not among them.

    near: (n, k + 1) numbers, nearest first; ids: (n,) the rows' own; returns (n, k)
    """
    return near[others(near, ids)].reshape(len(near), near.shape[1] - 1)


def others(near: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """What `without_self` leaves, (n, k + 1) bool, k of each row."""
    own = near == ids[:, None]
    own[~own.any(axis=1), -1] = True
    return ~own
