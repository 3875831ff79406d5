"""Whether queries are of another kind than what is stored: told by how far from it they lie, beside its own rows."""

import numpy as np

PROBES = 100  # queries, and as many rows of base, whose nearest is searched for
LEAST = 30  # of each; fewer differ by chance: of 30 one in 200 draws is called another kind, of 10 one in 16
SAME = 1e-5  # two distances that differ by less, beside the larger of them, are one
FARTHER = 0.65  # share of pairs in which a query lies farther than a row of base; of 100 each it errs by 0.04


def farther(asked: np.ndarray, own: np.ndarray) -> float | None:
    """How often one of the first is larger than one of the second: a half where they are of one kind.

    asked, own: (n,) distances of queries, and of rows of base, to the nearest row of base
    returns: the U of Mann and Whitney, as a share; None where there are fewer than 30 of either
    """
    if min(len(asked), len(own)) < LEAST:
        return None
    more = (asked[:, None] > own).mean() + (asked[:, None] == own).mean() / 2
    return float(more)


def is_another_kind(share: float | None) -> bool:
    """Whether queries lie farther than rows do, beyond chance. share: of `farther`"""
    return (share or 0) > FARTHER


def warning_of(asked: float, own: float, than: str = "what is stored", beside: str = "rows of base") -> str:
    """What is said of it, from the medians of both distances. beside: whose the other ones are"""
    return (
        f"queries are of another kind than {than}: their nearest vector lies {asked / own:.2f} times as far as that of "
        f"{beside}, in the median, so that a recall that is asked for may be missed"
    )
