"""A second opinion: assignment and search from DESIGN's words, in plain float64 NumPy."""

import numpy as np


def distances(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, nlist) float64."""
    x, centers = x.astype(np.float64), centers.astype(np.float64)
    d2 = (x * x).sum(1)[:, None] - 2 * x @ centers.T + (centers * centers).sum(1)
    return np.maximum(d2, 0)


def logits(x: np.ndarray, centers: np.ndarray, k: float) -> np.ndarray:
    """-k d^2 / (mean of the four smallest d^2)."""
    d2 = distances(x, centers)
    return -k * d2 / np.partition(d2, 3, axis=1)[:, :4].mean(axis=1, keepdims=True)


def softmax(z: np.ndarray) -> np.ndarray:
    """Rows sum to 1."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def share_for_90(order: np.ndarray, primary: np.ndarray, gt: np.ndarray, nlist: int) -> float:
    """Share of base scanned for 90 % of gt, every vector stored once, the same nprobe for all.

    order: (n_query, nlist) buckets, best first; primary: (n,) bucket of each base vector
    """
    sizes = np.bincount(primary, minlength=nlist)
    scanned = np.cumsum(sizes[order], axis=1).mean(axis=0) / len(primary)
    place = np.argsort(order, axis=1)
    found = np.take_along_axis(place, primary[gt], axis=1)
    recall = np.array([(found <= i).mean() for i in range(nlist)])
    i = int(np.argmax(recall >= 0.9))
    if i == 0:
        return float(scanned[0])
    part = (0.9 - recall[i - 1]) / (recall[i] - recall[i - 1])
    return float(scanned[i - 1] + part * (scanned[i] - scanned[i - 1]))


def nearest_share(base: np.ndarray, query: np.ndarray, gt: np.ndarray, centers: np.ndarray) -> float:
    """What a plain IVF engine scans."""
    order = np.argsort(distances(query, centers), axis=1, kind="stable")
    return share_for_90(order, distances(base, centers).argmin(1), gt, len(centers))


def benefit_share(
    base: np.ndarray, query: np.ndarray, gt: np.ndarray, learn: np.ndarray, centers: np.ndarray, k: float
) -> float:
    """Stored by the largest p / m, m the mean p over learn."""
    m = softmax(logits(learn, centers, k)).mean(axis=0)
    primary = (softmax(logits(base, centers, k)) / m).argmax(1)
    order = np.argsort(distances(query, centers), axis=1, kind="stable")
    return share_for_90(order, primary, gt, len(centers))
