"""What a rule of storing is, and what it may be built from."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ivfast.method import LEAST_USE, RECALL
from ivfast.route.tiles import Tile
from ivfast.store.demand import Demand


class Rule(Protocol):
    """Says which buckets a vector is best stored in."""

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `width` buckets of each row, or fewer, and the key of each as a copy.

        width: at most nlist
        returns: buckets (rows, width) int32, the first the primary, -1 where a row has no further one; and keys
        (rows, width) float32. Copies with larger keys are stored first; the primary's key does not count.
        """
        ...


class Terms(NamedTuple):
    """All that a rule may be built from, for one number of copies."""

    copies: float  # extra entries over the vectors stored, 0.8 is four in five
    storing_t: float = 1.0  # T_s, at which memberships are taken
    m: np.ndarray | None = None  # (nlist,) float64, mean membership over learn at storing_t, sums to 1
    demand: Demand | None = None  # who asks for the vectors (None: not known)
    recall: float = RECALL  # that searches are to reach
    wait: float = 0.0  # by which keys of second and further copies are lowered, see `cover`


class RuleKind(NamedTuple):
    """A row of RULES."""

    make: Callable[[Terms], Rule]
    fitted: bool  # takes a storing_t and m, which are fitted on held-out vectors
    asks: bool = False  # asks who has a vector among its nearest


def log_use(m: np.ndarray) -> np.ndarray:
    """log max(m, 1e-9), (nlist,) float32. m: (nlist,) mean membership, sums to 1"""
    return np.log(np.maximum(m, LEAST_USE)).astype(np.float32)
