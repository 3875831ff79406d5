"""What a method hands over to the evaluator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.task import Task
from benchmarks.runs import PERCENTS
from ivfast.choose.facts import choose_temperatures, held_out_answers, measure_use, nprobe_of_answers
from ivfast.choose.held_out import held_out_demand, held_out_tiles
from ivfast.data.vectors import Vectors
from ivfast.route.distances import top
from ivfast.route.routers import LogitTiles, Router
from ivfast.store.demand import Demand, find_probes
from ivfast.store.rules import Plan, candidates, log_use


class Candidates(NamedTuple):
    """Buckets that each vector may be stored in."""

    buckets: np.ndarray  # (n, width) int32; the first is the primary
    keys: np.ndarray  # (n, width) float32; larger is copied earlier, -inf never; the first does not count


class Rule(NamedTuple):
    """One way to store."""

    candidates: Callable[[Vectors, float], Candidates]  # of vectors, at a percent
    percents: tuple[float, ...] = PERCENTS  # at which it is evaluated


class Peer(NamedTuple):
    """A trained method."""

    name: str
    router: Router  # ranks buckets for a query; its logits are log-probabilities up to a temperature
    rules: dict[str, Rule]
    seconds: float  # of training, k-means and the search for neighbours counted where it needs them
    model_bytes: int  # what a search must hold beside the lists
    settings: dict[str, Any]  # where they come from, and what was chosen on held-out learn pairs
    temperature: float | None = None  # T where the method has its own; None: fitted by the evaluator


def plan_rule(task: Task, router: Router, rule: str, storing: dict[float, float] | None = None) -> Rule:
    """ratio, membership or benefit of ivfast.store.rules, with T_s chosen on held-out learn pairs.

    Benefit asks who has a vector of base among its nearest; `unasked` is benefit without that.

    storing: T_s by percent where it was chosen already
    """
    width = min(task.held.width, router.nlist)
    nprobe = nprobe_of_answers(*held_out_answers(task.held, router)) if rule == "benefit" else None
    stored_by = "benefit" if rule == "unasked" else rule
    if rule == "ratio":
        storing = dict.fromkeys(PERCENTS, 1.0)
    elif storing is None:
        demand = None if nprobe is None else held_out_demand(task.held, router, nprobe)
        storing = choose_temperatures(task.held, held_out_tiles(task.held, router), PERCENTS, demand, stored_by)
    use = measure_use(task.learn, task.space, router, storing.values(), task.seed) if stored_by == "benefit" else {}

    def find(vectors: Vectors, percent: float) -> Candidates:
        t = storing[percent]
        plan = Plan(stored_by, percent, t, log_use(use[t]) if use else None)
        tiles, demand = LogitTiles(router, vectors, task.space), None
        if nprobe is not None and vectors is task.base:
            demand = Demand(task.reverse, find_probes(tiles, nprobe))
        elif nprobe is not None and percent > 0:
            raise ValueError("who asks for vectors is known of base alone")
        found = [
            candidates(z, plan, width, tiles.crossing(start, z), demand and demand.of(start, len(z)))
            for start, z in tiles
        ]
        return Candidates(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    return Rule(find)


def nearest_with(primary: np.ndarray, z: np.ndarray, width: int) -> Candidates:
    """A given primary, then the best of the other buckets by ratio of distances.

    primary: (n,); z: (n, nlist) = -k d^2 / delta
    """
    others = z.copy()
    np.put_along_axis(others, primary[:, None].astype(np.int64), -np.inf, axis=1)
    buckets = top(others, width - 1)
    first = np.take_along_axis(z, primary[:, None].astype(np.int64), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        keys = (np.log(-first) - np.log(-np.take_along_axis(z, buckets, axis=1))) / 2
    buckets = np.concatenate([primary[:, None], buckets], axis=1).astype(np.int32)
    keys = np.concatenate([np.zeros_like(first), np.nan_to_num(keys, posinf=np.inf)], axis=1)
    return Candidates(buckets, keys.astype(np.float32))
