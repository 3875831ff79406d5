"""What was fitted for a router, as records: how it ranks, and how a base is stored for each number of copies."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from ivfast.method import RECALL
from ivfast.route.routers import RouterKind
from ivfast.store.demand import Demand
from ivfast.store.place import Plan, make_plans
from ivfast.store.rules import RULES
from ivfast.store.rules.rule import Terms


class Predicted(NamedTuple):
    """What a search takes for one level of recall, fixed probing, predicted from learn alone."""

    nprobe: float  # linear between neighbouring whole ones
    scanned: float  # share of the vectors stored, copies counted


class Storing(NamedTuple):
    """How a base is stored with so many copies under the router's default rule, and what a search will scan."""

    copies: float  # extra entries over the vectors stored, 0.8 is four in five
    predicted: dict[str, Predicted]  # by level of recall, as "0.90"
    storing_t: float | None  # T_s, at which memberships are taken; None of k-means, whose rule takes none
    m: np.ndarray | None  # (nlist,) float64, mean membership over learn at storing_t; None of k-means
    wait: float = 0.0  # by which keys of second and further copies are lowered


class Facts(NamedTuple):
    """Numbers that go with one router."""

    k: float  # sharpness of the logits
    probing_t: float  # T, of adaptive probing
    nprobe: float  # at which the best buckets of 90 % of held-out answers are probed, or of another recall
    storings: tuple[Storing, ...]
    calibration_error: float  # of softmax(z / probing_t), as chances that a right answer lies in a bucket
    recall: float = RECALL  # that searches are to reach

    def storing(self, copies: float) -> Storing | None:
        """The record for so many copies, None where they were not trained for."""
        return next((storing for storing in self.storings if same_copies(copies, storing.copies)), None)

    def terms(self, copies: Iterable[float], demand: Demand | None) -> list[Terms]:
        """What rules are built from, for each number of copies; each has a record."""
        found = []
        for number in copies:
            storing = self.storing(number)
            assert storing is not None
            known = storing.storing_t or 1.0, storing.m, demand, self.recall, storing.wait
            found.append(Terms(storing.copies, *known))
        return found


def storing_ts(facts: Facts | None) -> set[float]:
    """Temperatures at which memberships are asked for where a base is stored."""
    fitted = (storing.storing_t for storing in facts.storings) if facts else ()
    return {storing_t for storing_t in fitted if storing_t is not None}


def same_copies(one: Any, other: float) -> bool:
    """Whether a caller means this number: 0.8 in float32 is another number than 0.8."""
    return isinstance(one, Real) and math.isclose(float(one), other, rel_tol=1e-6)


def router_plans(
    kind: RouterKind, facts: Facts | None, copies: Iterable[float], demand: Demand | None = None
) -> list[Plan]:
    """Every rule that a router has, for each number of copies. Without facts: those that need none fitted."""
    if facts is None:
        return make_plans((name for name in kind.rules if not RULES[name].fitted), [Terms(number) for number in copies])
    return make_plans(kind.rules, facts.terms(copies, demand))
