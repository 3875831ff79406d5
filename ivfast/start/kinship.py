"""How much neighbours count: where strangers stand apart among them, they count less than kin."""

import numpy as np

from ivfast.runtime.progress import Bar

OWN_NEAREST = 20  # nearest of each vector that are compared
SURELY_KIN = 5  # two vectors with so many nearest in common are kin, and no more so with more of them
COMPARED = 10_240  # neighbours that are compared at once: so many lists of twenty stay in the processor's cache
HEAP = 0.1  # a heap of counts holds at least a tenth of all pairs
VALLEY = 0.8  # two peaks count as two if the count between them is under 0.8 of the lower one


def kinship(counts: np.ndarray, *, apart: bool) -> np.ndarray:
    """How sure it is that two neighbours are of one kind, by the count of `in_common`.

        kinship(x, y) = min(5, count)^2     where strangers stand apart, else 1

    Above a count of five all pairs are kin alike. Where counts do not fall into two heaps, a low one is no sign of a
    stranger: on text, exact neighbours with little in common are right answers as well.

    counts: (n, k) uint8; returns (n, k) uint8, from 1 to 25
    """
    return np.minimum(SURELY_KIN, counts) ** 2 if apart else np.ones_like(counts)


def strangers_apart(counts: np.ndarray) -> bool:
    """Whether the counts of all pairs fall into two heaps, strangers and kin, with a valley between.

    counts: of `in_common`, of training pairs
    """
    share = np.bincount(counts.ravel()) / max(counts.size, 1)
    for at in range(1, len(share) - 1):
        below, above = share[:at], share[at + 1 :]
        heaps = min(below.sum(), above.sum()) >= HEAP
        if heaps and share[at] < VALLEY * min(below.max(), above.max()):
            return True
    return False


def in_common(
    rows: np.ndarray, nearest: np.ndarray, ftopk: int, *known: tuple[np.ndarray, np.ndarray], compared: int = COMPARED,
    bar: Bar | None = None,
) -> np.ndarray:  # fmt: skip
    """Count what pairs of neighbours have in common.

        count(x, y) = 1 + |({x} + N(x)) & N(y)|

    N holds at most the twenty nearest, and nothing where they are not known. Two images of one person share most of
    their nearest, two strangers that happen to look alike few (Jarvis and Patrick, IEEE Transactions on Computers,
    1973).

    rows: (n,) numbers; nearest: (n, k) of each, of which the first ftopk are the other sides y
    known: numbers, (m,) ascending, and their nearest, (m, any); no number in two of them
    compared: neighbours that are compared at once
    returns: (n, min(ftopk, k)) uint8, 1 to 22
    """
    found = np.empty((len(rows), min(ftopk, nearest.shape[1])), dtype=np.uint8)
    step = max(1, compared // max(1, found.shape[1]))
    for start in range(0, len(rows), step):
        near = nearest[start : start + step]
        own = np.concatenate([rows[start : start + step, None].astype(near.dtype), near[:, :OWN_NEAREST]], axis=1)
        found[start : start + step] = 1 + sum(_in_common(own, near[:, :ftopk], *one) for one in known)
        if bar is not None:
            bar.advance(len(near))
    return found


def _in_common(own: np.ndarray, near: np.ndarray, numbers: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Of the nearest of `near`, those in `own`; 0 where near isn't among numbers. (n, w), (n, f) -> (n, f)"""
    place = np.minimum(np.searchsorted(numbers, near), len(numbers) - 1)
    theirs = nearest[place, :OWN_NEAREST]  # (n, f, up to 20)
    common = np.zeros(theirs.shape, dtype=bool)
    for column in own.T:
        common |= theirs == column[:, None, None]
    return np.where(numbers[place] == near, common.sum(axis=2), 0)
