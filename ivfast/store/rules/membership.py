"""Membership: a vector goes where a query for it is most likely to look, by its own logits."""

from dataclasses import dataclass

import numpy as np

from ivfast.route.tiles import Tile
from ivfast.store.rules.rule import Terms


@dataclass(frozen=True)
class Membership:
    """Keys are log p_b, p the softmax of z / storing_t."""

    storing_t: float

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        return tile.best(tile.log_p(self.storing_t), width)


def make(terms: Terms) -> Membership:
    """At storing_t, with nothing else."""
    return Membership(terms.storing_t)
