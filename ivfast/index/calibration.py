"""What a search of an index finds and scans at each threshold, measured once on vectors whose answers are known."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ivfast.index.probing import Candidates, Prober
from ivfast.runtime.errors import UserError

MOST_K = 100  # nearest of a query that a recall can be asked for
N_THRESHOLDS = 256
MISSED = 1e-3  # share of answers, and of queries, whose buckets may lie beyond those that are looked at
ROWS = 1024  # ranked at once


class Answers(NamedTuple):
    """Vectors that stand for queries, with their exact nearest."""

    x: np.ndarray  # (q, dim) float32, as stored
    nearest: np.ndarray  # (q, k up to 100) int64, numbers of stored vectors, nearest first


class Calibration(NamedTuple):
    """How recall and scanned share hang together in one index."""

    width: int  # nearest buckets that a search looks at
    thresholds: np.ndarray  # (t,) float32 of gain, falling
    recall: np.ndarray  # (t, k) float32: of the 1, 2, .. k nearest, the share found at each threshold
    scanned: np.ndarray  # (t,) float64, entries scanned over vectors stored
    probed: np.ndarray  # (t,) float64, mean buckets
    deepest: np.ndarray  # (t,) int64, nearest buckets among which next to all that were probed lie

    @property
    def most_k(self) -> int:
        """Nearest of a query that recall was measured for."""
        return self.recall.shape[1]

    def best(self, k: int) -> float:
        """The highest recall of the k nearest. By coarse codes more buckets may find fewer: false ones push in."""
        return float(self.recall[:, k - 1].max())

    def check_k(self, k: int) -> None:
        """raises: UserError where recall of the k nearest was not measured"""
        if k > self.most_k:
            raise UserError(
                f"k {k}: recall is known for up to {self.most_k} nearest; ask for fewer, or search with scanned=.. or "
                "nprobe=.. instead"
            )

    def at_recall(self, recall: float, k: int) -> float:
        """The highest threshold that reaches a recall of the k nearest.

        raises: UserError where no threshold does, or k is above what was measured
        """
        self.check_k(k)
        reached = self.recall[:, k - 1]
        if recall > self.best(k):
            raise UserError(
                f"recall {recall:g} at k {k}: this index reaches {self.best(k):.3f}; ask for less, or use finer codes "
                "(kind='Flat')"
            )
        return float(np.interp(recall, np.maximum.accumulate(reached), self.thresholds))

    def at_scanned(self, scanned: float) -> float:
        """The threshold that scans a share of the vectors stored, on average."""
        return float(np.interp(scanned, self.scanned, self.thresholds))

    def width_at(self, threshold: float) -> int:
        """How many nearest buckets a search looks at: a quarter more than were needed where this was measured."""
        needed = float(np.interp(-threshold, -self.thresholds, self.deepest))
        return min(self.width, int(np.ceil(1.25 * needed)))

    def predicted(self, threshold: float, k: int) -> tuple[float, float, float]:
        """Recall of the k nearest, scanned share and mean buckets probed at a threshold."""
        rising = -self.thresholds
        columns = self.recall[:, k - 1], self.scanned, self.probed
        found, scanned, probed = (float(np.interp(-threshold, rising, column)) for column in columns)
        return found, scanned, probed


def find_width(prober: Prober, answers: Answers, in_buckets: np.ndarray) -> int:
    """How many nearest buckets a search must look at, so that next to no answer lies beyond.

    in_buckets: (q, k, copies) int32, the buckets of each answer, -1: none
    """
    even, worst = np.ones(prober.nlist), []
    for start in range(0, len(answers.x), ROWS):
        buckets = prober.rank(answers.x[start : start + ROWS], prober.nlist, even).buckets
        place = np.full((len(buckets), prober.nlist + 1), prober.nlist)  # the last stands for -1
        np.put_along_axis(place, buckets, np.arange(prober.nlist)[None], axis=1)
        of_answers = in_buckets[start : start + ROWS]
        worst.append(np.take_along_axis(place[:, None], of_answers, axis=2).min(axis=2).ravel())
    needed = int(np.quantile(np.concatenate(worst), 1 - MISSED, method="higher")) + 1
    return min(prober.nlist, max(32, -(-needed // 32) * 32))


def calibrate(prober: Prober, answers: Answers, in_buckets: np.ndarray, sizes: np.ndarray, n: int) -> Calibration:
    """Measure a searched index whose codes lose nothing: what lies in a list that is probed is found.

    in_buckets: as find_width has it; sizes: (nlist,) entries of the lists; n: vectors stored
    """
    width, shares = find_width(prober, answers, in_buckets), sizes / n
    blocks = [slice(start, start + ROWS) for start in range(0, len(answers.x), ROWS)]
    ranked = [prober.rank(answers.x[block], width, shares) for block in blocks]
    found = np.concatenate([_gain_of(one, in_buckets[block]) for one, block in zip(ranked, blocks, strict=True)])
    thresholds = thresholds_of(ranked)
    recall = np.stack([(found > threshold).mean(axis=0) for threshold in thresholds])
    return make_calibration(ranked, shares, thresholds, recall)


def thresholds_of(ranked: list[Candidates], most: int = N_THRESHOLDS) -> np.ndarray:
    """Thresholds at which from one to all buckets looked at are probed on average, evenly in the log of their number.

    returns: (t,) float32, falling
    """
    gains = np.concatenate([one.gains for one in ranked])
    rows, width = gains.shape
    flat = np.sort(gains[np.isfinite(gains)])[::-1]
    counts = np.unique(np.round((np.geomspace(1, width, most) - 1) * rows).astype(np.int64))
    border = flat[counts[counts < len(flat)]]
    below = np.float32(flat[-1] - 1) if len(flat) else np.float32(0)
    return np.unique(np.append(border, below)).astype(np.float32)[::-1]


def make_calibration(
    ranked: list[Candidates], shares: np.ndarray, thresholds: np.ndarray, recall: np.ndarray
) -> Calibration:
    """Put together what was measured. recall: (t, k) single nearest, not yet averaged over the first 1, 2, .. k"""
    buckets, gains = (np.concatenate([one[i] for one in ranked]) for i in (0, 2))
    costs = shares[buckets]
    scanned = np.array([costs[gains > threshold].sum() / len(gains) for threshold in thresholds])
    probed = np.array([(gains > threshold).sum() / len(gains) for threshold in thresholds])
    places = np.arange(1, gains.shape[1] + 1)
    last = [(places * (gains > threshold)).max(axis=1) for threshold in thresholds]
    deepest = np.array([np.quantile(one, 1 - MISSED, method="higher") for one in last])
    averaged = np.cumsum(recall, axis=1) / np.arange(1, recall.shape[1] + 1)
    return Calibration(buckets.shape[1], thresholds, averaged.astype(np.float32), scanned, probed, deepest)


def calibrate_codes(
    prober: Prober, answers: Answers, width: int, shares: np.ndarray,
    search: Callable[[Candidates, float, int, slice], np.ndarray], n_thresholds: int = 12,
) -> Calibration:  # fmt: skip
    """Measure an index whose codes lose digits by searching it.

    search: (ranked, threshold, k, rows of the answers) -> ids (rows, k)
    """
    blocks = [slice(start, start + ROWS) for start in range(0, len(answers.x), ROWS)]
    ranked = [prober.rank(answers.x[block], width, shares) for block in blocks]
    thresholds, k = thresholds_of(ranked, n_thresholds), answers.nearest.shape[1]
    recall = np.zeros((len(thresholds), k))
    for i, threshold in enumerate(thresholds):
        for one, block in zip(ranked, blocks, strict=True):
            found = search(one, float(threshold), k, block)
            recall[i] += _recall_at_each_k(found, answers.nearest[block]).sum(axis=0) / len(answers.x)
    made = make_calibration(ranked, shares, thresholds, recall)
    return made._replace(recall=recall.astype(np.float32))


def _recall_at_each_k(found: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Of the 1, 2, .. k nearest the share among the first 1, 2, .. k found. Both (n, k); returns (n, k)"""
    k = nearest.shape[1]
    same = found[:, :, None] == nearest[:, None, :]  # found at i is nearest j: counts from k = max(i, j) on
    later = np.maximum(np.arange(k)[:, None], np.arange(k)[None])
    return np.stack([np.cumsum(np.bincount(later[row], minlength=k)) for row in same]) / np.arange(1, k + 1)


def _gain_of(ranked: Candidates, in_buckets: np.ndarray) -> np.ndarray:
    """The largest gain of the buckets that hold each answer, -inf where none is looked at.

    in_buckets: (q, k, copies); returns (q, k) float32
    """
    best = np.full(in_buckets.shape[:2], -np.inf, dtype=np.float32)
    nlist = int(ranked.buckets.max()) + 1
    gains = np.full((len(in_buckets), max(nlist, int(in_buckets.max()) + 1) + 1), -np.inf, dtype=np.float32)
    np.put_along_axis(gains, ranked.buckets, ranked.gains, axis=1)
    gains[:, -1] = -np.inf  # stands for -1
    for copy in range(in_buckets.shape[2]):
        np.maximum(best, np.take_along_axis(gains, in_buckets[:, :, copy], axis=1), out=best)
    return best
