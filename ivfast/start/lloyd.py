"""k-means where an accelerator finds the nearest centers: FAISS' rules, with its own search on the host left out."""

import io
from contextlib import redirect_stdout

import numpy as np

from ivfast.data.exact import DeviceSearch, searcher
from ivfast.runtime.progress import Bar

ROWS = 262_144  # searched at once


def cluster(
    x: np.ndarray, nlist: int, niter: int, seed: int, metric: str, least_improvement: float, search: DeviceSearch,
    bar: Bar,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Lloyd's iterations from drawn rows; an empty center takes half of a crowded one, as in FAISS.

    x: (n, dim) float32; metric: IP: spherical
    least_improvement: share of the objective by which an iteration improves it at least, else it is the last
    returns: centers (nlist, dim) float32, and the iterations that were done
    """
    draw = np.random.RandomState(seed % 2**32)  # what faiss.contrib draws from
    centers, before = _on_sphere(x[draw.choice(len(x), nlist, replace=False)], metric), None
    done = 0
    while done < niter:
        find = searcher(centers, metric, search)
        sums, counts, objective = np.zeros(centers.shape), np.zeros(nlist), 0.0
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS]
            distances, nearest = (found[:, 0] for found in find(rows, 1))
            objective += float(distances.sum(dtype=np.float64))
            counts += np.bincount(nearest, minlength=nlist)
            _add_by_bucket(sums, rows, nearest)
        means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        _fill_empty(counts, means, draw)
        centers = _on_sphere(means, metric)
        done += 1
        bar.advance(1)
        if before is not None and abs(before - objective) < least_improvement * abs(before):
            break
        before = objective
    return centers, done


def _fill_empty(counts: np.ndarray, means: np.ndarray, draw: np.random.RandomState) -> None:
    """Give empty centers half of crowded ones, in place. counts: (nlist,); means: (nlist, dim) float32"""
    with redirect_stdout(io.StringIO()):  # faiss.contrib prints a line where scipy, which this needs not, is absent
        from faiss.contrib.clustering import reassign_centroids
    reassign_centroids(counts, means, draw)


def _add_by_bucket(sums: np.ndarray, x: np.ndarray, buckets: np.ndarray) -> None:
    """Add each row to its bucket's sum: sorted by bucket, since np.add.at takes one row after the other."""
    order = np.argsort(buckets, kind="stable")
    first = np.flatnonzero(np.diff(buckets[order], prepend=-1))
    sums[buckets[order[first]]] += np.add.reduceat(x[order], first, axis=0, dtype=np.float64)


def _on_sphere(centers: np.ndarray, metric: str) -> np.ndarray:
    if metric != "IP":
        return centers
    norms = np.linalg.norm(centers, axis=1, keepdims=True)
    return np.divide(centers, norms, out=centers.copy(), where=norms > 0)
