"""What an evaluation tells of one way to store and to probe, and which of several ways scans least."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ivfast.method import COUNTED
from ivfast.route.routers import ROUTERS


class Result(NamedTuple):
    """One line of the evaluation. Shares are of the vectors of base, copies counted."""

    router: str
    rule: str
    percent: float
    probing: str  # fixed or adaptive
    nprobe: list[float]
    recall: list[float]
    scanned: list[float]
    scanned_p99: list[float]
    scanned_at: dict[str, float]
    imbalance: float
    largest: int
    empty: int
    entries: int
    curve: tuple[np.ndarray, np.ndarray]  # recall and scanned of the whole summary, for plots
    predicted: dict[str, "Fulfilled"]  # by level of recall; empty where nothing was predicted
    sizes: dict[str, float]  # quantiles of entries per bucket, empty ones counted: "p1" to "p99"
    recall_k: int = COUNTED  # recall is of so many nearest at most
    recall_error: Sequence[float] = ()  # standard error of each recall, over queries; NaN: unknown
    recall_without_ties: Sequence[float] = ()  # where ties count as right; else empty
    by_base: "ByBase | None" = None  # where vectors of base stood for queries

    @property
    def told(self) -> dict[str, "Fulfilled"]:
        """What is predicted for base: by vectors of it where some stood for queries, else from learn alone."""
        return self.by_base.predicted if self.by_base else self.predicted


class ByBase(NamedTuple):
    """What vectors of base tell that stood for queries, beside what held-out learn vectors foretold."""

    queries: int  # vectors of base that were searched for
    found: dict[str, float]  # by level of recall: the recall of theirs at the nprobe predicted from learn
    error: dict[str, float]  # its standard error
    predicted: dict[str, "Fulfilled"]  # what they predict, and what came of it


class Fulfilled(NamedTuple):
    """What was predicted for a level of recall, and what came of it."""

    nprobe: float  # predicted for that level
    scanned: float  # predicted
    reached: float  # recall at that nprobe
    took: float  # scanned at that nprobe


def best(results: list[Result], router: str, probing: str = "fixed", level: str = "0.90") -> Result | None:
    """The result of a router that scans least at a level of recall, under its default rule."""
    rows = [r for r in results if (r.router, r.probing, r.rule) == (router, probing, ROUTERS[router].default_rule)]
    if not rows and router == "centers":  # without learn ratio is all there is
        rows = [r for r in results if r.router == router and r.probing == probing]
    rows = [r for r in rows if not np.isnan(r.scanned_at[level])]
    return min(rows, key=lambda r: r.scanned_at[level], default=None)


def name_of_recall(results: list[Result]) -> str:
    """recall@k, of so many nearest."""
    return f"recall@{results[0].recall_k if results else COUNTED}"
