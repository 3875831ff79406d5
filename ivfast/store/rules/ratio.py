"""Ratio: the vendor's rule. A vector goes to its nearest center, and is copied where a second one is about as near."""

from dataclasses import dataclass

import numpy as np

from ivfast.route.tiles import Tile
from ivfast.store.rules.rule import Terms


@dataclass(frozen=True)
class Ratio:
    """Keys are log d_1 - log d_b, d the distance to a center.

    Logits of centers are -k d^2 / delta, so that is (log z_1 - log z_b) / 2. It is 0 where both distances are 0, and
    -inf where only d_1 is. Source: the description of the vendor's fuzzy assignment, made safe for negative products.
    """

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        buckets, z = tile.best(tile.z, width)
        return buckets, self._keys(z)

    @staticmethod
    def _keys(z: np.ndarray) -> np.ndarray:
        """z: (rows, width) falling, at most 0"""
        with np.errstate(divide="ignore", invalid="ignore"):
            keys = (np.log(-z[:, :1]) - np.log(-z)) / 2
        return np.where(z == z[:, :1], np.float32(0), keys)


def make(terms: Terms) -> Ratio:
    """Nothing is fitted for it."""
    del terms
    return Ratio()
