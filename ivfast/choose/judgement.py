"""Whether a trained state is better than k-means, judged on held-out learn vectors alone."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.held_out import HeldOut, HeldOutTiles, held_out_tiles, sample_use
from ivfast.method import RECALL
from ivfast.route.routers import LogitTiles, Router
from ivfast.route.search import Answers, Stored, first_found, router_order, scanned_at, scanned_shares
from ivfast.runtime.draws import generator
from ivfast.store.demand import Demand
from ivfast.store.rules import Plan, candidates, log_use

LEAST_GAIN = 0.005  # over k-means; two standard errors below the gain, a loss may be no larger than this
SAME = 0.005  # epochs this close to the best count as equal: the latest is taken
RESAMPLES = 200


class Curves(NamedTuple):
    """What each held-out vector scans and finds at a grid of nprobes, under one plan."""

    found: np.ndarray  # (n_held_out, points) answers found, int
    recall: np.ndarray  # (n_held_out, points) float64, share of the answers found, by their worth
    scanned: np.ndarray  # (n_held_out, points) share of learn
    n_answers: int  # of one held-out vector


class Judgement(NamedTuple):
    """One router at one epoch; by its memberships alone, since who asks would take a pass over learn."""

    benefit: list[Curves]  # at each of percents, T_s = 1
    nearest: Curves | None  # percent 0 by distance alone; None for the net
    used: int = 0  # buckets that are the best of some held-out vector


def nprobe_grid(nlist: int) -> np.ndarray:
    """The nprobes of Curves: 1 to 32, then about 64 even in log. (points,) int"""
    return np.unique(np.r_[1 : min(32, nlist) + 1, np.round(np.geomspace(1, nlist, 64)).astype(int)])


def measure(held: HeldOut, tiles: HeldOutTiles, plans: list[Plan], demand: Demand | None = None) -> list[Curves]:
    """Store the pool under each plan and search for the held-out vectors.

    The budget's border is told from the sample: its round(percent n_sample) best extras.
    demand: of the pool, for benefit
    """
    stored = _store(held, tiles.pool, plans, demand)
    grid = nprobe_grid(tiles.pool.router.nlist)
    found, recall, scanned = ([[] for _ in plans] for _ in range(3))
    for start, z in tiles.held_out:
        block = slice(start, start + len(z))
        answers = Answers(held.answers.at[block], held.answers.valid[block])
        order, place = router_order(z)
        for i, plan_stored in enumerate(stored):
            first = first_found(place, plan_stored, answers)
            reached = first[:, :, None] <= grid
            found[i].append(reached.sum(axis=1))
            recall[i].append(np.einsum("qa,qap->qp", held.worth[block], reached))
            scanned[i].append(scanned_shares(order, plan_stored)[:, grid - 1])
    return [
        Curves(np.concatenate(f), np.concatenate(r), np.concatenate(s), held.answers.at.shape[1])
        for f, r, s in zip(found, recall, scanned, strict=True)
    ]


def _store(held: HeldOut, pool: LogitTiles, plans: list[Plan], demand: Demand | None) -> list[Stored]:
    buckets = [np.empty((len(held.pool), held.width), dtype=np.int32) for _ in plans]
    keys = [np.empty((len(held.pool), held.width), dtype=np.float32) for _ in plans]
    for start, z in pool:
        known: dict[tuple[str, float, bool], tuple[np.ndarray, np.ndarray]] = {}
        crossing = pool.crossing(start, z)
        asked = None if demand is None else demand.of(start, len(z))
        for i, plan in enumerate(plans):
            if plan.keyed_by not in known:
                known[plan.keyed_by] = candidates(z, plan, held.width, crossing, asked)
            buckets[i][start : start + len(z)], keys[i][start : start + len(z)] = known[plan.keyed_by]
    stored = []
    for plan, plan_buckets, plan_keys in zip(plans, buckets, keys, strict=True):
        budget = round(plan.percent * len(held.sample))
        taken = np.zeros(plan_buckets.shape, dtype=bool)
        taken[:, 0] = True
        if budget:
            taken[:, 1:] = _taken(plan_keys[:, 1:], plan_buckets[:, 1:], held.sample, budget)
        plan_buckets[~taken] = -1
        entries = plan_buckets[held.sample]
        sizes = np.bincount(entries[entries >= 0], minlength=pool.router.nlist)
        stored.append(Stored(sizes, len(held.sample), plan_buckets))
    return stored


def _taken(keys: np.ndarray, buckets: np.ndarray, sample: np.ndarray, budget: int) -> np.ndarray:
    """Extras as good as the sample's budget-th best: ties go to the smaller vector, then the smaller bucket."""
    extras = keys[sample].ravel()
    border = np.partition(extras, len(extras) - budget)[len(extras) - budget]
    spare = budget - int((extras > border).sum())  # of the sample's ties, this many are taken
    row, column = np.nonzero(keys[sample] == border)
    tied = np.stack([sample[row], buckets[sample[row], column]])
    last = tied[:, np.lexsort((tied[1], tied[0]))[spare - 1]]
    vectors = np.arange(len(keys))[:, None]
    before = (vectors < last[0]) | ((vectors == last[0]) & (buckets <= last[1]))
    return (keys > border) | ((keys == border) & before)


def judge(held: HeldOut, router: Router, percents: tuple[float, ...], *, by_nearest: bool) -> Judgement:
    """Measure one epoch's router under benefit at each percent, and under nearest where asked."""
    tiles = held_out_tiles(held, router)
    use = log_use(sample_use(held, tiles, (1.0,))[1.0])
    plans = [Plan("benefit", percent, 1.0, use) for percent in percents]
    if by_nearest:
        plans.append(Plan("ratio", 0.0))
    curves = measure(held, tiles, plans)
    used = len(np.unique(np.concatenate([z.argmax(axis=1) for _, z in tiles.held_out])))
    return Judgement(curves[: len(percents)], curves[-1] if by_nearest else None, used)


def scanned_share(curves: Curves, weights: np.ndarray | None = None) -> float:
    """Scanned at recall 0.9: the mean of two, all answers counted alike and by their worth.

    Right may be who is near, or who is of one kind: by the first alone an epoch would be judged by the strangers
    that it finds, by the second alone by fewer answers than there are.

    weights: (n_held_out,) how often each counts (None: once)
    """
    if weights is None:
        weights = np.ones(len(curves.found))
    total = weights.sum()
    scanned = weights @ curves.scanned / total
    alike, by_worth = weights @ curves.found / (total * curves.n_answers), weights @ curves.recall / total
    return (scanned_at(alike, scanned, RECALL) + scanned_at(by_worth, scanned, RECALL)) / 2


def kmeans_share(held: HeldOut, router: Router, percents: tuple[float, ...]) -> list[Curves]:
    """k-means under its own rule, ratio, at percent 0 and each of percents."""
    plans = [Plan("ratio", percent) for percent in sorted({0.0, *percents})]
    return measure(held, held_out_tiles(held, router), plans)


def value(judgement: Judgement, kmeans: list[Curves], weights: np.ndarray | None = None) -> float:
    """Mean scanned share at recall 0.9 over that of k-means at its better percent; less is better."""
    base = min(scanned_share(curves, weights) for curves in kmeans)
    measured = judgement.benefit + ([judgement.nearest] if judgement.nearest else [])
    return float(np.mean([scanned_share(curves, weights) for curves in measured])) / base


def eligible(judgement: Judgement, start: Judgement) -> bool:
    """Whether an epoch is no worse than k-means where a plain engine uses its centers."""
    if judgement.nearest is None or start.nearest is None:
        return True
    return scanned_share(judgement.nearest) <= scanned_share(start.nearest)


def standard_error(judgement: Judgement, start: Judgement, kmeans: list[Curves], seed: int) -> float:
    """Of value(start) - value(judgement), from paired resamples of the held-out vectors."""
    n = len(kmeans[0].found)
    rng = generator(seed, 0, "bootstrap")
    differences = []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
        differences.append(value(start, kmeans, weights) - value(judgement, kmeans, weights))
    return float(np.std(differences))


def is_gain(judgement: Judgement, start: Judgement, kmeans: list[Curves], seed: int) -> tuple[bool, float, float]:
    """Whether a trained epoch replaces k-means: better by 0.5 %, and by two standard errors not worse by 0.5 %.

    returns: the verdict, the gain as a share of k-means' value, and its standard error likewise
    """
    at_start = value(start, kmeans)
    gain = (at_start - value(judgement, kmeans)) / at_start
    error = standard_error(judgement, start, kmeans, seed) / at_start
    return gain > LEAST_GAIN and 2 * error < gain + LEAST_GAIN, gain, error
