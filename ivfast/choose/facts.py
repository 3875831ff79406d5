"""What is fitted for a router once it is final: k, T, T_s for each percent, m, and what it will scan."""

import math
from collections.abc import Iterable

import numpy as np

from ivfast.choose.goal import least, row_blocks
from ivfast.choose.held_out import HeldOut, HeldOutTiles, held_out_demand, held_out_tiles, sample_use
from ivfast.choose.judgement import measure, scanned_share
from ivfast.choose.prediction import calibration_error, predict, reliability
from ivfast.data.vectors import Space, Vectors
from ivfast.method import RECALL
from ivfast.route.distances import log_softmax
from ivfast.route.routers import LogitTiles, Router
from ivfast.runtime.draws import generator, spread
from ivfast.store.dcnet_file import Facts, make_plans
from ivfast.store.demand import Demand
from ivfast.store.rules import Plan, default_rule, log_use, mean_membership

T_GRID = np.geomspace(0.25, 8, 31)

USE_PER_BUCKET = 200  # learn vectors from which m is told
TEMPERATURE_ROWS = 4000  # held-out vectors on which T is fitted
TEMPERATURES = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)  # of which T_s is chosen with copies
ONLY_TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)  # and without: from the nearest center to askers alone
SAME_TEMPERATURE = 0.005  # values this close to the least count as equal: the one nearest 1 is taken


def fit_facts(held: HeldOut, router: Router, k: float, percents: tuple[float, ...]) -> Facts:
    """Fit all of a final router on held-out learn vectors; m on a large sample of learn."""
    z, targets = held_out_answers(held, router)
    temperature = fit_temperature(z, targets)
    error = calibration_error(reliability(z, targets, temperature))
    tiles, demand = held_out_tiles(held, router), None
    facts = Facts(k, temperature, nprobe_of_answers(z, targets), {}, {}, {}, error)
    if router.name != "kmeans":  # which is stored by ratio alone
        demand = held_out_demand(held, router, facts.nprobe)
        storing = choose_temperatures(held, tiles, percents, demand)
        use = measure_use(held.learn, held.space, router, storing.values(), held.seed)
        facts = facts._replace(storing=storing, use=use)
    plans = [plan for plan in make_plans(router.name, facts, percents) if plan.rule == default_rule(router.name)]
    return facts._replace(predicted=predict(held, tiles, plans, demand))


def held_out_answers(held: HeldOut, router: Router) -> tuple[np.ndarray, np.ndarray]:
    """Logits of up to 4,000 held-out vectors, (n, nlist), and the best buckets of their answers, (n, answers)."""
    chosen = spread(len(held.rows), TEMPERATURE_ROWS)
    answers = held.pool[held.answers.at[chosen]]
    distinct, at = np.unique(answers, return_inverse=True)
    tiles = LogitTiles(router, held.learn, held.space, distinct)
    best = np.concatenate([z.argmax(axis=1) for _, z in tiles])
    z = LogitTiles(router, held.learn, held.space, held.rows[chosen]).all()
    return z, best[at.reshape(answers.shape)]


def fit_temperature(z: np.ndarray, targets: np.ndarray) -> float:
    """T at which softmax(z / T) is the chance that a right answer lies in a bucket.

    Minimises - mean log softmax(z / T) at the targets.

    z: (n, nlist) logits of held-out vectors; targets: (n, answers) best buckets of their answers
    """

    def cost(t: float) -> float:
        return -sum(
            float(np.take_along_axis(log_softmax(z[rows].astype(np.float64), t), targets[rows], axis=1).sum())
            for rows in row_blocks(*z.shape)
        )

    return least(cost, T_GRID)


def nprobe_of_answers(z: np.ndarray, targets: np.ndarray) -> float:
    """The 90 % quantile of the places of answers' best buckets. z: (n, nlist); targets: (n, answers) buckets"""
    at = np.take_along_axis(z, targets, axis=1)
    return float(np.quantile([(z > column[:, None]).sum(axis=1) + 1 for column in at.T], RECALL))


def choose_temperatures(
    held: HeldOut, tiles: HeldOutTiles, percents: tuple[float, ...], demand: Demand | None = None,
    rule: str = "benefit",
) -> dict[float, float]:  # fmt: skip
    """T_s for each percent, under a rule: of the values within 0.5 % of the least the one nearest 1."""
    grids = {percent: TEMPERATURES if percent else ONLY_TEMPERATURES for percent in percents}
    use = sample_use(held, tiles, sorted({t for grid in grids.values() for t in grid}))
    plans = [Plan(rule, percent, t, log_use(use[t])) for percent, grid in grids.items() for t in grid]
    shares = iter([scanned_share(curves) for curves in measure(held, tiles, plans, demand)])
    chosen = {}
    for percent, grid in grids.items():
        found = {t: next(shares) for t in grid}
        near = (1 + SAME_TEMPERATURE) * min(found.values())
        chosen[percent] = min((t for t in grid if found[t] <= near), key=lambda t: abs(math.log(t)))
    return chosen


def measure_use(
    learn: Vectors, space: Space, router: Router, temperatures: Iterable[float], seed: int
) -> dict[float, np.ndarray]:
    """M at each temperature: mean membership over 200 nlist learn vectors, or all."""
    n = min(len(learn), USE_PER_BUCKET * router.nlist)
    rows = None if n == len(learn) else np.sort(generator(seed, 0, "sample", 2).choice(len(learn), n, replace=False))
    return mean_membership(LogitTiles(router, learn, space, rows), temperatures)
