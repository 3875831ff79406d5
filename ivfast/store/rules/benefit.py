"""Benefit: the default rule of trained routers. It goes by what is known of who asks, and by whether there are copies.

Store each vector where its askers gain most for what looking there costs. Where nobody is known to ask, the
vector's own memberships stand in for them.
"""

from dataclasses import dataclass

import numpy as np

from ivfast.route.tiles import Tile
from ivfast.store.rules.copies import Copies, asked_power
from ivfast.store.rules.gain import Gain
from ivfast.store.rules.only_bucket import OnlyBucket
from ivfast.store.rules.rule import Rule, Terms, log_use


def make(terms: Terms) -> Rule:
    """Copies where there are any, else the only bucket as askers wish it, else the vector's own gain."""
    assert terms.m is not None
    gain = Gain(terms.storing_t, log_use(terms.m))
    if terms.copies > 0:
        return InsideLearn(Copies(gain, terms.demand, asked_power(terms.recall), terms.wait))
    return InsideLearn(gain if terms.demand is None else OnlyBucket(gain, terms.demand))


@dataclass(frozen=True, eq=False)
class InsideLearn:
    """The rule for vectors that lie where learn does; others lie in the bucket of their best logit alone.

    Far outside, all logits are about equal: gain would go by cost alone, and askers by nothing.
    """

    rule: Rule

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See Rule."""
        buckets, keys = self.rule.rank(tile, width)
        if tile.outside is not None:
            buckets[tile.outside] = -1
            buckets[tile.outside, 0] = tile.best(tile.z, 1)[0][tile.outside, 0]
        return buckets, keys
