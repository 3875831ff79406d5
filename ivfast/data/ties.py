"""Ties at the last place that counts: stored vectors that are as near to a query as its last right answer."""

import numpy as np

from ivfast.data.intake import MOST_SEARCHED
from ivfast.data.vectors import EvaluationSet, Vectors, rows_per_block, space_of
from ivfast.method import COUNTED
from ivfast.runtime.progress import Progress

SAME = 1e-7  # distances that differ by less, beside their own size, are equal: float32 tells seven digits
NEARLY = 2e-5  # likewise of float32 products: whoever is nearer than this is looked at in float64
MOST_TIES = 1000  # of one query that are kept, the first rows
ROWS, QUERIES = 16_384, 1024  # compared at once
PAIRS = 16_384  # looked at in float64 at once


def of_pairs(x: np.ndarray, y: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Exact distances of pairs, smaller is nearer: squared, or minus inner products; and by how much equal ones differ.

    x, y: (n, dim) any float; returns two (n,) float64
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    if metric == "IP":
        return -(x * y).sum(axis=1), SAME * np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    d2 = np.square(x - y).sum(axis=1)
    return d2, SAME * d2


class _Last:
    """How near the last right answer of each query is, in float64.

    rows: (n_query, up to 10) int64, right answers, -1: none
    """

    def __init__(self, query: Vectors, base: Vectors, rows: np.ndarray, metric: str) -> None:
        self.query, self.base, self.metric = query, base, metric
        self.distance = np.full(len(rows), -np.inf)  # the largest among the right answers
        for column in rows.T:
            there = np.flatnonzero(column >= 0)
            self.distance[there] = np.maximum(self.distance[there], self.of(there, column[there])[0])

    def of(self, asked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of pairs of query and row, and by how much they may differ and be equal.

        asked, rows: (n,); returns two (n,) float64, of the first smaller is nearer
        """
        found, scale = np.empty(len(rows)), np.empty(len(rows))  # not all pairs at once
        for start in range(0, len(rows), PAIRS):
            part = slice(start, start + PAIRS)
            found[part], scale[part] = of_pairs(self.query.raw(asked[part]), self.base.raw(rows[part]), self.metric)
        return found, scale

    def tied(self, asked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of pairs of query and row: whether the row is as near as the last right answer, and whether it is farther."""
        distance, tolerance = self.of(asked, rows)
        off = distance - self.distance[asked]
        return np.abs(off) <= tolerance, off > tolerance


def find_ties(data: EvaluationSet, metric: str, progress: Progress, most_searched: int = MOST_SEARCHED) -> np.ndarray:
    """Rows of base beyond the first ten columns of gt that are as near to a query as the last answer there.

    Columns of gt beyond the tenth tell them where one of them is farther. For other queries base is searched, exactly,
    up to a size.

    returns: (n_query, ties) int64, -1: none; at most a thousand of a query
    """
    gt = np.asarray(data.gt).astype(np.int64)
    own, further = gt[:, :COUNTED], gt[:, COUNTED:]
    last = _Last(data.query, data.base, own, metric)
    found: list[list[np.ndarray]] = [[] for _ in gt]
    told = np.zeros(len(gt), dtype=bool)  # by gt, which goes on to where distances are larger
    for column in further.T:
        asked = np.flatnonzero((column >= 0) & np.isfinite(last.distance))
        equal, farther = last.tied(asked, column[asked])
        told[asked[farther]] = True
        for query in asked[equal]:
            found[query].append(column[query : query + 1])
    left = np.flatnonzero(~told & np.isfinite(last.distance))
    if len(left) and len(data.base) > most_searched:
        progress.note(
            f"ties: of {len(left):,} queries gt does not tell all, and base is not searched for more "
            f"({len(data.base):,} vectors, up to {most_searched:,} are)"
        )
    elif len(left):
        for query in left:
            found[query].clear()
        _search(data, own, last, left, found, progress)
    return _table(found)


def _search(
    data: EvaluationSet, own: np.ndarray, last: _Last, left: np.ndarray, found: list[list[np.ndarray]],
    progress: Progress,
) -> None:  # fmt: skip
    """Look for ties of the queries that are left in all of base: by float32 products first, where they are centered."""
    asks = data.query.raw(left).astype(np.float32)
    space = space_of(asks, last.metric)
    x = asks if last.metric == "IP" else space.inside(asks)  # under IP as stored, not of unit norm to the last digit
    unit = np.float64(1 if last.metric == "IP" else space.scale) ** 2
    wanted, squares = (last.distance[left] / unit).astype(np.float32), np.square(x).sum(axis=1)
    step = min(ROWS, rows_per_block(data.base.dim))
    full = np.zeros(len(own), dtype=bool)  # queries that have as many ties as are kept
    with progress.bar("searching ties", len(data.base)) as bar:
        for start in range(0, len(data.base), step):
            rows = data.base.raw(slice(start, start + step)).astype(np.float32, copy=False)
            rows = rows if last.metric == "IP" else space.inside(rows)
            sizes = np.square(rows).sum(axis=1)
            for at in range(0, len(left), QUERIES):
                block = slice(at, at + QUERIES)
                off = x[block] @ rows.T
                scale = squares[block, None] + sizes
                off = np.abs((-off if last.metric == "IP" else scale - 2 * off) - wanted[block, None])
                off[full[left[block]]] = np.inf
                asked, row = np.nonzero(off <= np.float32(NEARLY) * scale)
                _keep(left[asked + at], row + start, own, last, found, full)
            bar.advance(len(rows))


def _keep(
    asked: np.ndarray, rows: np.ndarray, own: np.ndarray, last: _Last, found: list[list[np.ndarray]], full: np.ndarray
) -> None:
    """Of pairs of query and row, by query, keep those that are tied and no answers yet."""
    new = (own[asked] != rows[:, None]).all(axis=1)
    asked, rows = asked[new], rows[new]
    equal = last.tied(asked, rows)[0]
    asked, rows = asked[equal], rows[equal]
    for query in np.unique(asked):
        found[query].append(rows[asked == query])
        full[query] = sum(map(len, found[query])) >= MOST_TIES


def _table(found: list[list[np.ndarray]]) -> np.ndarray:
    """Lists of rows as columns, -1 where there are no more."""
    each = [np.concatenate(parts)[:MOST_TIES] if parts else np.empty(0, np.int64) for parts in found]
    table = np.full((len(each), max(map(len, each), default=0)), -1, dtype=np.int64)
    for query, rows in enumerate(each):
        table[query, : len(rows)] = rows
    return table
