"""Recall against vectors scanned, for every router, rule, percent and way of probing."""

from typing import NamedTuple

import numpy as np

from ivfast.data.vectors import EvaluationSet, Space
from ivfast.method import COUNTED, LEVELS
from ivfast.route.routers import LogitTiles, Router
from ivfast.route.search import (
    Answers,
    Stored,
    count_adaptive,
    first_found,
    imbalance,
    log_gains,
    router_order,
    scanned_at,
    scanned_shares,
    thresholds_for,
)
from ivfast.runtime.progress import Progress
from ivfast.store.budget import Assignment, assign
from ivfast.store.dcnet_file import Predicted
from ivfast.store.demand import Demand, ReverseNeighbors, find_probes
from ivfast.store.rules import Plan, default_rule

SUMMARY_POINTS = 200  # thresholds from which the adaptive summary is drawn
HELD_OUT_ENTRIES = 1 << 26  # held-out logits that set thresholds at most: 256 MiB


class RouterSetting(NamedTuple):
    """A router, the plans it is evaluated under, and what adaptive probing needs."""

    router: Router
    plans: list[Plan]
    temperature: float | None  # T; None: fixed probing alone
    held_out: np.ndarray | None  # (n, nlist) float32 logits of held-out learn vectors
    predicted: dict[float, dict[str, Predicted]] | None = None  # by percent, under the default rule
    nprobe: float | None = None  # at which those that stand for queries look, for benefit

    @property
    def needs_demand(self) -> bool:
        """Whether it matters who asks for base."""
        return self.nprobe is not None and any(plan.rule == "benefit" for plan in self.plans)


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
    predicted: dict[str, "Kept"]  # by level of recall; empty where nothing was predicted


class Kept(NamedTuple):
    """What was predicted for a level of recall, and what came of it."""

    nprobe: float  # predicted for that level
    scanned: float  # predicted
    reached: float  # recall at that nprobe
    took: float  # scanned at that nprobe


def right_answers(gt: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers that count: the first min(10, width) columns of gt, -1 dropped.

    returns: ascending distinct base rows (w,), each answer's place among them
    (n_query, width) int64 (0 where there is none), and whether it counts (n_query, width) bool
    """
    columns = np.asarray(gt[:, :COUNTED]).astype(np.int64)
    valid = columns >= 0
    wanted = np.unique(columns[valid])
    return wanted, np.searchsorted(wanted, np.where(valid, columns, wanted[0])), valid


def evaluate_router(
    setting: RouterSetting, data: EvaluationSet, space: Space, width: int, nprobes: tuple[int, ...],
    read_rows: int, progress: Progress, reverse: ReverseNeighbors | None = None,
) -> list[Result]:  # fmt: skip
    """Assign base under every plan, then search all queries both ways.

    width: buckets a vector is in at most; nprobes: those reported, each at most nlist
    reverse: who has which vector of base among its nearest, for benefit
    """
    wanted, at, valid = right_answers(data.gt)
    tiles = LogitTiles(setting.router, data.base, space, read_rows=read_rows)
    demand, passes = None, 3 if reverse is not None and setting.needs_demand else 2
    with progress.bar(f"assigning base, {setting.router.name}", passes * len(data.base)) as bar:
        if reverse is not None and setting.nprobe is not None and setting.needs_demand:
            demand = Demand(reverse, find_probes(tiles, setting.nprobe, bar))
        assignments = assign(tiles, setting.plans, width, wanted, bar, demand)
    stored = [Stored(a.sizes, len(data.base), a.buckets) for a in assignments]
    queries = LogitTiles(setting.router, data.query, space, read_rows=read_rows)
    with progress.bar(f"searching, {setting.router.name}", len(data.query)) as bar:
        searches = [_Fixed(s, setting.router.nlist, nprobes) for s in stored]
        if setting.temperature is not None and setting.held_out is not None:
            searches += [_Adaptive(s, setting.held_out, setting.temperature, nprobes) for s in stored]
        for start, z in queries:
            block = slice(start, start + len(z))
            answers = Answers(at[block], valid[block])
            order, place = router_order(z)
            for search in searches:
                search.add(z, order, place, answers)
            bar.advance(len(z))
    plans = setting.plans * (len(searches) // len(stored))
    return [
        _result(setting, plan, search, assignment, int(valid.sum()))
        for plan, search, assignment in zip(plans, searches, assignments * (len(searches) // len(stored)), strict=True)
    ]


class _Fixed:
    """The same nprobe for every query."""

    probing = "fixed"

    def __init__(self, stored: Stored, nlist: int, nprobes: tuple[int, ...]) -> None:
        self.stored, self.nprobes = stored, np.array(nprobes)
        self.found = np.zeros(nlist + 1, dtype=np.int64)  # answers by the nprobe that finds them
        self.scanned = np.zeros(nlist)
        self.n_queries = 0
        self.reported: list[np.ndarray] = []

    def add(self, z: np.ndarray, order: np.ndarray, place: np.ndarray, answers: Answers) -> None:
        """One block of queries."""
        first = first_found(place, self.stored, answers)
        self.found += np.bincount(first.ravel() - 1, minlength=len(self.found))
        shares = scanned_shares(order, self.stored)
        self.scanned += shares.sum(axis=0)
        self.reported.append(shares[:, self.nprobes - 1])
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

    def __init__(self, stored: Stored, held_out: np.ndarray, temperature: float, nprobes: tuple[int, ...]) -> None:
        self.stored, self.temperature = stored, temperature
        gains = log_gains(held_out, temperature, stored)
        nlist = held_out.shape[1]
        summary = np.geomspace(1, nlist, SUMMARY_POINTS)
        wanted = np.concatenate([summary, nprobes])
        order = np.argsort(wanted, kind="stable")
        self.thresholds = thresholds_for(gains, wanted[order])
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        self.summary, self.report = place[:SUMMARY_POINTS], place[SUMMARY_POINTS:]
        self.found = np.zeros(len(wanted), dtype=np.int64)
        self.probed = np.zeros(len(wanted), dtype=np.int64)
        self.scanned: list[np.ndarray] = []

    def add(self, z: np.ndarray, order: np.ndarray, place: np.ndarray, answers: Answers) -> None:
        """One block of queries."""
        del order, place
        gains = log_gains(z, self.temperature, self.stored)
        counts = count_adaptive(gains, self.thresholds, self.stored, answers)
        self.found += counts.found
        self.probed += counts.probed.sum(axis=0)
        self.scanned.append(counts.scanned / self.stored.n)

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


def _result(
    setting: RouterSetting, plan: Plan, search: _Fixed | _Adaptive, assignment: Assignment, n_answers: int
) -> Result:
    curve = search.curve(n_answers)
    router = setting.router.name
    return Result(
        router, plan.rule, plan.percent, search.probing,
        *(values.tolist() for values in search.points(n_answers)),
        scanned_at={f"{level:.2f}": scanned_at(*curve, level) for level in LEVELS},
        imbalance=imbalance(assignment.sizes),
        largest=int(assignment.sizes.max()),
        empty=int((assignment.sizes == 0).sum()),
        entries=assignment.entries,
        curve=curve,
        predicted=_kept(setting, plan, *curve) if isinstance(search, _Fixed) else {},
    )  # fmt: skip


def _kept(setting: RouterSetting, plan: Plan, recall: np.ndarray, scanned: np.ndarray) -> dict[str, Kept]:
    """recall, scanned: at every nprobe"""
    if plan.rule != default_rule(setting.router.name) or setting.predicted is None:
        return {}
    nprobes = np.arange(1, len(recall) + 1)
    return {
        level: Kept(
            *told, float(np.interp(told.nprobe, nprobes, recall)), float(np.interp(told.nprobe, nprobes, scanned))
        )
        for level, told in setting.predicted.get(plan.percent, {}).items()
    }


def held_out_rows(n: int, nlist: int) -> int:
    """How many of n held-out vectors set the thresholds of adaptive probing."""
    return min(n, max(1, HELD_OUT_ENTRIES // nlist))
