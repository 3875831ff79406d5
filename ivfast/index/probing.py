"""Which buckets a search probes for each query: those whose chance of an answer is large beside what they hold."""

from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import searcher
from ivfast.data.space import Space
from ivfast.index.codes import distances_by_codes
from ivfast.method import NEAR

IN_SOFTMAX = 32  # nearest buckets over which chances are taken


class Candidates(NamedTuple):
    """The nearest buckets of some queries, nearest first."""

    buckets: np.ndarray  # (n, width) int64
    distances: np.ndarray  # (n, width) float32, as FAISS gives them for the rows as stored
    gains: np.ndarray  # (n, width) float32, see `Prober.rank`


class Prober:
    """Ranks the buckets of queries by the trained centers.

    centers: (nlist, dim) float32, as stored; k: sharpness of the logits; delta_floor, probing_t: see docs/formats.md
    """

    def __init__(self, centers: np.ndarray, space: Space, delta_floor: float, k: float, probing_t: float) -> None:
        self.space, self.delta_floor, self.k, self.probing_t = space, delta_floor, k, probing_t
        self.nlist = len(centers)
        self._search = searcher(np.ascontiguousarray(space.inside(centers)), space.metric)

    def rank(self, rows: np.ndarray, width: int, shares: np.ndarray) -> Candidates:
        """The nearest buckets, and what probing each brings beside its cost.

        A probe finds an answer with the chance p_b and costs the share s_b of all vectors. To scan as little as
        possible for a recall, every query probes the buckets above one threshold of

            gain_b = log p_b - log s_b

        and its nearest bucket in any case. p is the softmax of the logits at probing_t over the 32 nearest buckets, so
        that it is the same however many are looked at; those farther away have next to no part in it.

        rows: (n, dim) float32, as stored; width: buckets that are looked at, at most nlist
        shares: (nlist,) float64, entries over n
        """
        x = self.space.inside(rows)
        distances, buckets = self._search(x, min(max(width, IN_SOFTMAX), self.nlist))
        d2 = np.maximum(2 - 2 * distances if self.space.metric == "IP" else distances, 0)
        delta = np.maximum(d2[:, :NEAR].mean(axis=1, keepdims=True), self.delta_floor)
        z = (d2[:, :1] - d2) * (np.float32(self.k / self.probing_t) / delta)
        log_p = z - np.log(np.exp(z[:, :IN_SOFTMAX]).sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore"):
            gains = log_p - np.log(shares).astype(np.float32)[buckets]
        gains[shares[buckets] == 0] = -np.inf  # nothing is found in an empty bucket
        gains[:, 0] = np.inf
        if self.space.metric == "L2":
            with np.errstate(over="ignore"):  # of far rows
                distances = distances * np.float32(self.space.scale) ** 2
        return Candidates(buckets[:, :width], distances[:, :width], gains[:, :width].astype(np.float32))


def chosen(ranked: Candidates, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The buckets above a threshold of gain, as `search_preassigned` takes them.

    returns: (n, most probed) int64, -1 where a query probes fewer, and their distances, float32
    """
    probed = ranked.gains > threshold
    order = np.argsort(~probed, axis=1, kind="stable")[:, : max(1, int(probed.sum(axis=1).max(initial=1)))]
    buckets = np.where(np.take_along_axis(probed, order, 1), np.take_along_axis(ranked.buckets, order, 1), -1)
    return buckets, np.take_along_axis(ranked.distances, order, 1)


def search_lists(
    index: faiss.IndexIVF, rows: np.ndarray, k: int, buckets: np.ndarray, distances: np.ndarray, *, pairs: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The k best entries of some lists, copies of a vector counted each.

    Unlike faiss' Python method it leaves index.nprobe alone, so that several threads may search.

    rows: (n, dim) float32; buckets: (n, m) int64, -1: none; distances: (n, m) float32 of rows to centers
    pairs: number entries by list and place in it, instead of by their ids
    returns: scores (n, k) float32 and numbers (n, k) int64, best first; -1 where the lists hold fewer
    """
    n = len(rows)
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    buckets = np.ascontiguousarray(buckets, dtype=np.int64)
    distances = np.ascontiguousarray(distances_by_codes(index, rows, buckets, distances), dtype=np.float32)
    scores, numbers = np.empty((n, k), dtype=np.float32), np.empty((n, k), dtype=np.int64)
    parameters: Any = faiss.SearchParametersIVF()
    parameters.nprobe = buckets.shape[1]
    untyped: Any = index
    untyped.search_preassigned_c(
        n, faiss.swig_ptr(rows), k, faiss.swig_ptr(buckets), faiss.swig_ptr(distances), faiss.swig_ptr(scores),
        faiss.swig_ptr(numbers), pairs, parameters,
    )  # fmt: skip
    return scores, numbers


def search_distinct(
    index: faiss.IndexIVF, rows: np.ndarray, k: int, buckets: np.ndarray, distances: np.ndarray, copies: float
) -> tuple[np.ndarray, np.ndarray]:
    """The k best vectors of some lists, each once however often it is stored there.

    More entries are fetched than are asked for. Whoever has fewer than k different ones among them, and has not seen
    all of its lists, is searched again for twice as many: so the result is exact.

    copies: extra entries over all vectors; see `search_lists` for the rest
    """
    if copies == 0:
        return search_lists(index, rows, k, buckets, distances)
    scores, ids = np.empty((len(rows), k), dtype=np.float32), np.empty((len(rows), k), dtype=np.int64)
    left, fetched = np.arange(len(rows)), k + max(4, int(np.ceil(k * copies)))
    while len(left):
        found_scores, found = search_lists(index, rows[left], fetched, buckets[left], distances[left])
        scores[left], ids[left], n_different = first_distinct(found_scores, found, k)
        short = (n_different < k) & (found[:, -1] >= 0)
        left, fetched = left[short], 2 * fetched
    return scores, ids


def first_distinct(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first k different ids of each row.

    scores, ids: (n, more than k), best first, ids -1 at the end where there are no more
    returns: scores (n, k) and ids (n, k), -1 where there are fewer, and how many there are, (n,)
    """
    width = ids.shape[1]
    bits = width.bit_length()
    keys = np.sort((ids << bits) | np.arange(width), axis=1)  # id and place in one number: twice as fast as argsort
    by_id = keys >> bits
    fresh = by_id >= 0
    fresh[:, 1:] &= by_id[:, 1:] != by_id[:, :-1]
    first = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(first, keys & ((1 << bits) - 1), fresh, axis=1)
    columns = np.argsort(~first, axis=1, kind="stable")[:, :k]
    counts = first.sum(axis=1)
    valid = np.arange(k) < counts[:, None]
    # a row with fewer ends in what FAISS writes where nothing is found
    found = np.where(valid, np.take_along_axis(scores, columns, axis=1), scores[:, -1:])
    return found, np.where(valid, np.take_along_axis(ids, columns, axis=1), -1), counts
