"""Whether a trained state is better than k-means, judged on held-out learn vectors alone."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.assignment import Plan, candidates, log_use, mean_membership
from ivfast.calibration import n_pairs
from ivfast.data import Space, Vectors
from ivfast.demand import Demand, asking_weights, find_probes, reverse_neighbors
from ivfast.draws import generator
from ivfast.neighbors import Neighbors
from ivfast.probing import RECALL, Answers, Stored, first_found, router_order, scanned_at, scanned_shares
from ivfast.routers import LogitTiles, Router

LEAST_GAIN = 0.005  # over k-means; two standard errors below the gain, a loss may be no larger than this
SAME = 0.005  # epochs this close to the best count as equal: the latest is taken
RESAMPLES = 200
SAMPLE_PER_BUCKET, SAMPLE_LEAST = 40, 20_000  # learn vectors from which bucket sizes are told
TEMPERATURES = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)  # of which T_s is chosen with copies
ONLY_TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)  # and without: from the nearest center to askers alone
SAME_TEMPERATURE = 0.005  # values this close to the least count as equal: the one nearest 1 is taken
MOST_ASKING = 2_000_000  # training vectors that stand for queries of the pool at most


class HeldOut(NamedTuple):
    """What every judgement looks at; the same for all epochs and routers."""

    learn: Vectors
    space: Space
    neighbors: Neighbors
    pool: np.ndarray  # (n_pool,) learn rows that are stored: their answers, and a sample
    sample: np.ndarray  # (n_sample,) places in pool that stand for all of learn
    answers: Answers  # places in pool, (n_held_out, up to 10)
    worth: np.ndarray  # (n_held_out, up to 10) float64, of each answer: its kinship, rows sum to 1
    pairs: tuple[np.ndarray, np.ndarray]  # learn rows, two (n_pairs,), for k
    width: int  # buckets a vector is in at most
    seed: int
    asking: np.ndarray  # (k,) float32, see asking_weights

    @property
    def rows(self) -> np.ndarray:
        """Learn rows searched for, (n_held_out,)."""
        return self.neighbors.held_out


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


def make_held_out(learn: Vectors, space: Space, neighbors: Neighbors, nlist: int, width: int, seed: int) -> HeldOut:
    """Draw the sample and number the pool."""
    n_sample = min(len(learn), max(SAMPLE_LEAST, SAMPLE_PER_BUCKET * nlist))
    sample = np.sort(generator(seed, 0, "sample").choice(len(learn), n_sample, replace=False))
    pool = np.unique(np.concatenate([sample, neighbors.answers.ravel()]))
    at = np.searchsorted(pool, neighbors.answers)
    n, n_answers = neighbors.answers.shape
    drawn = generator(seed, 0, "calibration").permutation(n * n_answers)[: n_pairs(nlist)]
    pairs = neighbors.held_out[drawn // n_answers], neighbors.answers[drawn // n_answers, drawn % n_answers]
    worth = neighbors.answers_kinship / neighbors.answers_kinship.sum(axis=1, keepdims=True)
    return HeldOut(
        learn, space, neighbors, pool, np.searchsorted(pool, sample),
        Answers(at, np.ones(at.shape, dtype=bool)), worth, pairs, width, seed, asking_weights(neighbors),
    )  # fmt: skip


class HeldOutTiles(NamedTuple):
    """A router's logits of the pool and of the held-out vectors."""

    pool: LogitTiles
    held_out: LogitTiles


def held_out_tiles(held: HeldOut, router: Router) -> HeldOutTiles:
    """Logits are computed once and kept where they are small."""
    return HeldOutTiles(
        LogitTiles(router, held.learn, held.space, held.pool),
        LogitTiles(router, held.learn, held.space, held.rows),
    )


def sample_use(held: HeldOut, tiles: HeldOutTiles, temperatures: Iterable[float]) -> dict[float, np.ndarray]:
    """M at each temperature over the sample. (nlist,) float64"""
    inside = np.zeros(len(held.pool), dtype=bool)
    inside[held.sample] = True
    chosen = ((start, z[inside[start : start + len(z)]]) for start, z in tiles.pool)
    return mean_membership(chosen, temperatures)


def nprobe_grid(nlist: int) -> np.ndarray:
    """The nprobes of Curves: 1 to 32, then about 64 even in log. (points,) int"""
    return np.unique(np.r_[1 : min(32, nlist) + 1, np.round(np.geomspace(1, nlist, 64)).astype(int)])


def held_out_demand(held: HeldOut, router: Router, nprobe: float) -> Demand:
    """Who asks for the pool: training vectors (above 2 M of them: a draw) by their neighbours, and itself.

    Nobody was searched for among held-out vectors: of those in the pool the own answers that train ask instead.
    """
    neighbors, pool = held.neighbors, held.pool
    train = neighbors.train
    stored, asker, place = _in_pool(pool, neighbors.train_nearest)
    n_answers = neighbors.answers.shape[1]
    mine = np.flatnonzero(np.isin(neighbors.held_out, pool))
    own, answer = np.repeat(neighbors.held_out[mine], n_answers), neighbors.answers[mine].ravel()
    trains = np.isin(answer, train)
    stored = np.concatenate([stored, np.searchsorted(pool, own[trains])])
    asker = np.concatenate([asker, np.searchsorted(train, answer[trains])])
    place = np.concatenate([place, np.tile(np.arange(n_answers), len(mine))[trains]])
    asking = np.unique(asker)
    stands_for = max(1.0, len(asking) / MOST_ASKING)
    if stands_for > 1:
        asking = np.sort(generator(held.seed, 0, "sample", 4).choice(asking, MOST_ASKING, replace=False))
        drawn = np.isin(asker, asking)
        stored, asker, place = stored[drawn], asker[drawn], place[drawn]
    rows = np.union1d(pool, train[asking])
    reverse = reverse_neighbors(
        stored, np.searchsorted(rows, train[asker]), place, np.searchsorted(rows, pool), held.asking
    )
    return Demand(reverse, find_probes(LogitTiles(router, held.learn, held.space, rows), nprobe), stands_for)


def _in_pool(pool: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all nearest, (m, k) learn rows, that are in the pool: where there, rows and columns of `nearest`."""
    at = np.minimum(np.searchsorted(pool, nearest), len(pool) - 1)
    row, column = np.nonzero(pool[at] == nearest)
    return at[row, column], row, column


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
