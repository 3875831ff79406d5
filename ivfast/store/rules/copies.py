"""Copies: after its first bucket a vector is stored where its askers look and the buckets taken do not reach."""

from dataclasses import dataclass

import numpy as np

from ivfast.route.tiles import Tile
from ivfast.store.demand import Demand, TileAskers
from ivfast.store.rules.gain import Gain

MISSED = 10.0  # times the share of answers that may be missed: the power of how much a vector is asked for


@dataclass(frozen=True, eq=False)
class Copies:
    """Takes the buckets of largest gain one by one, each for what those before it leave."""

    gain: Gain
    demand: Demand | None  # None: nobody asks, a vector's own memberships decide
    power: float = 1.0  # of how much a vector is asked for, see `asked_power`
    wait: float = 0.0  # by which keys of second and further copies are lowered

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        buckets, keys = self.gain.rank(tile, width)
        if width == 1 or tile.crossing is None:
            return buckets, keys
        crossing = tile.crossing(buckets) * np.float32(crossing_weight(self.power) / self.gain.storing_t)
        if self.demand is None:
            return cover(buckets, keys, crossing, power=self.power, wait=self.wait)
        askers = self.demand.askers(tile.start, len(tile.z))
        buckets, keys, crossing = (askers.of_vectors(known) for known in (buckets, keys, crossing))
        found, worth = cover(buckets, keys, crossing, askers, self.power, self.wait)
        return askers.of_rows(found), askers.of_rows(worth)


def asked_power(recall: float) -> float:
    """The power of how much a vector is asked for, by which its copies count: 1 up to a recall of 0.9, 0.1 at 0.99.

    The more of all answers is to be found, the more of what is missing are vectors that few ask for. Where all is to be
    found, one vector counts as much as another (docs/experiments.md, "The recall that is wanted").
    """
    return min(1.0, round(MISSED * (1 - recall), 6))


def crossing_weight(power: float) -> float:
    """How much a copy's overlap with buckets taken counts: half of it up to a recall of 0.95, 0.95 of it at 0.99.

    power: see `asked_power`
    """
    return 0.5 if power >= 0.5 else 1 - power / 2


def cover(
    buckets: np.ndarray, keys: np.ndarray, crossing: np.ndarray, askers: TileAskers | None = None, power: float = 1.0,
    wait: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Order a row's buckets so that each is worth most beside those before it.

    A copy is worth what it adds to the buckets A that hold the vector already, over what it costs. There are two
    estimates of that. One is by the vector's own memberships:

        own_b = log p_b - log m_b - crossing_weight / storing_t sum of crossing_ab over A

    The other is by its askers, y with weight w_y, each of which probes b with chance c_b(y):

        asked_b = log(0.001 + sum_y w_y max(0, c_b(y) - max of c_a(y) over A)) - log mean c_b

    The key is the mean of the two logarithms, (own_b + log sum_y w_y + asked_b) / 2. That is the geometric mean of
    both estimates, which scanned less than either alone (docs/experiments.md, "Copies for those who will ask").
    Where nobody is known to ask it is own_b. Both estimates hold sum_y w_y once; other powers of it are put in its
    place where another recall is wanted: the key has (power - 1) log sum_y w_y beside.

    Where nearly all is to be found, a vector that has no copy yet may be missed sooner than one that has. So the keys
    of second and further copies are lowered by wait: then these tend to come after the first copies of other vectors.

    buckets, keys: (n, width), the first stays; crossing: (n, width, width), times crossing_weight / storing_t
    returns: both, reordered; keys fall along each row after the first; ties go to the smaller bucket
    """
    n, width = buckets.shape
    rows = np.arange(n)
    order = np.argsort(buckets, axis=1)
    order = np.concatenate([np.zeros((n, 1), order.dtype), order[order > 0].reshape(n, width - 1)], axis=1)
    own = np.take_along_axis(keys, order, axis=1)
    own[:, 0] = -np.inf  # taken
    gain = None if askers is None else askers.gain(np.take_along_axis(buckets, order, axis=1), power)
    best = np.zeros(n, dtype=np.int64)
    chosen, found = np.zeros((n, width), dtype=np.int64), keys.copy()
    for place in range(1, width):
        own -= np.take_along_axis(crossing[rows, chosen[:, place - 1]], order, axis=1)
        key = own if gain is None else (own + gain.after(best)) / 2
        best = key.argmax(axis=1)
        chosen[:, place], found[:, place] = order[rows, best], key[rows, best]
        own[rows, best] = -np.inf
    found[:, 2:] -= np.float32(wait)
    return np.take_along_axis(buckets, chosen, axis=1), found
