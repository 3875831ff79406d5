"""Exact nearest neighbours, block by block."""

import faiss
import numpy as np

from ivfast.data.vectors import BLOCK_BYTES, Points, rows_per_block
from ivfast.runtime.progress import Bar


def flat_index(dim: int, metric: str) -> faiss.Index:
    """An empty FAISS index that compares a query with everything. metric: IP or L2"""
    return faiss.IndexFlatIP(dim) if metric == "IP" else faiss.IndexFlatL2(dim)


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
