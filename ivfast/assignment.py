"""Which buckets a vector is stored in."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ivfast.demand import Demand, TileDemand
from ivfast.progress import Bar
from ivfast.routers import Crossing, LogitTiles, log_softmax, top

LEAST_USE = 1e-9  # m of a bucket counts as at least this
COVER = 0.5  # of the crossing with a bucket taken counts against a copy
OWN = 0.6  # of a vector's own gain counts beside what its askers gain, where it is in one bucket


def default_rule(router: str) -> str:
    """What a router's base is stored by unless another rule is asked for: all that k-means has is ratio."""
    return "ratio" if router == "kmeans" else "benefit"


class Plan(NamedTuple):
    """One way to store base."""

    rule: str  # ratio, membership or benefit
    percent: float  # extra entries over base
    temperature: float = 1.0  # T_s, of membership and benefit
    log_use: np.ndarray | None = None  # (nlist,) log m at T_s, for benefit

    @property
    def places_copies(self) -> bool:
        """Whether copies go where the buckets taken don't reach: by benefit."""
        return self.rule == "benefit" and self.percent > 0

    @property
    def keyed_by(self) -> tuple[str, float, bool]:
        """Plans that agree in this rank the same candidates."""
        return self.rule, self.temperature, self.percent > 0


class Assignment(NamedTuple):
    """What one plan stores."""

    sizes: np.ndarray  # (nlist,) int64, entries per bucket
    buckets: np.ndarray  # (n_wanted, width) int32: primary, then extras by key, -1 where none
    entries: int


def log_use(m: np.ndarray) -> np.ndarray:
    """Log max(m, 1e-9), float32. m: (nlist,) mean membership, sums to 1"""
    return np.log(np.maximum(m, LEAST_USE)).astype(np.float32)


def mean_membership(tiles: Iterable[tuple[int, np.ndarray]], temperatures: Iterable[float]) -> dict[float, np.ndarray]:
    """M at each temperature: the mean of softmax(z / T) over all rows, (nlist,) float64."""
    sums: dict[float, np.ndarray] = {}
    n = 0
    wanted = set(temperatures)
    for _, z in tiles:
        n += len(z)
        for temperature in wanted:
            p = np.exp(log_softmax(z, temperature)).sum(axis=0, dtype=np.float64)
            sums[temperature] = sums.get(temperature, 0) + p
    return {temperature: total / n for temperature, total in sums.items()}


def candidates(
    z: np.ndarray, plan: Plan, width: int, crossing: Crossing | None = None, demand: TileDemand | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best `width` buckets of each row by the plan's key; ties go to the smaller bucket.

        ratio       log d_1 - log d_j = (log z_1 - log z_j) / 2 for z = -k d^2 / delta
        membership  log p_b
        benefit     log p_b - log m_b; of copies what the buckets taken leave of it (see cover); without copies
                    what askers gain counts as well (see only_bucket)

    z: (n, nlist) float32; crossing: of the router, for (n, width) buckets (None: it has none)
    demand: who asks for these rows (None: not known)
    returns: buckets (n, width) int32 and keys (n, width) float32, falling along each row (of copies, beside the first)
    """
    if plan.rule == "ratio":
        buckets = top(z, width)
        return buckets, _ratio_keys(np.take_along_axis(z, buckets, axis=1))
    keys = log_softmax(z, plan.temperature)
    if plan.rule == "benefit":
        assert plan.log_use is not None
        keys = keys - plan.log_use
    buckets = top(keys, width)
    keys = np.take_along_axis(keys, buckets, axis=1)
    if plan.places_copies and width > 1 and crossing is not None:
        return cover(buckets, keys, crossing(buckets) * np.float32(COVER / plan.temperature), demand)
    if plan.rule == "benefit" and plan.percent == 0 and demand is not None:
        return only_bucket(buckets, keys, demand)
    return buckets, keys


def only_bucket(buckets: np.ndarray, keys: np.ndarray, demand: TileDemand) -> tuple[np.ndarray, np.ndarray]:
    """Order a row's buckets by what each is worth as its only one.

        key_b = surplus_b + 0.6 (log p_b - log m_b)     surplus: of the askers, see TileDemand.surplus

    buckets: (n, width); keys: (n, width) log p_b - log m_b
    returns: both, by falling key; ties go to the smaller bucket
    """
    worth = demand.surplus(buckets) + np.float32(OWN) * keys
    order = np.lexsort((buckets, -worth), axis=1)
    return np.take_along_axis(buckets, order, axis=1), np.take_along_axis(worth, order, axis=1)


def cover(
    buckets: np.ndarray, keys: np.ndarray, crossing: np.ndarray, demand: TileDemand | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Order a row's buckets so that each is worth most beside those before it.

    Two estimates of a copy's gain over its cost, A the buckets before it. By the vector's own memberships:

        own_b = log p_b - log m_b - 1 / (2 T) sum of crossing_ab over A

    by those that ask for it, y with weight w_y, each of which probes b with chance c_b(y):

        asked_b = log(0.001 + sum_y w_y max(0, c_b(y) - max of c_a(y) over A)) - log mean c_b

    The key is their mean, (own_b + log sum_y w_y + asked_b) / 2; own_b alone where no demand is known.

    buckets, keys: (n, width), the first stays; crossing: (n, width, width), times 1 / (2 T)
    returns: both, reordered; keys fall along each row after the first; ties go to the smaller bucket
    """
    n, width = buckets.shape
    rows = np.arange(n)
    order = np.argsort(buckets, axis=1)
    order = np.concatenate([np.zeros((n, 1), order.dtype), order[order > 0].reshape(n, width - 1)], axis=1)
    worth = np.take_along_axis(keys, order, axis=1)
    worth[:, 0] = -np.inf  # taken
    asked = None if demand is None else demand.asked(np.take_along_axis(buckets, order, axis=1))
    best = np.zeros(n, dtype=np.int64)
    chosen, found = np.zeros((n, width), dtype=np.int64), keys.copy()
    for place in range(1, width):
        worth -= np.take_along_axis(crossing[rows, chosen[:, place - 1]], order, axis=1)
        key = worth if asked is None else (worth + asked.after(best)) / 2
        best = key.argmax(axis=1)
        chosen[:, place], found[:, place] = order[rows, best], key[rows, best]
        worth[rows, best] = -np.inf
    return np.take_along_axis(buckets, chosen, axis=1), found


def _ratio_keys(z: np.ndarray) -> np.ndarray:
    """z: (n, width) falling, <= 0; 1 (log 0) where both distances are 0, -inf where only d_1 is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        keys = (np.log(-z[:, :1]) - np.log(-z)) / 2
    return np.where(z == z[:, :1], np.float32(0), keys)


def assign(
    tiles: LogitTiles, plans: list[Plan], width: int, wanted: np.ndarray | None = None, bar: Bar | None = None,
    demand: Demand | None = None,
) -> list[Assignment]:  # fmt: skip
    """Store every vector once, then the round(percent n) best extras over all of them.

    Two passes over the logits: the first counts keys in a histogram, the second takes what lies
    above the budget's border; inside the border's bin keys are sorted exactly. Ties go to the
    smaller vector, then the smaller bucket.

    width: buckets a vector can be in at most, min(ftopk, nlist)
    wanted: ascending vector numbers whose buckets are returned; None: all
    demand: who asks for the vectors, for benefit (None: not known)
    """
    builders = [_Builder(plan, tiles.router.nlist, tiles.n, width, wanted) for plan in plans]
    for second in (False, True):
        for start, z in tiles:
            found: dict[tuple[str, float, bool], tuple[np.ndarray, np.ndarray]] = {}
            crossing = tiles.crossing(start, z)
            asked = None if demand is None else demand.of(start, len(z))
            for builder in builders:
                key = builder.plan.keyed_by
                if key not in found:
                    found[key] = candidates(z, builder.plan, width, crossing, asked)
                (builder.take if second else builder.count)(start, *found[key])
            if bar is not None:
                bar.advance(len(z))
    return [builder.finish() for builder in builders]


class _Builder:
    """One plan's histogram, border and entries."""

    BINS = 1 << 16

    def __init__(self, plan: Plan, nlist: int, n: int, width: int, wanted: np.ndarray | None) -> None:
        self.plan, self.nlist, self.wanted = plan, nlist, wanted
        self.budget = round(plan.percent * n)
        self.histogram = np.zeros(self.BINS, dtype=np.int64)
        self.sizes = np.zeros(nlist, dtype=np.int64)
        self.buckets = np.full((n if wanted is None else len(wanted), width), -1, dtype=np.int32)
        self.border: int | None = None
        self.at_border: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def count(self, start: int, buckets: np.ndarray, keys: np.ndarray) -> None:
        """First pass."""
        del start, buckets
        if self.budget:
            self.histogram += np.bincount(_bins(keys[:, 1:]).ravel(), minlength=self.BINS)

    def take(self, start: int, buckets: np.ndarray, keys: np.ndarray) -> None:
        """Second pass: primaries and all extras above the border; those in its bin wait."""
        taken = np.zeros(buckets.shape, dtype=bool)
        taken[:, 0] = True
        if self.budget:
            bins = _bins(keys[:, 1:])
            border = self._border()
            taken[:, 1:] = bins > border
            row, column = np.nonzero(bins == border)
            self.at_border.append((keys[row, column + 1], row + start, buckets[row, column + 1]))
        self._store(np.arange(start, start + len(buckets)), np.where(taken, buckets, -1))

    def _border(self) -> int:
        if self.border is None:
            above = np.cumsum(self.histogram[::-1])[::-1]  # keys in this bin or a higher one
            self.border = int(np.flatnonzero(above >= self.budget)[-1])
        return self.border

    def _store(self, vectors: np.ndarray, buckets: np.ndarray) -> None:
        self.sizes += np.bincount(buckets[buckets >= 0], minlength=self.nlist)
        if self.wanted is None:
            self.buckets[vectors] = buckets
            return
        at = np.searchsorted(self.wanted, vectors)
        here = at < len(self.wanted)
        here[here] = self.wanted[at[here]] == vectors[here]
        self.buckets[at[here]] = buckets[here]

    def finish(self) -> Assignment:
        """Fill the rest of the budget from the border's bin."""
        if self.budget:
            keys, vectors, buckets = (np.concatenate(parts) for parts in zip(*self.at_border, strict=True))
            above = int(self.histogram[self._border() + 1 :].sum())
            best = np.lexsort((buckets, vectors, -keys))[: self.budget - above]
            self._add(vectors[best], buckets[best])
        return Assignment(self.sizes, self.buckets, int(self.sizes.sum()))

    def _add(self, vectors: np.ndarray, buckets: np.ndarray) -> None:
        """Extras in the order of their keys; a vector may get several."""
        self.sizes += np.bincount(buckets, minlength=self.nlist)
        if self.wanted is not None:
            here = np.isin(vectors, self.wanted)
            vectors, buckets = np.searchsorted(self.wanted, vectors[here]), buckets[here]
        order = np.argsort(vectors, kind="stable")
        vectors, buckets = vectors[order], buckets[order]
        nth = np.arange(len(vectors)) - np.searchsorted(vectors, vectors)
        filled = (self.buckets[vectors] >= 0).sum(axis=1)
        self.buckets[vectors, filled + nth] = buckets


def _bins(keys: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32 keys, in the order of the keys."""
    bits = (keys + np.float32(0)).view(np.uint32)  # + 0: -0.0 and 0.0 are one key
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> 16).astype(np.int64)
