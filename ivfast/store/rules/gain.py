"""Gain: a vector goes where its membership is largest beside what looking into the bucket costs."""

from dataclasses import dataclass

import numpy as np

from ivfast.route.tiles import Tile


@dataclass(frozen=True, eq=False)
class Gain:
    """Keys are log p_b - log m_b: gain over cost, since a bucket of large m holds and costs more."""

    storing_t: float
    log_use: np.ndarray  # (nlist,) float32, log m at storing_t

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        return tile.best(tile.log_p(self.storing_t) - tile.of_buckets(self.log_use), width)
