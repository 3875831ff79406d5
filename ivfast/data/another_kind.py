"""Whether queries are of another kind than what is stored: told by how far from it they lie, beside its own rows."""

import numpy as np

FARTHER = 0.65  # share of pairs in which a query lies farther than a row of base; of 100 each it errs by 0.04


def farther(asked: np.ndarray, own: np.ndarray) -> float | None:
    """How often one of the first is larger than one of the second: a half where they are of one kind.

    asked, own: (n,) distances of queries, and of rows of base, to the nearest row of base
    returns: the U of Mann and Whitney, as a share; None where nothing is known of rows
    """
    if not len(own):
        return None
    more = (asked[:, None] > own).mean() + (asked[:, None] == own).mean() / 2
    return float(more)


def is_another_kind(share: float | None) -> bool:
    """Whether queries lie farther than rows do, beyond chance. share: of `farther`"""
    return (share or 0) > FARTHER


def in_words(asked: float, own: float) -> str:
    """What is said of it, from the medians of both distances."""
    return (
        f"queries are of another kind than what is stored: their nearest vector lies {asked / own:.2f} times as far as "
        "that of rows of base, in the median"
    )
