"""Store a base: every vector once, then the copies that a budget pays for, the same bits at any block size."""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np

from ivfast.route.search import Lists
from ivfast.route.tiles import Tile, Tiles
from ivfast.runtime.progress import Bar
from ivfast.runtime.threads import in_order
from ivfast.store.rules import RULES
from ivfast.store.rules.rule import Rule, Terms

THREADED = 65_536  # vectors from which on threads rank them
BINS = 1 << 16  # of a histogram of keys
RANKED_BYTES = 1 << 30  # what rules ranked is kept for the second pass up to this size, else ranked again


class Plan(NamedTuple):
    """One way to store a base. Plans that share a rule are ranked once."""

    name: str  # of the rule, a row of RULES
    copies: float  # extra entries over the vectors stored
    rule: Rule


def make_plans(names: Iterable[str], terms: Iterable[Terms]) -> list[Plan]:
    """Every rule named, for every number of copies. Terms that differ in nothing that a rule takes share it."""
    wanted = list(terms)
    made: dict[tuple[Hashable, ...], Rule] = {}
    plans = []
    for name in names:
        for term in wanted:
            key: tuple[Hashable, ...] = name, term.copies > 0
            if RULES[name].fitted:
                key += term.storing_t, b"" if term.m is None else term.m.tobytes()
            if RULES[name].asks:
                key += (id(term.demand), term.recall, term.wait)
            if key not in made:
                made[key] = RULES[name].make(term)
            plans.append(Plan(name, term.copies, made[key]))
    return plans


def place(
    tiles: Tiles, plans: list[Plan], width: int, wanted: np.ndarray | None = None, bar: Bar | None = None,
    sample: np.ndarray | None = None, ranked_bytes: int = RANKED_BYTES,
) -> list[Lists]:  # fmt: skip
    """Store every vector once, then the round(copies n) best copies over all of them.

    There are two passes. The first counts keys in a histogram, the second takes what lies above the budget's border.
    Inside the border's bin keys are sorted exactly. Ties go to the smaller vector, then to the smaller bucket.

    tiles: logits of the vectors by the router that stores them
    width: buckets a vector can be in at most, at most nlist
    wanted: ascending vector numbers whose buckets are returned; None: all
    bar: advances by the vectors, once a pass
    sample: ascending vector numbers that stand for all: the budget and the sizes of the buckets are theirs, and the
    others get copies that are as good; None: all
    """
    counts = np.full(tiles.n, sample is None)  # whose copies the budgets pay for
    if sample is not None:
        counts[sample] = True
    ledgers = [_Ledger(plan.copies, tiles.router.nlist, width, wanted, counts) for plan in plans]
    rules = {id(plan.rule): plan.rule for plan in plans}
    ranked = _Ranks(list(rules.values()), tiles, width, ranked_bytes)
    for second in (False, True):
        for start, found in ranked.tiles(again=second):
            for plan, ledger in zip(plans, ledgers, strict=True):
                (ledger.take if second else ledger.count)(start, *found[id(plan.rule)])
            if bar is not None:
                bar.advance(len(next(iter(found.values()))[0]) if found else 0)
    return [ledger.close() for ledger in ledgers]


RankedTile = dict[int, tuple[np.ndarray, np.ndarray]]  # buckets and keys of a tile, by the rule's id


class _Ranks:
    """What rules say of all tiles, cached from the first pass where it is small."""

    def __init__(self, rules: list[Rule], tiles: Tiles, width: int, most_bytes: int) -> None:
        self.rules, self.source, self.width = rules, tiles, width
        self.fits = tiles.n * width * 8 * len(rules) <= most_bytes
        self.cached: list[tuple[int, RankedTile]] = []

    def tiles(self, *, again: bool) -> Iterable[tuple[int, RankedTile]]:
        """Number of the first vector, and what each rule found, tile by tile."""
        if again and self.fits:
            yield from self.cached
            return
        tiles = self.source.tiles()
        ranked = in_order(self._rank, tiles) if self.source.n > THREADED else map(self._rank, tiles)
        for start, found in ranked:
            if self.fits:
                self.cached.append((start, found))
            yield start, found

    def _rank(self, tile: Tile) -> tuple[int, RankedTile]:
        return tile.start, {id(rule): rule.rank(tile, self.width) for rule in self.rules}


class _Ledger:
    """One plan's histogram of keys, the border of its budget, and its entries."""

    def __init__(self, copies: float, nlist: int, width: int, wanted: np.ndarray | None, counts: np.ndarray) -> None:
        self.wanted, self.counts = wanted, counts
        self.n = int(counts.sum())
        self.budget = round(copies * self.n)
        self.histogram = np.zeros(BINS, dtype=np.int64)
        self.sizes = np.zeros(nlist, dtype=np.int64)
        self.buckets = np.full((len(counts if wanted is None else wanted), width), -1, dtype=np.int32)
        self.border: int | None = None
        self.at_border: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def count(self, start: int, buckets: np.ndarray, keys: np.ndarray) -> None:
        """First pass."""
        if self.budget:
            offered = (buckets[:, 1:] >= 0) & self.counts[start : start + len(buckets), None]
            self.histogram += np.bincount(key_bins(keys[:, 1:])[offered], minlength=BINS)

    def take(self, start: int, buckets: np.ndarray, keys: np.ndarray) -> None:
        """Second pass: primaries and all copies above the border; those in its bin wait."""
        taken = np.zeros(buckets.shape, dtype=bool)
        taken[:, 0] = True
        if self.budget:
            bins = key_bins(keys[:, 1:])
            border = self._border()
            taken[:, 1:] = bins > border
            row, column = np.nonzero((bins == border) & (buckets[:, 1:] >= 0))
            self.at_border.append((keys[row, column + 1], row + start, buckets[row, column + 1]))
        self._store(np.arange(start, start + len(buckets)), np.where(taken, buckets, -1))

    def _border(self) -> int:
        """The lowest bin of which copies are stored; below all bins where the budget pays for every one offered."""
        if self.border is None:
            self.border = border_of(self.histogram, self.budget)
        return self.border

    def _store(self, vectors: np.ndarray, buckets: np.ndarray) -> None:
        counted = buckets[self.counts[vectors]]
        self.sizes += np.bincount(counted[counted >= 0], minlength=len(self.sizes))
        if self.wanted is None:
            self.buckets[vectors, : buckets.shape[1]] = buckets
            return
        at = np.searchsorted(self.wanted, vectors)
        here = at < len(self.wanted)
        here[here] = self.wanted[at[here]] == vectors[here]
        self.buckets[at[here], : buckets.shape[1]] = buckets[here]

    def close(self) -> Lists:
        """Fill the rest of the budget from the border's bin."""
        if self.budget and self._border() >= 0:
            keys, vectors, buckets = (np.concatenate(parts) for parts in zip(*self.at_border, strict=True))
            spare = self.budget - int(self.histogram[self._border() + 1 :].sum())
            order = np.lexsort((buckets, vectors, -keys))
            paid = np.cumsum(self.counts[vectors[order]])
            best = order[: int(np.searchsorted(paid, spare)) + 1]
            self._add(vectors[best], buckets[best])
        return Lists(self.n, self.sizes, self.buckets)

    def _add(self, vectors: np.ndarray, buckets: np.ndarray) -> None:
        """Copies in the order of their keys; a vector may get several."""
        self.sizes += np.bincount(buckets[self.counts[vectors]], minlength=len(self.sizes))
        if self.wanted is not None:
            here = np.isin(vectors, self.wanted)
            vectors, buckets = np.searchsorted(self.wanted, vectors[here]), buckets[here]
        order = np.argsort(vectors, kind="stable")
        vectors, buckets = vectors[order], buckets[order]
        nth = np.arange(len(vectors)) - np.searchsorted(vectors, vectors)
        free = np.argsort(self.buckets[vectors] >= 0, axis=1, kind="stable")  # the columns that are free come first
        self.buckets[vectors, free[np.arange(len(vectors)), nth]] = buckets


def border_of(histogram: np.ndarray, budget: int) -> int:
    """The lowest bin of which anything is taken; -1 where the budget pays for all that is counted."""
    above = np.cumsum(histogram[::-1])[::-1]  # in this bin or a higher one
    reached = np.flatnonzero(above >= budget)
    return int(reached[-1]) if len(reached) else -1


def key_bins(keys: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32 keys, in the order of the keys."""
    return ordered_keys(keys) >> 16


def ordered_keys(keys: np.ndarray) -> np.ndarray:
    """Whole numbers below 2^32 in the order of float32 keys, one for each key, int64."""
    assert keys.dtype == np.float32, keys.dtype  # what a Rule promises
    bits = (keys + np.float32(0)).view(np.uint32)  # + 0: -0.0 and 0.0 are one key
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.int64)
