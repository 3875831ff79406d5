"""How far what held-out learn vectors foretell is to be trusted for base, by vectors of base that stood for queries."""

from collections.abc import Sequence
from typing import NamedTuple

from ivfast.evaluate.result import Fulfilled, Result, best
from ivfast.route.routers import ROUTERS

OFF = 0.03  # of recall: base is called unlike learn above it, three standard errors of a thousand stand-ins


class Trust(NamedTuple):
    """One prediction from learn beside what vectors of base found at its nprobe, and what they predict."""

    result: Result
    level: float
    learn: Fulfilled  # predicted from learn
    found: float  # recall of vectors of base at that nprobe
    error: float  # its standard error
    base: Fulfilled  # predicted by vectors of base
    queries: int  # how many there were

    @property
    def off(self) -> float:
        """How much more, or less, they found than learn foretells."""
        return self.found - self.level


def is_unlike(off: float, error: float, nprobe: float) -> bool:
    """Whether base is not like learn, beyond chance. One bucket alone may find more than is asked for.

    off: see `Trust`; error: its standard error; nprobe: that learn foretells
    """
    return abs(off) > max(OFF, 2 * error) and not (off > 0 and nprobe <= 1)


def trust(results: Sequence[Result], recall: float) -> Trust | None:
    """Of the trained centers, or of k-means alone, with the copies that scan least; None where nobody stood for queries

    recall: that is wanted, one of the levels
    """
    level = f"{recall:.2f}"
    for router in ("centers", "kmeans"):
        result = best(list(results), router, level=level)
        if result is not None and result.by_base is not None:
            by_base = result.by_base
            return Trust(
                result, recall, result.predicted[level], by_base.found[level], by_base.error[level],
                by_base.predicted[level], by_base.queries,
            )  # fmt: skip
    return None


def off_by(results: Sequence[Result], recall: float) -> float | None:
    """Recall that vectors of base found where learn foretells `recall`, less `recall`."""
    found = trust(results, recall)
    return None if found is None else found.off


def in_one_line(results: Sequence[Result], recall: float) -> str | None:
    """What is said of it, a warning where learn foretells badly; None where nothing is known."""
    found = trust(results, recall)
    if found is None:
        return None
    percent, result = f"{100 * recall:.0f} %", found.result
    of = f"{ROUTERS[result.router].title}, percent {result.percent:g}"
    foretold = f"learn foretells {percent} recall at nprobe {found.learn.nprobe:.1f} ({of})"
    there = (
        f"{found.queries:,} vectors of base that stand for queries find {100 * found.found:.1f} % there "
        f"(standard error {100 * found.error:.1f} %)"
    )
    instead = (
        f"they foretell {percent} at nprobe {found.base.nprobe:.1f}, which is predicted for base: recall may be off by "
        f"{200 * found.error:.1f} % there, and by more where queries are of another kind or answers are not the nearest"
    )
    if is_unlike(found.off, found.error, found.learn.nprobe):
        return f"warning: base is not like learn: {foretold}, but {there}; {instead}"
    return f"{foretold}; {there}; {instead}"
