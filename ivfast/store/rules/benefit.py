"""Benefit: the default rule of trained routers. It goes by what is known of who asks, and by whether there are copies.

Store each vector where its askers gain most for what looking there costs. Where nobody is known to ask, the
vector's own memberships stand in for them.
"""

from ivfast.store.rules.copies import Copies
from ivfast.store.rules.gain import Gain
from ivfast.store.rules.only_bucket import OnlyBucket
from ivfast.store.rules.rule import Rule, Terms, log_use


def make(terms: Terms) -> Rule:
    """Copies where there are any, else the only bucket as askers wish it, else the vector's own gain."""
    assert terms.m is not None
    gain = Gain(terms.storing_t, log_use(terms.m))
    if terms.copies > 0:
        return Copies(gain, terms.demand)
    return gain if terms.demand is None else OnlyBucket(gain, terms.demand)
