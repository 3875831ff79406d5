"""Recall against vectors scanned, for every router, rule, number of copies and way of probing."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.held_out import HeldOut
from ivfast.choose.own_queries import ToldByBase, told_by_base
from ivfast.data.space import Space
from ivfast.data.vectors import EvaluationSet, Points
from ivfast.evaluate.result import ByBase, Fulfilled, Result
from ivfast.method import COUNTED, LEVELS
from ivfast.route.certainty import recall_error
from ivfast.route.routers import Router, RouterKind
from ivfast.route.search import (
    Answers,
    Lists,
    count_adaptive,
    first_found,
    imbalance,
    log_gains,
    router_order,
    scanned_at,
    scanned_shares,
    thresholds_for,
)
from ivfast.route.tiles import LogitTiles, make_tiles
from ivfast.runtime.progress import Progress
from ivfast.store.demand import Demand, demand_of_base
from ivfast.store.place import Plan, place
from ivfast.store.records import Facts, Predicted, router_plans, storing_ts
from ivfast.store.reverse import ReverseNeighbors
from ivfast.store.rules import RULES

SIZES = (1, 25, 50, 75, 99)  # percentiles of list sizes that are reported
SUMMARY_POINTS = 200  # thresholds at which adaptive probing is measured for the summary


class RouterSetting(NamedTuple):
    """A router, and what evaluating it takes."""

    router: Router
    kind: RouterKind
    copies: tuple[float, ...]  # numbers of copies that base is stored with
    facts: Facts | None  # None: fixed probing alone, under the rules that need nothing fitted
    held_out: np.ndarray | None  # (n, nlist) float32 logits of held-out learn vectors, for adaptive probing

    @property
    def asks(self) -> bool:
        """Whether it matters who asks for base."""
        return self.facts is not None and any(RULES[name].asks for name in self.kind.rules)


def right_answers(gt: np.ndarray, tied: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers that count: the first min(10, width) columns of gt, -1 dropped, and then those that are tied.

    tied: (n_query, ties) of ivfast.data.ties, -1: none
    returns: ascending distinct base rows (w,), each answer's place among them
    (n_query, width) int64 (0 where there is none), and whether it counts (n_query, width) bool
    """
    columns = np.asarray(gt[:, :COUNTED]).astype(np.int64)
    columns = columns if tied is None else np.concatenate([columns, tied], axis=1)
    valid = columns >= 0
    wanted = np.unique(columns[valid])
    return wanted, np.searchsorted(wanted, np.where(valid, columns, wanted[0])), valid


def evaluate_router(
    setting: RouterSetting, data: EvaluationSet, space: Space, width: int, nprobes: tuple[int, ...],
    read_rows: int, progress: Progress, reverse: ReverseNeighbors | None = None, tied: np.ndarray | None = None,
    asked: HeldOut | None = None,
) -> list[Result]:  # fmt: skip
    """Store base under every plan, then search all queries both ways.

    width: buckets a vector is in at most; nprobes: those reported, each at most nlist
    read_rows: rows read from disk at once
    reverse: who has which vector of base among its nearest, for rules that ask
    tied: (n_query, ties) rows of base that count as right beside gt's, -1: none; None: ties don't count
    asked: vectors of base that stand for queries, see `stand_ins`; None: none do
    """
    wanted, at, valid = right_answers(data.gt, tied)
    own = slice(min(COUNTED, data.gt.shape[1]))  # columns of gt itself
    right = valid[:, own].sum(axis=1)
    router = setting.router
    with progress.stage(f"assigning base, {router.name}"):
        base = Points(data.base, space)
        plans, lists, demand = _store_base(setting, base, width, wanted, read_rows, progress, reverse)
    told: list[ToldByBase] = []
    if asked is not None and setting.facts is not None:
        with progress.stage(f"vectors of base as queries, {router.name}"):
            told = told_by_base(asked, router, setting.kind.default_rule, setting.facts, setting.copies, demand)
    del demand
    queries = LogitTiles(router, Points(data.query, space), read_rows=read_rows)

    def make_searches() -> list[_Fixed | _Adaptive]:
        found: list[_Fixed | _Adaptive] = [_Fixed(one, router.nlist, nprobes) for one in lists]
        if setting.facts is not None and setting.held_out is not None:
            found += [_Adaptive(one, setting.held_out, setting.facts.probing_t, nprobes) for one in lists]
        return found

    searches, with_ties = make_searches(), [] if tied is None else make_searches()
    title = f"searching, {router.name}"
    with progress.stage(title), progress.bar(title, len(data.query)) as bar:
        for start, z in queries:
            block = slice(start, start + len(z))
            order, places = router_order(z)
            for search in searches:
                search.add(z, order, places, Answers(at[block, own], valid[block, own]))
            for search in with_ties:
                search.add(z, order, places, Answers(at[block], valid[block], right[block]))
            bar.advance(len(z))
    results = [_result(setting, plans[i % len(plans)], search, right) for i, search in enumerate(with_ties or searches)]
    if with_ties:
        without = [search.points(int(right.sum()))[1].tolist() for search in searches]
        results = [r._replace(recall_without_ties=one) for r, one in zip(results, without, strict=True)]
    if told:
        by_copies = dict(zip(setting.copies, told, strict=True))
        results = [r._replace(by_base=_by_base(r, by_copies[r.percent])) if r.predicted else r for r in results]
    return [r._replace(recall_k=own.stop) for r in results]


def _store_base(
    setting: RouterSetting, base: Points, width: int, wanted: np.ndarray, read_rows: int, progress: Progress,
    reverse: ReverseNeighbors | None,
) -> tuple[list[Plan], list[Lists], Demand | None]:  # fmt: skip
    """Every plan of a router, what it stores, and who asks. wanted: base rows that are answers"""
    tiles = make_tiles(setting.router, base, temperatures=storing_ts(setting.facts), read_rows=read_rows, width=width)
    asks = reverse is not None and setting.asks
    with progress.bar(f"assigning base, {setting.router.name}", (3 if asks else 2) * len(base)) as bar:
        demand = None
        if reverse is not None and setting.facts is not None and asks:
            demand = demand_of_base(tiles, reverse, setting.facts.nprobe, bar)
        plans = router_plans(setting.kind, setting.facts, setting.copies, demand)
        return plans, place(tiles, plans, width, wanted, bar), demand


class _Fixed:
    """The same nprobe for every query."""

    probing = "fixed"

    def __init__(self, lists: Lists, nlist: int, nprobes: tuple[int, ...]) -> None:
        self.lists, self.nprobes = lists, np.array(nprobes)
        self.found = np.zeros(nlist + 1, dtype=np.int64)  # answers by the nprobe that finds them
        self.scanned = np.zeros(nlist)
        self.n_queries = 0
        self.reported: list[np.ndarray] = []
        self.found_by_query: list[np.ndarray] = []  # at the nprobes reported

    def add(self, z: np.ndarray, order: np.ndarray, places: np.ndarray, answers: Answers) -> None:
        """One block of queries."""
        first = first_found(places, self.lists, answers)
        self.found += np.bincount(first.ravel() - 1, minlength=len(self.found))
        shares = scanned_shares(order, self.lists)
        self.scanned += shares.sum(axis=0)
        self.reported.append(shares[:, self.nprobes - 1])
        self.found_by_query.append((first[:, :, None] <= self.nprobes).sum(axis=1))
        self.n_queries += len(z)

    def curve(self, n_answers: int) -> tuple[np.ndarray, np.ndarray]:
        """Recall and scanned at every nprobe."""
        return np.cumsum(self.found[:-1]) / n_answers, self.scanned / self.n_queries

    def points(self, n_answers: int) -> tuple[np.ndarray, ...]:
        """nprobe, recall, scanned, p99 of scanned at the nprobes reported."""
        recall, scanned = self.curve(n_answers)
        p99 = np.percentile(np.concatenate(self.reported), 99, axis=0)
        return self.nprobes, recall[self.nprobes - 1], scanned[self.nprobes - 1], p99


class _Adaptive:
    """One threshold on the gain of a probe for all queries."""

    probing = "adaptive"

    def __init__(self, lists: Lists, held_out: np.ndarray, probing_t: float, nprobes: tuple[int, ...]) -> None:
        self.lists, self.probing_t = lists, probing_t
        gains = log_gains(held_out, probing_t, lists)
        nlist = held_out.shape[1]
        summary = np.geomspace(1, nlist, SUMMARY_POINTS)
        wanted = np.concatenate([summary, nprobes])
        order = np.argsort(wanted, kind="stable")
        self.thresholds = thresholds_for(gains, wanted[order])
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        self.summary, self.report = places[:SUMMARY_POINTS], places[SUMMARY_POINTS:]
        self.found = np.zeros(len(wanted), dtype=np.int64)
        self.probed = np.zeros(len(wanted), dtype=np.int64)
        self.scanned: list[np.ndarray] = []
        self.found_by_query: list[np.ndarray] = []  # at the thresholds reported

    def add(self, z: np.ndarray, order: np.ndarray, places: np.ndarray, answers: Answers) -> None:
        """One block of queries."""
        del order, places
        gains = log_gains(z, self.probing_t, self.lists)
        counts = count_adaptive(gains, self.thresholds, self.lists, answers)
        self.found += counts.found
        self.probed += counts.probed.sum(axis=0)
        self.scanned.append(counts.scanned / self.lists.n)
        self.found_by_query.append(counts.found_by_query[:, self.report])

    def curve(self, n_answers: int) -> tuple[np.ndarray, np.ndarray]:
        """Recall and scanned at the summary's thresholds."""
        scanned = np.concatenate(self.scanned).mean(axis=0)
        return self.found[self.summary] / n_answers, scanned[self.summary]

    def points(self, n_answers: int) -> tuple[np.ndarray, ...]:
        """Mean buckets probed, recall, scanned, p99 of scanned at the thresholds reported."""
        scanned = np.concatenate(self.scanned)
        nprobe = self.probed[self.report] / len(scanned)
        p99 = np.percentile(scanned[:, self.report], 99, axis=0)
        return nprobe, self.found[self.report] / n_answers, scanned.mean(axis=0)[self.report], p99


def _result(setting: RouterSetting, plan: Plan, search: _Fixed | _Adaptive, right: np.ndarray) -> Result:
    """right: (n_query,) answers of each query"""
    n_answers = int(right.sum())
    recall, scanned = search.curve(n_answers)
    nprobe, *points = search.points(n_answers)
    lists = search.lists
    return Result(
        router=setting.router.name,
        rule=plan.name,
        percent=plan.copies,
        probing=search.probing,
        nprobe=nprobe.tolist(),
        recall=points[0].tolist(),
        scanned=points[1].tolist(),
        scanned_p99=points[2].tolist(),
        scanned_at={f"{level:.2f}": scanned_at(recall, scanned, level) for level in LEVELS},
        imbalance=imbalance(lists.sizes),
        largest=int(lists.sizes.max()),
        empty=int((lists.sizes == 0).sum()),
        entries=lists.entries,
        curve=(recall, scanned),
        predicted=_fulfilled(setting, plan, recall, scanned) if isinstance(search, _Fixed) else {},
        sizes={f"p{q}": float(size) for q, size in zip(SIZES, np.percentile(lists.sizes, SIZES), strict=True)},
        recall_error=recall_error(np.concatenate(search.found_by_query), right).tolist(),
    )


def _fulfilled(setting: RouterSetting, plan: Plan, recall: np.ndarray, scanned: np.ndarray) -> dict[str, Fulfilled]:
    """recall, scanned: at every nprobe"""
    storing = setting.facts.storing(plan.copies) if setting.facts else None
    if storing is None or plan.name != setting.kind.default_rule:
        return {}
    return _came_of(storing.predicted, recall, scanned)


def _came_of(told: dict[str, Predicted], recall: np.ndarray, scanned: np.ndarray) -> dict[str, Fulfilled]:
    nprobes = np.arange(1, len(recall) + 1)
    return {
        level: Fulfilled(
            nprobe=predicted.nprobe,
            scanned=predicted.scanned,
            reached=float(np.interp(predicted.nprobe, nprobes, recall)),
            took=float(np.interp(predicted.nprobe, nprobes, scanned)),
        )
        for level, predicted in told.items()
    }


def _by_base(result: Result, told: ToldByBase) -> ByBase:
    """result: by fixed probing, whose curve goes through every nprobe"""
    found = {level: told.recall_at(one.nprobe) for level, one in result.predicted.items()}
    return ByBase(
        queries=told.n,
        found={level: recall for level, (recall, _) in found.items()},
        error={level: error for level, (_, error) in found.items()},
        predicted=_came_of(told.predicted(), *result.curve),
    )
