"""Only bucket: where a vector without copies goes, so that those who ask for it find it."""

from dataclasses import dataclass

import numpy as np

from ivfast.route.tiles import Tile
from ivfast.store.demand import Demand, TileAskers
from ivfast.store.rules.gain import Gain

# How much a vector's own gain counts beside what its askers gain: docs/experiments.md, "How much an asker counts".
OWN_WEIGHT = 0.6


@dataclass(frozen=True, eq=False)
class OnlyBucket:
    """Orders the buckets of largest gain by what each gains as a vector's only one."""

    gain: Gain
    demand: Demand

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        buckets, keys = self.gain.rank(tile, width)
        askers = self.demand.askers(tile.start, len(tile.z))
        found, worth = only_bucket(askers.of_vectors(buckets), askers.of_vectors(keys), askers)
        return askers.of_rows(found), askers.of_rows(worth)


def only_bucket(buckets: np.ndarray, keys: np.ndarray, askers: TileAskers) -> tuple[np.ndarray, np.ndarray]:
    """Order a row's buckets by what each gains as its only one.

        key_b = surplus_b + 0.6 (log p_b - log m_b)     surplus: of the askers, see TileAskers.surplus

    buckets: (n, width); keys: (n, width) log p_b - log m_b
    returns: both, by falling key; ties go to the smaller bucket
    """
    total = askers.surplus(buckets) + np.float32(OWN_WEIGHT) * keys
    order = np.lexsort((buckets, -total), axis=1)
    return np.take_along_axis(buckets, order, axis=1), np.take_along_axis(total, order, axis=1)
