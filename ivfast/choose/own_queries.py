"""What a search of a base will find and scan, told by vectors of the base itself that stand for queries."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.held_out import HeldOut, held_out_tiles
from ivfast.choose.judgement import measure, nprobe_grid
from ivfast.data.exact import nearest_of
from ivfast.data.twins import are_among
from ivfast.data.vectors import Points
from ivfast.method import COUNTED, LEVELS
from ivfast.route.certainty import recall_error
from ivfast.route.routers import Router
from ivfast.route.search import Answers, scanned_at
from ivfast.runtime.draws import generator
from ivfast.runtime.progress import Progress
from ivfast.start.neighbors import LearnSet, Neighbors
from ivfast.store.demand import Demand
from ivfast.store.place import make_plans
from ivfast.store.records import Facts, Predicted, storing_ts
from ivfast.store.reverse import ReverseNeighbors
from ivfast.store.rules import RULES

MOST_ASKED = 1000  # vectors of base that stand for queries at most: recall has a standard error of about 0.008 then
ASKED_SHARE = 0.05  # of base at most, since those that stand for queries do not ask for others
LEAST_ASKED = 100  # with fewer nothing is told
STAND_FOR_ALL = 10_000  # vectors of base whose buckets stand for all


class ToldByBase(NamedTuple):
    """What vectors of base found and scanned with one number of copies, at a grid of nprobes."""

    n: int  # vectors of base that were searched for
    nprobe: np.ndarray  # (points,) int, rising
    recall: np.ndarray  # (points,) share of their nearest that was found
    error: np.ndarray  # (points,) standard error of recall
    scanned: np.ndarray  # (points,) share of base, copies counted

    def recall_at(self, nprobe: float) -> tuple[float, float]:
        """Recall and its standard error, linear between neighbouring nprobes."""
        recall, error = (float(np.interp(nprobe, self.nprobe, column)) for column in (self.recall, self.error))
        return recall, error

    def predicted(self) -> dict[str, Predicted]:
        """By level of recall: the nprobe that reaches it, and what that scans."""
        return {
            f"{level:.2f}": Predicted(*(scanned_at(self.recall, of, level) for of in (self.nprobe, self.scanned)))
            for level in LEVELS
        }


def stand_ins(
    base: Points, learn: Points, reverse: ReverseNeighbors | None, width: int, seed: int, progress: Progress
) -> HeldOut | None:
    """Vectors of base drawn to stand for queries, with their exact nearest there; None where too few could be drawn.

    A vector that trained is not drawn, since its neighbours were pulled into its bucket. Nor is one that is stored
    several times, since its nearest would be itself.

    reverse: who asks for base, and which of its rows are twins; None: nobody, and they all differ
    width: buckets a vector is in at most
    """
    if base.vectors.digest == learn.vectors.digest:
        return None
    twins = None if reverse is None else reverse.twins
    once = np.arange(len(base)) if twins is None else twins.rows[twins.counts == 1]
    n, rng = min(MOST_ASKED, len(once), round(ASKED_SHARE * len(base))), generator(seed, 0, "sample", 5)
    rows = np.sort(rng.choice(once, n, replace=False))
    if n >= LEAST_ASKED:
        rows = rows[~are_among(base.x(rows), learn)]
    if len(rows) < LEAST_ASKED:
        return None
    every = np.arange(len(base))
    answers = nearest_of(rows, base, every, COUNTED, "nearest of vectors of base", progress)
    sample = np.sort(rng.choice(every, min(len(every), STAND_FOR_ALL), replace=False))
    pool = np.union1d(sample, answers)
    at, sampled = np.searchsorted(pool, answers), np.isin(pool, sample)
    none, alike = np.empty((0, COUNTED), np.int64), np.ones(answers.shape, np.uint8)
    return HeldOut(
        learn=LearnSet(base, Neighbors(none[:, 0], none, rows, answers, none, alike)),
        pool=pool,
        sample=np.flatnonzero(sampled),
        answers=Answers(at, np.ones(at.shape, dtype=bool)),
        answer_weights=alike / COUNTED,
        pairs=(none[:, 0], none[:, 0]),
        width=width,
        seed=seed,
        asking=np.empty(0, np.float32) if reverse is None else reverse.weights[1:],
        sampled=sampled,
        progress=progress,
    )


def told_by_base(
    asked: HeldOut, router: Router, rule: str, facts: Facts, copies: tuple[float, ...], demand: Demand | None
) -> list[ToldByBase]:
    """What they find and scan with each number of copies, where base is stored as it is but they ask for nobody.

    rule: by which base is stored; demand: who asks for base, where it matters to the rule
    """
    kind = RULES[rule]
    if demand is not None and kind.asks:
        demand = Demand(without_askers(demand.reverse, asked.pool, asked.rows), demand.probes)
    tiles = held_out_tiles(asked, router, storing_ts(facts) if kind.fitted else ())
    grid, right = nprobe_grid(router.nlist), np.full(len(asked.rows), asked.answers.at.shape[1])
    return [
        ToldByBase(
            len(right), grid, one.found.sum(axis=0) / right.sum(), recall_error(one.found, right),
            one.scanned.mean(axis=0),
        )
        for one in measure(asked, tiles, make_plans([rule], facts.terms(copies, demand)))
    ]  # fmt: skip


def without_askers(reverse: ReverseNeighbors, stored: np.ndarray, silent: np.ndarray) -> ReverseNeighbors:
    """The askers of some rows of base, numbered from 0, without those that keep silent; each asks for itself.

    stored: (m,) rows of base; silent: rows of base
    """
    vectors = stored if reverse.twins is None else reverse.twins.of[stored]
    count = np.diff(reverse.first)[vectors]
    pairs = np.repeat(reverse.first[vectors] - np.cumsum(count) + count, count) + np.arange(count.sum())
    asks = (reverse.place[pairs] == 0) | ~np.isin(reverse.asker[pairs], silent)
    pairs, row = pairs[asks], np.repeat(np.arange(len(stored)), count)[asks]
    return reverse._replace(
        first=np.r_[0, np.cumsum(np.bincount(row, minlength=len(stored)))],
        asker=reverse.asker[pairs],
        place=reverse.place[pairs],
        twins=None,
        share=None if reverse.share is None else reverse.share[pairs],
    )
