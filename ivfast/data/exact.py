"""Exact nearest neighbours, block by block."""

import faiss
import numpy as np

from ivfast.data.vectors import Space, Vectors, rows_per_block
from ivfast.runtime.progress import Bar


def nearest_among(
    x: np.ndarray, vectors: Vectors, space: Space, rows: np.ndarray, k: int, bar: Bar | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The exact k nearest of x among rows of vectors, which are read block by block.

    returns: inner products or squared distances (n, k) float32, and rows (n, k), nearest first
    """
    metric = faiss.METRIC_INNER_PRODUCT if space.metric == "IP" else faiss.METRIC_L2
    heap = faiss.ResultHeap(len(x), min(k, len(rows)), keep_max=space.metric == "IP")
    step = rows_per_block(vectors.dim)
    for start in range(0, len(rows), step):
        block = vectors.take(space, rows[start : start + step])
        distances, near = faiss.knn(x, block, min(k, len(block)), metric=metric)
        heap.add_result(distances, near + start)
        if bar is not None:
            bar.advance(len(block))
    heap.finalize()
    return heap.D, rows[heap.I]
