"""A step in blocks in float64 NumPy, one block and one vote after the other: what both backends are held to."""

import numpy as np

from ivfast.network.backend import Chunk
from parity_tests import reference
from parity_tests.cases import GOAL, Problem
from parity_tests.reference import NET_WEIGHT, SOFTNESS, STEP
from parity_tests.twins import Arrays


def nearest_buckets(problem: Problem, listed: int) -> np.ndarray:
    """The centers of now that are nearest to each k-means center. (nlist, listed)"""
    start = problem.setup.start.astype(np.float64)
    centers = reference.move_centers(problem.group("params")["u"], problem.setup)
    return np.argsort(reference.squared_distances(start, centers, problem.setup.metric), axis=1)[:, :listed]


def seen_by(problem: Problem, cells: np.ndarray, valid: np.ndarray) -> list[int]:
    """What one block sees. cells: (pairs, 2, near); valid: (pairs,)"""
    blocks, lists = problem.setup.blocks, problem.state["blocks/lists"]
    assert blocks is not None
    votes = [0] * len(lists)
    for near in cells[valid].reshape(-1, cells.shape[-1]):
        for place, cell in enumerate(near, 1):
            for rank, bucket in enumerate(lists[cell], 1):
                votes[bucket] += 4096 // (place * rank)
    return sorted(sorted(range(len(lists)), key=lambda bucket: (-votes[bucket], bucket))[: blocks.seen])


class Held:
    """One block, and what in it has no gradient."""

    def __init__(self, problem: Problem, step: Chunk, at: slice) -> None:
        assert step.cells is not None
        self.valid = step.valid[at]
        self.x = np.concatenate([step.x[at][self.valid], step.x_pair[at][self.valid]]).astype(np.float64)
        self.seen = seen_by(problem, step.cells[at], self.valid)
        d2 = reference.forward(problem.group("params"), self.x, problem.setup)["d2"][:, self.seen]
        self.delta = reference.mean_nearest(d2, problem.setup.delta_floor)
        z = self.logits(problem, problem.group("params"))
        self.border = {router: reference.border(logits, GOAL.nprobe) for router, logits in z.items()}
        self.inside = {router: self.probed(logits, router) for router, logits in z.items()}

    def logits(self, problem: Problem, params: Arrays) -> Arrays:
        """(2 pairs, seen) of each router."""
        named = reference.forward(params, self.x, problem.setup)
        z = {"centers": -GOAL.k * named["d2"][:, self.seen] / self.delta}
        return z | ({"net": z["centers"] + named["deep"][:, self.seen]} if "deep" in named else {})

    def probed(self, z: np.ndarray, router: str) -> np.ndarray:
        """Whether each row probes each bucket seen."""
        return 1 / (1 + np.exp(-(z - self.border[router]) / SOFTNESS))


def hold(problem: Problem, step: Chunk) -> list[Held]:
    """All blocks of a step that hold a pair."""
    pairs = problem.setup.blocks.pairs if problem.setup.blocks else 0
    slices = [slice(first, first + pairs) for first in range(0, len(step.valid), pairs)]
    return [Held(problem, step, at) for at in slices if step.valid[at].any()]


def losses(problem: Problem, step: Chunk, params: Arrays | None = None, held: list[Held] | None = None) -> Arrays:
    """The loss, both sums of meet, and the mean membership by router."""
    held = held or hold(problem, step)
    n, total, found = int(step.valid.sum()), 0.0, {"net": np.array(0.0)}
    for router, m in problem.group("use").items():
        met, cost, probed, p_sum = 0.0, 0.0, np.zeros((2, len(m))), np.zeros(len(m))
        for block in held:  # u of the whole step, before any cost
            for side, inside in enumerate(np.split(block.inside[router], 2)):
                probed[side, block.seen] += inside.sum(axis=0) / n
        for block in held:
            z = block.logits(problem, params or problem.group("params"))[router]
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            mine, other = np.split(p, 2)
            met -= np.log((mine * other / (len(m) * np.maximum(m[block.seen], 0.05 / len(m)))).sum(axis=1)).sum()
            p_sum[block.seen] += p.sum(axis=0)
            for side, (inside, q) in enumerate(zip(np.split(block.probed(z, router), 2), (other, mine), strict=True)):
                scanned = inside @ m[block.seen] + q @ probed[side, block.seen]
                cost += (scanned / (probed[side] @ m) - GOAL.slope * (inside * q).sum(axis=1)).sum()
        total += (1.0 if router == "centers" else NET_WEIGHT) * (met + GOAL.weight * cost / 2) / n
        found |= {router: np.array(met), f"mean_p.{router}": p_sum / (2 * n)}
    return found | {"total": np.array(total)}


def slopes(problem: Problem, step: Chunk, name: str, places: np.ndarray) -> np.ndarray:
    """Finite differences of the loss at flat places of one weight, held what has no gradient."""
    params, held = problem.group("params"), hold(problem, step)

    def at(place: int, move: float) -> float:
        moved = params[name].copy()
        moved.flat[place] += move
        return float(losses(problem, step, params | {name: moved}, held)["total"])

    return np.array([
        (8 * (at(p, STEP) - at(p, -STEP)) - (at(p, 2 * STEP) - at(p, -2 * STEP))) / (12 * STEP) for p in places
    ])  # fmt: skip
