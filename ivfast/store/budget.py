"""Which copies a budget pays for: two passes over all keys, the same bits at any block size."""

from typing import NamedTuple

import numpy as np

from ivfast.route.routers import LogitTiles
from ivfast.runtime.progress import Bar
from ivfast.store.demand import Demand
from ivfast.store.rules import Plan, candidates


class Assignment(NamedTuple):
    """What one plan stores."""

    sizes: np.ndarray  # (nlist,) int64, entries per bucket
    buckets: np.ndarray  # (n_wanted, width) int32: primary, then extras by key, -1 where none
    entries: int


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
