"""What a search scans and what it finds, bucket by bucket."""

from typing import NamedTuple

import numpy as np

from ivfast.route.distances import log_softmax


class Lists(NamedTuple):
    """What is stored in which bucket, under one plan."""

    n: int  # vectors stored, each counted once
    sizes: np.ndarray  # (nlist,) int64, entries per bucket, copies counted
    buckets: np.ndarray  # (n_wanted, width) int32: of the vectors asked for, the primary first, -1 where none

    @property
    def entries(self) -> int:
        """Of all buckets, copies counted."""
        return int(self.sizes.sum())


class Answers(NamedTuple):
    """Right answers of a block of queries."""

    at: np.ndarray  # (queries, width) row of Lists.buckets
    valid: np.ndarray  # (queries, width) bool
    most: np.ndarray | None = None  # (queries,) found ones that count, where ties are among the answers; None: all


def router_order(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Buckets of each row, best first (ties: smaller bucket), and the place of each bucket.

    z: (n, nlist); returns two (n, nlist) int64
    """
    order = np.argsort(-z, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(z.shape[1])[None, :], axis=1)
    return order, place


def first_found(place: np.ndarray, lists: Lists, answers: Answers) -> np.ndarray:
    """At which nprobe each answer is found: 1 .. nlist, nlist + 1 where there is no answer, or no more of them count.

    place: (queries, nlist) from router_order; returns (queries, width) int64
    """
    nlist = place.shape[1]
    buckets = lists.buckets[answers.at]  # (queries, width, copies)
    rows = np.arange(len(place))[:, None, None]
    found = np.where(buckets >= 0, place[rows, buckets], nlist).min(axis=2) + 1
    found = np.where(answers.valid, found, nlist + 1)
    if answers.most is None:
        return found
    return np.where(np.arange(found.shape[1]) < answers.most[:, None], np.sort(found, axis=1), nlist + 1)


def scanned_shares(order: np.ndarray, lists: Lists) -> np.ndarray:
    """Entries scanned at nprobe 1 .. nlist over n. (queries, nlist) float64"""
    return np.cumsum(lists.sizes[order], axis=1) / lists.n


def log_gains(z: np.ndarray, probing_t: float, lists: Lists) -> np.ndarray:
    """Log of what a probe brings for its cost; +inf at the best bucket, -inf at empty ones.

        gain_b = softmax(z / probing_t)_b / (size_b / n)

    z: (queries, nlist); returns float32 of that shape
    """
    empty = lists.sizes == 0
    log_share = np.log(np.maximum(lists.sizes, 1) / lists.n).astype(np.float32)
    gains = np.where(empty, np.float32(-np.inf), log_softmax(z, probing_t) - log_share)
    best = np.where(empty, -np.inf, z).argmax(axis=1)
    gains[np.arange(len(z)), best] = np.inf
    return gains


def thresholds_for(gains: np.ndarray, n_probed: np.ndarray) -> np.ndarray:
    """Thresholds above which rows probe so many buckets on average.

    gains: (rows, nlist) of held-out vectors; n_probed: (t,) rising, 1 .. nlist
    returns: (t,) float32; the last is -inf where all non-empty buckets are wanted
    """
    flat = np.sort(gains.ravel())[::-1]
    flat = flat[np.isfinite(flat)]  # best buckets are always probed, empty ones never
    counts = np.round((np.asarray(n_probed) - 1) * len(gains)).astype(np.int64)
    inside = np.minimum(counts, len(flat) - 1)
    border = flat[inside] if len(flat) else np.full(len(counts), np.inf)
    return np.where(counts >= len(flat), np.float32(-np.inf), border).astype(np.float32)


class AdaptiveCounts(NamedTuple):
    """What a block of queries probes, scans and finds at each threshold."""

    probed: np.ndarray  # (queries, t) buckets
    scanned: np.ndarray  # (queries, t) entries
    found: np.ndarray  # (t,) right answers
    found_by_query: np.ndarray  # (queries, t)


def count_adaptive(gains: np.ndarray, thresholds: np.ndarray, lists: Lists, answers: Answers) -> AdaptiveCounts:
    """Probe all buckets with a gain above each threshold. thresholds: (t,) falling"""
    queries, t = len(gains), len(thresholds)
    rising = np.sort(thresholds)
    above = np.searchsorted(rising, gains, side="left")  # thresholds below each gain, 0 .. t
    # an equal gain is not above; -inf gains are above nothing
    cell = (np.arange(queries)[:, None] * (t + 1) + above).ravel()
    sizes = np.broadcast_to(lists.sizes, gains.shape).ravel()
    probed = np.bincount(cell, minlength=queries * (t + 1)).reshape(queries, t + 1)
    scanned = np.bincount(cell, weights=sizes, minlength=queries * (t + 1)).reshape(queries, t + 1)
    buckets = lists.buckets[answers.at]
    rows = np.arange(queries)[:, None, None]
    best = np.where(buckets >= 0, gains[rows, buckets], -np.inf).max(axis=2)
    passed = np.where(answers.valid, np.searchsorted(rising, best, side="left"), 0)
    cell = (np.arange(queries)[:, None] * (t + 1) + passed).ravel()
    found = _at_falling(np.bincount(cell, minlength=queries * (t + 1)).reshape(queries, t + 1))
    if answers.most is not None:
        found = np.minimum(found, answers.most[:, None])
    return AdaptiveCounts(_at_falling(probed), _at_falling(scanned), found.sum(axis=0), found)


def _at_falling(counts: np.ndarray) -> np.ndarray:
    """Counts by number of thresholds passed -> totals per falling threshold, along the last axis."""
    return np.cumsum(counts[..., :0:-1], axis=-1)


def scanned_at(recall: np.ndarray, scanned: np.ndarray, level: float) -> float:
    """Scanned share where recall reaches `level`, linear between neighbouring points.

    recall, scanned: (points,) not falling; where the first point that finds anything is above already, that point's;
    NaN where the last is below
    """
    reached = np.flatnonzero(recall >= level)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0 or recall[i - 1] == 0:
        return float(scanned[i])
    part = (level - recall[i - 1]) / (recall[i] - recall[i - 1])
    return float(scanned[i - 1] + part * (scanned[i] - scanned[i - 1]))


def imbalance(sizes: np.ndarray) -> float:
    """How unevenly the buckets are filled.

        imbalance = nlist * sum_b size_b^2 / (sum_b size_b)^2

    sizes: (nlist,) int64, entries per bucket, not all zero
    returns: 1 = even, nlist = everything in one bucket
    """
    share = sizes / sizes.sum()  # float64: int64 squares overflow at 3e9 entries
    return len(sizes) * float(share @ share)
