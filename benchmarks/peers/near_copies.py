"""The rules of `copies`, for a million vectors: each looks at the nearest 32 buckets of a vector instead of at all.

Distances between vectors and centers come from one search, those between centers from one table, so that a rule is a
few look-ups a vector. A bucket beyond the nearest 32 of thousands never has the least loss.
"""

from functools import cached_property

import faiss
import numpy as np

from benchmarks.peers.copies import MOST_REPLICAS, TINY

NEAREST = 32  # buckets looked at


class Near:
    """The nearest buckets of unit rows, nearest first, by the inner product with centers of any norm.

    x: (n, dim) float32; centers: (nlist, dim) float32
    """

    def __init__(self, x: np.ndarray, centers: np.ndarray, width: int = NEAREST) -> None:
        width = min(width, len(centers))
        quantizer = faiss.IndexFlatIP(centers.shape[1])
        quantizer.add(np.ascontiguousarray(centers))
        products, buckets = quantizer.search(x, width)
        self.buckets = buckets.astype(np.int32)
        squares = np.square(centers).sum(axis=1)
        self.d2 = np.maximum(1 + squares[self.buckets] - 2 * products, TINY)  # (n, width) float32
        self.products, self.centers = products, centers

    @cached_property
    def between(self) -> np.ndarray:
        """Inner products of centers, (nlist, nlist) float32."""
        return self.centers @ self.centers.T

    @cached_property
    def along(self) -> np.ndarray:
        """<r, r'> of the residual at the nearest bucket and at each other one, (n, width) float32.

        <x - c_1, x - c> = |x|^2 - <x, c_1> - <x, c> + <c_1, c>
        """
        along = 1 - self.products[:, :1] - self.products
        for start in range(0, len(along), 65_536):
            block = self.buckets[start : start + 65_536]
            along[start : start + 65_536] += self.between[block[:, :1], block]
        return along

    def one_copy(self, weight: float, *, squared: bool) -> tuple[np.ndarray, np.ndarray]:
        """SOAR's rule (squared) or RAIRS', see `copies.OneCopy`.

        weight: lambda
        returns: buckets (n, 2) int32 and keys (n, 2) float32, as a Rule has them
        """
        along = np.square(self.along) / self.d2[:, :1] if squared else self.along
        losses = self.d2 + weight * along
        losses[:, 0] = np.inf
        second, rows = losses.argmin(axis=1), np.arange(len(losses))
        keys = np.zeros((len(losses), 2), dtype=np.float32)
        keys[:, 1] = -losses[rows, second] / ((1 + weight) * self.d2[:, 0])
        return np.stack([self.buckets[:, 0], self.buckets[rows, second]], axis=1), keys

    def spann(self) -> tuple[np.ndarray, np.ndarray]:
        """See `copies.Spann`; returns buckets (n, 8) int32, -1 where none, and keys (n, 8) float32."""
        squares = np.diag(self.between)
        near, d2 = self.buckets[:, :MOST_REPLICAS], self.d2[:, :MOST_REPLICAS]
        kept = np.zeros(near.shape, dtype=bool)
        kept[:, 0] = True
        for j in range(1, near.shape[1]):
            this, taken = near[:, j, None], near[:, :j]
            apart = squares[this] + squares[taken] - 2 * self.between[this, taken]
            kept[:, j] = ~((apart < d2[:, j, None]) & kept[:, :j]).any(axis=1)
        return np.where(kept, near, -1), (np.log(d2[:, :1]) - np.log(d2)) / 2


def cut(buckets: np.ndarray, keys: np.ndarray, copies: float) -> np.ndarray:
    """The first bucket of each vector, and of all others the `copies` n best; -1 where not stored.

    buckets: (n, width) int32, -1 where there is none; keys: (n, width) float32
    """
    offered = np.where(buckets[:, 1:] >= 0, keys[:, 1:], -np.inf)
    budget = min(round(copies * len(buckets)), int((offered > -np.inf).sum()))
    if budget == 0:
        return buckets[:, :1]
    border = np.partition(offered.ravel(), offered.size - budget)[offered.size - budget]
    return np.concatenate([buckets[:, :1], np.where(offered >= border, buckets[:, 1:], -1)], axis=1)
