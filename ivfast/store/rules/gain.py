"""Gain: a vector goes where its membership is largest beside what looking into the bucket costs."""

from dataclasses import dataclass

import numpy as np

from ivfast.route.distances import log_softmax
from ivfast.route.routers import Tile
from ivfast.store.rules.rule import best


@dataclass(frozen=True, eq=False)
class Gain:
    """Keys are log p_b - log m_b: gain over cost, since a bucket of large m holds and costs more."""

    storing_t: float
    log_use: np.ndarray  # (nlist,) float32, log m at storing_t

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        return best(log_softmax(tile.z, self.storing_t) - self.log_use, width)
