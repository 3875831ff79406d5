"""Who will ask for a vector: the vectors that have it among their nearest stand for queries."""

from collections.abc import Callable
from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.twins import Distinct, columns_of_rows, distinct_rows
from ivfast.data.vectors import Points
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.progress import Progress
from ivfast.start.descent import Means
from ivfast.start.logged import DRAWN_FOR_BASE, Asked, ask, ask_like, n_stands_for, split_log
from ivfast.start.neighbors import LIMITS, Neighbors, nearest_of_all

MOST_ASKERS = 1000  # of one vector that count: duplicates may have it among their nearest by the million
COUNTED_AT_ONCE = 65_536  # vectors whose nearest are counted with their twins


class ReverseNeighbors(NamedTuple):
    """The askers of each stored vector, itself first. Twins have them in common, and share what they ask for."""

    first: np.ndarray  # (n + 1,) int64: those of vector i are asker[first[i]:first[i + 1]]; twins count as one vector
    asker: np.ndarray  # (pairs,) int32, numbers of askers
    place: np.ndarray  # (pairs,) uint16 or 32, 1 where the vector is its asker's nearest, 2: the next, ..; 0: itself
    weights: np.ndarray  # (1 + k,) float32, of an asker by that place: 1, then those of `asking_weights`
    twins: Distinct | None = None  # which vector each stored row is; None: all differ
    share: np.ndarray | None = None  # (pairs,) float32, times the weight: rows of the asker over those of the vector
    queries: np.ndarray | None = None  # (m, dim) float32, inside: askers that are not stored, numbered after the rows


class AskingLog(NamedTuple):
    """A log of queries that ask for vectors beside what is stored."""

    queries: np.ndarray  # (n, dim) float32, inside
    seed: int

    @property
    def parts(self) -> tuple["AskingLog", np.ndarray]:
        """The log of those that trained, and those that were held out, (m, dim) float32, inside."""
        train, held_out = split_log(len(self.queries), self.seed)
        return self._replace(queries=self.queries[train]), self.queries[held_out]

    def among(self, base: Points, k: int, twins: Distinct | None, progress: Progress) -> Asked:
        """What they and others like them ask for: the k nearest rows of base, by the numbers of its different vectors.

        A vector that several rows hold is named as often, as by `count_twins`.
        """
        rows = np.arange(len(base)) if twins is None else twins.rows
        with progress.stage("answers of logged queries"):
            asked = ask(self.queries, base, rows, k, progress)
            asked = ask_like(asked, base, rows, self.seed, DRAWN_FOR_BASE, progress)
        progress.note(
            f"query_log: {len(asked.queries):,} queries tell who asks for base, those drawn like them counted"
        )
        nearest = np.searchsorted(rows, asked.nearest).astype(np.int32)
        if twins is not None:
            nearest = np.take_along_axis(nearest, columns_of_rows(twins.counts[nearest], k), axis=1)
        return asked._replace(nearest=nearest)


def asking_weights(neighbors: Neighbors) -> np.ndarray:
    """How often the r-th nearest of a vector is a right answer of a query whose nearest is that vector.

        w_r = share of held-out vectors that have the r-th nearest of their nearest training vector as an answer

    Of identities w is near 1 up to their number of images and near 0 beyond, of weak clusters it falls slowly.

    returns: (k,) float32, k as many as train_nearest has; 1 where no answer trains
    """
    train, answers = neighbors.train, neighbors.answers
    trains = np.isin(answers, train)
    rows = np.flatnonzero(trains.any(axis=1))
    if not len(rows):
        return np.ones(neighbors.train_nearest.shape[1], dtype=np.float32)
    nearest = answers[rows, trains[rows].argmax(axis=1)]
    near = neighbors.train_nearest[np.searchsorted(train, nearest)]
    shares = [(column[:, None] == answers[rows]).any(axis=1).mean() for column in near.T]
    return np.array(shares, dtype=np.float32)


def count_twins(nearest: np.ndarray, own: np.ndarray, count: np.ndarray, k: int) -> np.ndarray:
    """The k nearest rows where vectors are stored several times: its own twins first, then all rows of each near one.

    nearest: (n, m) numbers of vectors, nearest first; own: (n,) likewise; count: rows that hold each vector
    returns: (n, up to k) numbers of vectors, each as often as rows hold it; fewer columns where there are fewer rows
    """
    k = min(k, int(count.sum()) - 1)
    found = np.empty((len(own), k), dtype=nearest.dtype)
    for start in range(0, len(own), COUNTED_AT_ONCE):
        block = slice(start, start + COUNTED_AT_ONCE)
        candidates = np.concatenate([own[block, None], nearest[block]], axis=1)
        rows = count[candidates]
        rows[:, 0] -= 1  # itself
        found[block] = np.take_along_axis(candidates, columns_of_rows(rows, k), axis=1)
    return found


def reverse_neighbors(
    stored: np.ndarray, asker: np.ndarray, place: np.ndarray, own: np.ndarray, weights: np.ndarray,
    most: int = MOST_ASKERS,
) -> ReverseNeighbors:  # fmt: skip
    """Turn "nearest of" into "asked by".

    stored, asker: (pairs,) int, a vector stored, below n, and one that has it among its nearest
    place: (pairs,) int, at which the asker has it, 0 the nearest
    own: (n,) int, the asker that each stored vector is itself
    weights: (k,) of `asking_weights`
    most: askers of one vector that are kept, those that have it nearest; itself comes beside them
    """
    n = len(own)
    order = np.argsort(stored, kind="stable")
    count = np.bincount(stored, minlength=n)
    if count.max(initial=0) > most:
        order = np.lexsort((place, stored))
        nth = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)  # among its vector's
        order = order[nth < most]
        count = np.minimum(count, most)
    first = np.r_[0, np.cumsum(count + 1)]
    found, at = np.empty(first[-1], dtype=np.int32), np.zeros(first[-1], dtype=_place_type(len(weights)))
    itself = np.zeros(len(found), dtype=bool)
    itself[first[:-1]] = True
    found[itself], found[~itself] = own, asker[order]
    at[~itself] = place[order].astype(at.dtype) + 1
    return ReverseNeighbors(first, found, at, np.concatenate([np.ones(1, np.float32), weights], dtype=np.float32))


def _place_type(k: int) -> type[np.unsignedinteger]:
    """What places from 0 to k fit into."""
    return np.uint16 if k <= np.iinfo(np.uint16).max else np.uint32


def shared_by_twins(reverse: ReverseNeighbors, twins: Distinct, asking: np.ndarray) -> ReverseNeighbors:
    """The askers of vectors that several rows hold: an asker counts once for each of its own rows, and asks all.

    What each pair's share was before is multiplied.

    reverse: of the different vectors; twins: of the rows that are stored; asking: (m,) rows that each asker stands for
    """
    held = np.repeat(twins.counts, np.diff(reverse.first))
    share = asking[reverse.asker] / held * (1 if reverse.share is None else reverse.share)
    return reverse._replace(twins=twins, share=np.where(reverse.place > 0, share, 1).astype(np.float32))


def reverse_of(
    nearest: np.ndarray, weights: np.ndarray, silent: np.ndarray | None = None, twins: Distinct | None = None,
    logged: Asked | None = None,
) -> ReverseNeighbors:  # fmt: skip
    """Of vectors that are all stored and ask.

    nearest: (n, k) int numbers of them, nearest first; weights: (k or more,) of `asking_weights`
    silent: numbers that ask for themselves alone
    twins: of the rows that are stored, of which only the first ask; None: they all differ
    logged: queries that ask as well, with the numbers of what is nearest to them
    """
    n, k = nearest.shape
    rows = np.arange(n, dtype=np.int32)
    asks = rows if silent is None else np.delete(rows, silent)
    places = np.tile(np.arange(k, dtype=_place_type(k)), len(asks))
    stored, asker = nearest[asks].ravel(), np.repeat(asks, k)
    if logged is not None:
        stored = np.concatenate([stored, logged.nearest[:, :k].ravel()])
        asker = np.concatenate([asker, np.repeat(n + np.arange(len(logged.queries)), k)])
        places = np.concatenate([places, np.tile(np.arange(k, dtype=places.dtype), len(logged.queries))])
    reverse = reverse_neighbors(stored, asker, places, rows, weights[:k])
    m = 0 if logged is None else len(logged.queries)
    if logged is not None:
        each = np.where(reverse.asker < n, 1, n_stands_for(n, m)).astype(np.float32)
        reverse = reverse._replace(queries=logged.queries, share=each)
    if twins is None:
        return reverse
    reverse = shared_by_twins(reverse, twins, np.r_[twins.counts, np.ones(m)])
    numbers = np.r_[twins.rows, len(twins.of) + np.arange(m)]
    return reverse._replace(asker=numbers[reverse.asker].astype(np.int32))


def reverse_of_base(
    means: Means, base: Points, weights: np.ndarray, progress: Progress, log: AskingLog | None = None
) -> ReverseNeighbors:
    """Who has which vector of base among its nearest there, found or taken from the cache.

    A large base has a graph of its own in the cache, which is learn's where base is learn.

    means: with the folder of the cache
    weights: of `asking_weights`; so many nearest are searched for, where base has them
    log: queries that ask as well
    """
    found_before = False

    def search(points: Points) -> np.ndarray:
        nonlocal found_before
        assert means.folder is not None
        if len(points) > LIMITS.exact_learn:
            return nearest_of_all(points, len(weights), progress, means)
        facts = {} if len(points) == len(base) else {"different": len(points)}
        key = fingerprint(
            base=base.vectors.digest, **base.space.facts, k=len(weights), faiss=faiss.__version__, **facts
        )
        found, found_before = cached(
            means.folder, "base_neighbors", key, lambda: {"nearest": nearest_of_all(points, len(weights), progress)}
        )
        return found["nearest"]

    nearest, twins = nearest_with_twins(base, len(weights), search, progress)
    progress.note(
        f"neighbours: {nearest.shape[1]} of each of {len(nearest):,} vectors of base, to tell who asks for which"
        f"{', from the cache' if found_before else ''}"
    )
    logged = log and log.among(base, nearest.shape[1], twins, progress)
    return reverse_of(nearest, weights, twins=twins, logged=logged)


def nearest_with_twins(
    base: Points, k: int, search: Callable[[Points], np.ndarray], progress: Progress
) -> tuple[np.ndarray, Distinct | None]:
    """The k nearest of each different vector, twins counted (see `count_twins`), and who they are; None: no twins.

    search: gives the nearest of points that all differ, (d, k) int32
    """
    distinct = distinct_rows(base.vectors)
    if distinct.all_differ:
        return search(base), None
    n, d = len(base), len(distinct.rows)
    progress.note(f"base: {n - d:,} of {n:,} rows are twins of others; the askers of a vector ask for all its rows")
    return count_twins(search(base.only(distinct.rows)), np.arange(d), distinct.counts, k), distinct
