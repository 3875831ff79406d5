"""What is fitted for a router once it is final: k, T, T_s for each percent, m, and what it will scan."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.assignment import Plan, default_rule, log_use, mean_membership
from ivfast.calibration import fit_temperature
from ivfast.data import Space, Vectors
from ivfast.draws import generator, spread
from ivfast.prediction import Predicted, calibration_error, predict, reliability
from ivfast.probing import RECALL
from ivfast.routers import LogitTiles, Router
from ivfast.validation import HeldOut, choose_temperatures, held_out_demand, held_out_tiles

USE_PER_BUCKET = 200  # learn vectors from which m is told
TEMPERATURE_ROWS = 4000  # held-out vectors on which T is fitted


class Facts(NamedTuple):
    """Numbers that go with one router."""

    k: float
    temperature: float  # T, of adaptive probing
    nprobe: float  # at which the best buckets of 90 % of held-out answers are probed
    storing: dict[float, float]  # T_s by percent
    use: dict[float, np.ndarray]  # m by T_s, (nlist,) float64
    predicted: dict[float, dict[str, Predicted]]  # by percent and level of recall, under the default rule
    calibration_error: float  # of softmax(z / T), as chances that a right answer lies in a bucket


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


def nprobe_of_answers(z: np.ndarray, targets: np.ndarray) -> float:
    """The 90 % quantile of the places of answers' best buckets. z: (n, nlist); targets: (n, answers) buckets"""
    at = np.take_along_axis(z, targets, axis=1)
    return float(np.quantile([(z > column[:, None]).sum(axis=1) + 1 for column in at.T], RECALL))


def measure_use(
    learn: Vectors, space: Space, router: Router, temperatures: Iterable[float], seed: int
) -> dict[float, np.ndarray]:
    """M at each temperature: mean membership over 200 nlist learn vectors, or all."""
    n = min(len(learn), USE_PER_BUCKET * router.nlist)
    rows = None if n == len(learn) else np.sort(generator(seed, 0, "sample", 2).choice(len(learn), n, replace=False))
    return mean_membership(LogitTiles(router, learn, space, rows), temperatures)


def make_plans(router: str, facts: Facts | None, percents: tuple[float, ...]) -> list[Plan]:
    """Every rule that a router has, at every percent. Without facts: ratio alone."""
    plans = [] if router == "net" else [Plan("ratio", percent) for percent in percents]
    if router == "kmeans" or facts is None:
        return plans
    for rule in ("membership", "benefit"):
        for percent in percents:
            t = facts.storing[percent]
            plans.append(Plan(rule, percent, t, log_use(facts.use[t]) if rule == "benefit" else None))
    return plans
