"""Whether a trained state is better than k-means, judged on held-out learn vectors alone."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ivfast.choose.held_out import HeldOut, HeldOutTiles, held_out_tiles, sample_use
from ivfast.method import RECALL
from ivfast.route.routers import ROUTERS, Router
from ivfast.route.search import Answers, first_found, router_order, scanned_at, scanned_shares
from ivfast.runtime.draws import generator
from ivfast.store.place import Plan, make_plans, place
from ivfast.store.rules.rule import Terms

LEAST_GAIN = 0.005  # exported if gain > 0.5 % and gain - 2 standard errors > -0.5 %
SAME = 0.005  # epochs whose value is within 0.5 % of the best count as equal, and the latest of them is taken
RESAMPLES = 200


class Curves(NamedTuple):
    """What each held-out vector scans and finds at a grid of nprobes, under one plan."""

    found: np.ndarray  # (n_held_out, points) int, answers found
    recall: np.ndarray  # (n_held_out, points) float64, share of the answers found, each by its weight
    scanned: np.ndarray  # (n_held_out, points) float64, share of learn
    n_answers: int  # of one held-out vector
    level: float = RECALL  # of recall, at which shares are compared


class Judgement(NamedTuple):
    """One router at one epoch.

    Its base is stored by memberships alone, at storing_t = 1: to know who asks would take a pass over learn.
    """

    by_rule: list[Curves]  # under the router's default rule, at each number of copies
    nearest: Curves | None  # each vector in its nearest center's bucket; None of a router without centers to export
    used: int = 0  # buckets that are the best of some held-out vector


def nprobe_grid(nlist: int) -> np.ndarray:
    """The nprobes of Curves: 1 to 32, then about 64 even in log. (points,) int"""
    return np.unique(np.r_[1 : min(32, nlist) + 1, np.round(np.geomspace(1, nlist, 64)).astype(int)])


def measure(held: HeldOut, tiles: HeldOutTiles, plans: list[Plan]) -> list[Curves]:
    """Store the pool under each plan and search for the held-out vectors."""
    with held.progress.bar("storing held-out neighbours", 2 * tiles.pool.n) as bar:
        by_plan = place(tiles.pool, plans, held.width, bar=bar, sample=held.sample)
    grid = nprobe_grid(tiles.pool.router.nlist)
    found, recall, scanned = ([[] for _ in plans] for _ in range(3))

    def search(start: int, z: np.ndarray) -> None:
        block = slice(start, start + len(z))
        answers = Answers(held.answers.at[block], held.answers.valid[block])
        order, at = router_order(z)
        for i, lists in enumerate(by_plan):
            first = first_found(at, lists, answers)
            reached = first[:, :, None] <= grid
            found[i].append(reached.sum(axis=1))
            recall[i].append(np.einsum("qa,qap->qp", held.answer_weights[block], reached))
            scanned[i].append(scanned_shares(order, lists)[:, grid - 1])

    with held.progress.bar("searching held-out vectors", tiles.held_out.n) as bar:
        for start, z in tiles.held_out:
            search(start, z)
            bar.advance(len(z))
    return [
        Curves(np.concatenate(f), np.concatenate(r), np.concatenate(s), held.answers.at.shape[1], held.aim)
        for f, r, s in zip(found, recall, scanned, strict=True)
    ]


def judge(held: HeldOut, router: Router, copies: tuple[float, ...]) -> Judgement:
    """Measure one epoch's router under its default rule, for each number of copies, and by nearest assignment.

    router: a trained one of ROUTERS
    """
    by_nearest = ROUTERS[router.name].linear  # then a plain engine can use it
    tiles = held_out_tiles(held, router, (1.0,))
    m = sample_use(held, tiles, (1.0,))[1.0]
    plans = make_plans([ROUTERS[router.name].default_rule], [Terms(number, 1.0, m) for number in copies])
    if by_nearest:
        plans += make_plans(["ratio"], [Terms(0.0)])  # without copies that is the nearest center
    curves = measure(held, tiles, plans)
    used = len(np.unique(np.concatenate([z.argmax(axis=1) for _, z in tiles.held_out])))
    return Judgement(curves[: len(copies)], curves[-1] if by_nearest else None, used)


def scanned_share(curves: Curves, weights: np.ndarray | None = None) -> float:
    """Scanned at the recall that is wanted: the mean of two, all answers counted alike and by their weights.

    Right may be who is near, or who is of one kind. By the first alone an epoch would be judged by the strangers
    that it finds, by the second alone by fewer answers than there are.

    weights: (n_held_out,) how often each vector counts (None: once)
    """
    if weights is None:
        weights = np.ones(len(curves.found))
    total = weights.sum()
    scanned = weights @ curves.scanned / total
    alike, by_weight = weights @ curves.found / (total * curves.n_answers), weights @ curves.recall / total
    return (scanned_at(alike, scanned, curves.level) + scanned_at(by_weight, scanned, curves.level)) / 2


def judge_kmeans(held: HeldOut, router: Router, copies: tuple[float, ...]) -> list[Curves]:
    """k-means under its own rule, without copies and with each number of them."""
    plans = make_plans([ROUTERS["kmeans"].default_rule], [Terms(number) for number in sorted({0.0, *copies})])
    return measure(held, held_out_tiles(held, router), plans)


def value(judgement: Judgement, kmeans: list[Curves], weights: np.ndarray | None = None) -> float:
    """Mean scanned share over that of k-means at its better number of copies; less is better."""
    base = min(scanned_share(curves, weights) for curves in kmeans)
    measured = judgement.by_rule + ([judgement.nearest] if judgement.nearest else [])
    return float(np.mean([scanned_share(curves, weights) for curves in measured])) / base


def eligible(judgement: Judgement, start: Judgement) -> bool:
    """Whether an epoch is no worse than k-means where a plain engine uses its centers."""
    if judgement.nearest is None or start.nearest is None:
        return True
    return scanned_share(judgement.nearest) <= scanned_share(start.nearest)


def standard_error(judgement: Judgement, start: Judgement, kmeans: list[Curves], seed: int) -> float:
    """Of value(start) - value(judgement), from paired resamples of the held-out vectors (the bootstrap)."""
    return _resampled(
        lambda weights: value(start, kmeans, weights) - value(judgement, kmeans, weights), len(kmeans[0].found), seed
    )


def _resampled(difference: Callable[[np.ndarray], float], n: int, seed: int) -> float:
    """Standard error of what is told of n held-out vectors, each of which counts so often."""
    rng = generator(seed, 0, "bootstrap")
    weights = (np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64) for _ in range(RESAMPLES))
    return float(np.std([difference(one) for one in weights]))


def gain_over(curves: list[Curves], others: list[Curves], seed: int) -> tuple[float, float]:
    """How much less is scanned than otherwise, mean over pairs of both, and its standard error (the bootstrap)."""

    def gain(weights: np.ndarray | None = None) -> float:
        pairs = zip(curves, others, strict=True)
        return 1 - float(np.mean([scanned_share(a, weights) / scanned_share(b, weights) for a, b in pairs]))

    return gain(), _resampled(gain, len(curves[0].found), seed)


def is_gain(judgement: Judgement, start: Judgement, kmeans: list[Curves], seed: int) -> tuple[bool, float, float]:
    """Whether a trained epoch replaces k-means: gain > 0.5 %, and gain - 2 standard errors > -0.5 %.

    returns: the answer, the gain as a share of k-means' value, and its standard error likewise
    """
    at_start = value(start, kmeans)
    gain = (at_start - value(judgement, kmeans)) / at_start
    error = standard_error(judgement, start, kmeans, seed) / at_start
    return gain > LEAST_GAIN and 2 * error < gain + LEAST_GAIN, gain, error
