"""What a method hands over to the evaluator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.task import Task
from benchmarks.runs import PERCENTS
from ivfast.choose.facts import choose_storings, held_out_answers, measure_use, nprobe_of_answers
from ivfast.choose.held_out import held_out_demand, held_out_tiles
from ivfast.data.vectors import Points
from ivfast.route.distances import top
from ivfast.route.routers import Router
from ivfast.route.tiles import LogitTiles, Tile
from ivfast.store.demand import Demand, find_probes
from ivfast.store.place import Plan
from ivfast.store.rules import RULES
from ivfast.store.rules.rule import Rule, Terms


class Way(NamedTuple):
    """One way to store."""

    router: Router  # whose logits the rule ranks by
    rule_for: Callable[[Points, float], Rule]  # for points that are stored with so many copies
    copies: tuple[float, ...] = PERCENTS  # with which it is evaluated

    def plan(self, points: Points, copies: float) -> Plan:
        """What `ivfast.store.place.place` takes."""
        return Plan("", copies, self.rule_for(points, copies))


class Peer(NamedTuple):
    """A trained method."""

    name: str
    router: Router  # ranks buckets for a query; its logits are log-probabilities up to a temperature
    ways: dict[str, Way]
    seconds: float  # of training, k-means and the search for neighbours counted where it needs them
    model_bytes: int  # what a search must hold beside the lists
    settings: dict[str, Any]  # where they come from, and what was chosen on held-out learn pairs
    temperature: float | None = None  # T where the method has its own; None: fitted by the evaluator


@dataclass(frozen=True, eq=False)
class Given:
    """A rule whose buckets and keys were found before, for all vectors in their order."""

    buckets: np.ndarray  # (n, width) int32, -1 where there is no further one
    keys: np.ndarray  # (n, width) float32

    def rank(self, tile: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
        """See ivfast.store.rules.rule.Rule."""
        rows = slice(tile.start, tile.start + len(tile.z))
        return self.buckets[rows, :width], self.keys[rows, :width]


def way_of(task: Task, router: Router, rule: str, storing_ts: dict[float, float] | None = None) -> Way:
    """ratio, membership or benefit of ivfast.store.rules, with storing_t chosen on held-out learn pairs.

    Benefit asks who has a vector of base among its nearest; `unasked` is benefit without that.

    storing_ts: by copies, where they were chosen already
    """
    name = "benefit" if rule == "unasked" else rule
    nprobe = nprobe_of_answers(*held_out_answers(task.held, router)) if rule == "benefit" else None
    if not RULES[name].fitted:
        storing_ts = dict.fromkeys(PERCENTS, 1.0)
    elif storing_ts is None:
        demand = None if nprobe is None else held_out_demand(task.held, router, nprobe)
        chosen = choose_storings(task.held, held_out_tiles(task.held, router), PERCENTS, demand, name)
        storing_ts = {one.copies: one.storing_t for one in chosen}
    use = measure_use(task.learn, router, storing_ts.values(), task.seed) if name == "benefit" else {}

    def rule_for(points: Points, copies: float) -> Rule:
        demand = None
        if nprobe is not None and points is task.base:
            demand = Demand(task.reverse, find_probes(LogitTiles(router, points), nprobe))
        elif nprobe is not None and copies > 0:
            raise ValueError("who asks for vectors is known of base alone")
        t = storing_ts[copies]
        return RULES[name].make(Terms(copies, t, use.get(t), demand))

    return Way(router, rule_for)


def nearest_with(primary: np.ndarray, z: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A given primary, then the best of the other buckets by ratio of distances.

    primary: (n,); z: (n, nlist) = -k d^2 / delta
    returns: buckets (n, width) int32 and keys (n, width) float32
    """
    others = z.copy()
    np.put_along_axis(others, primary[:, None].astype(np.int64), -np.inf, axis=1)
    buckets = top(others, width - 1)
    first = np.take_along_axis(z, primary[:, None].astype(np.int64), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        keys = (np.log(-first) - np.log(-np.take_along_axis(z, buckets, axis=1))) / 2
    buckets = np.concatenate([primary[:, None], buckets], axis=1).astype(np.int32)
    keys = np.concatenate([np.zeros_like(first), np.nan_to_num(keys, posinf=np.inf)], axis=1)
    return buckets, keys.astype(np.float32)
