"""What is fitted for a router once it is final: temperatures, mean memberships, and what a search will scan."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.choose.goal import BLOCK_ENTRIES, least, row_blocks
from ivfast.choose.held_out import HeldOut, HeldOutTiles, held_out_demand, held_out_tiles, sample_use
from ivfast.choose.judgement import measure, scanned_share
from ivfast.choose.prediction import calibration_error, predict, reliability
from ivfast.data.vectors import Points
from ivfast.method import RECALL, SURE_RECALL
from ivfast.route.distances import log_softmax
from ivfast.route.routers import ROUTERS, Router
from ivfast.route.tiles import LogitTiles, make_tiles
from ivfast.runtime.draws import generator, spread
from ivfast.store.demand import Demand
from ivfast.store.place import make_plans
from ivfast.store.records import Facts, Storing
from ivfast.store.rules import RULES
from ivfast.store.rules.rule import Terms

PROBING_TS = np.geomspace(0.25, 8, 31)  # among which probing_t is fitted
USE_PER_BUCKET = 200  # learn vectors over which m is the mean, where that is no more than MOST_USE
MOST_USE, LEAST_USE_PER_BUCKET = 400_000, 40  # so many are enough, if each bucket has forty
PROBING_T_ROWS = 4000  # held-out vectors at most on which probing_t is fitted
COPY_STORING_TS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)  # among which storing_t is chosen where there are copies
ONLY_STORING_TS = (0.001, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)  # and without: from the nearest center to askers alone
SAME_SCANNED = 0.005  # ways of storing whose shares scanned are this close to the least count as equal
WAITS = (0.0, 2.0)  # among which wait is chosen where more than SURE_RECALL is wanted; up to it waiting never gained


def fit_facts(held: HeldOut, router: Router, k: float, copies: tuple[float, ...]) -> Facts:
    """Fit all of a final router on held-out learn vectors; m on a large sample of learn.

    router: one of ROUTERS; k: sharpness of its logits; copies: for which a base may be stored
    """
    held_answers = held_out_answers(held, router)
    probing_t = fit_probing_t(*held_answers)
    nprobe = nprobe_of_answers(*held_answers, held.recall)
    error = calibration_error(reliability(*held_answers, probing_t))
    storings = fit_storings(held, router, nprobe, copies, held.different)
    return Facts(k, probing_t, nprobe, storings, error, held.recall)


def fit_storings(
    held: HeldOut, router: Router, nprobe: float, copies: tuple[float, ...], learn: Points
) -> tuple[Storing, ...]:
    """How to store a base under the router's default rule with each number of copies, and what a search will scan.

    nprobe: see Facts; learn: vectors that differ, over which m is measured
    """
    rule = ROUTERS[router.name].default_rule
    grid = {t for number in copies for t in storing_t_grid(number)} if RULES[rule].fitted else ()
    tiles = held_out_tiles(held, router, grid)
    if not RULES[rule].fitted:
        terms = [Terms(number) for number in copies]
        found = predict(held, tiles, make_plans([rule], terms))
        return tuple(Storing(t.copies, p, None, None) for t, p in zip(terms, found, strict=True))
    demand = held_out_demand(held, router, nprobe)
    chosen = choose_storings(held, tiles, copies, demand, rule)
    use = measure_use(learn, router, {one.storing_t for one in chosen}, held.seed)
    terms = [one._replace(m=use[one.storing_t]) for one in chosen]
    found = predict(held, tiles, make_plans([rule], terms))
    return tuple(Storing(t.copies, p, t.storing_t, t.m, t.wait) for t, p in zip(terms, found, strict=True))


class HeldOutAnswers(NamedTuple):
    """Where held-out vectors look, and where their answers lie."""

    z: np.ndarray  # (n, nlist) float32, logits of held-out vectors
    targets: np.ndarray  # (n, answers) best buckets of their answers


def held_out_answers(held: HeldOut, router: Router, most: int = PROBING_T_ROWS) -> HeldOutAnswers:
    """Of at most so many held-out vectors, evenly over all."""
    points = held.learn.points
    chosen = spread(len(held.rows), most)
    answers = held.pool[held.answers.at[chosen]]
    distinct, at = np.unique(answers, return_inverse=True)
    best = np.concatenate([tile.best(tile.z, 1)[0][:, 0] for tile in make_tiles(router, points, distinct).tiles()])
    z = LogitTiles(router, points, held.rows[chosen]).all()
    return HeldOutAnswers(z, best[at.reshape(answers.shape)])


def fit_probing_t(z: np.ndarray, targets: np.ndarray, block_entries: int = BLOCK_ENTRIES) -> float:
    """T at which softmax(z / T) is the chance that a right answer lies in a bucket.

    Minimises - mean log softmax(z / T) at the targets.

    z: (n, nlist) logits of held-out vectors; targets: (n, answers) best buckets of their answers
    """

    def cost(t: float) -> float:
        return -sum(
            float(np.take_along_axis(log_softmax(z[rows].astype(np.float64), t), targets[rows], axis=1).sum())
            for rows in row_blocks(len(z), z.shape[1], block_entries)
        )

    return least(cost, PROBING_TS)


def nprobe_of_answers(z: np.ndarray, targets: np.ndarray, recall: float = RECALL) -> float:
    """The quantile, by recall, of the places of answers' best buckets. z: (n, nlist); targets: (n, answers) buckets"""
    at = np.take_along_axis(z, targets, axis=1)
    return float(np.quantile([(z > column[:, None]).sum(axis=1) + 1 for column in at.T], recall))


def choose_storings(
    held: HeldOut, tiles: HeldOutTiles, copies: tuple[float, ...], demand: Demand | None = None, rule: str = "benefit"
) -> list[Terms]:
    """How to store with each number of copies, under a rule: storing_t, and above SURE_RECALL wait.

    What counts is the share scanned for the recall that is wanted, on held-out vectors. Of those within 0.5 % of the
    least the most usual is taken: wait 0, then storing_t nearest 1.
    """
    grids = [storing_t_grid(number) for number in copies]
    use = sample_use(held, tiles, sorted({t for grid in grids for t in grid}))
    tried = [
        [
            Terms(number, t, use[t], demand, held.recall, wait)
            for t in grid
            for wait in (WAITS if number and held.recall > SURE_RECALL else WAITS[:1])
        ]
        for number, grid in zip(copies, grids, strict=True)
    ]
    measured = measure(held, tiles, make_plans([rule], [terms for grid in tried for terms in grid]))
    shares = iter([scanned_share(curves._replace(level=held.recall)) for curves in measured])
    chosen = []
    for grid in tried:
        found = [next(shares) for _ in grid]
        near = (1 + SAME_SCANNED) * min(found)
        equal = [terms for terms, share in zip(grid, found, strict=True) if share <= near]
        chosen.append(min(equal, key=lambda one: (one.wait, abs(math.log(one.storing_t)))))
    return chosen


def storing_t_grid(copies: float) -> tuple[float, ...]:
    """Among which storing_t is chosen for so many copies."""
    return COPY_STORING_TS if copies else ONLY_STORING_TS


def measure_use(learn: Points, router: Router, storing_ts: Iterable[float], seed: int) -> dict[float, np.ndarray]:
    """m at each storing_t: mean membership over 200 a bucket of learn, or 400,000, or all. (nlist,) float64"""
    n = min(len(learn), USE_PER_BUCKET * router.nlist, max(MOST_USE, LEAST_USE_PER_BUCKET * router.nlist))
    rows = None if n == len(learn) else np.sort(generator(seed, 0, "sample", 2).choice(len(learn), n, replace=False))
    storing_ts = set(storing_ts)
    return make_tiles(router, learn, rows, storing_ts, cached_bytes=0).use(storing_ts)
