"""Twins: rows that are equal as a run reads them, so that nothing can tell them apart."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import BLOCK_BYTES, Points, Vectors, rows_per_block


class Distinct(NamedTuple):
    """The different vectors among rows. Each goes by the first row that holds it."""

    rows: np.ndarray  # (d,) int64, these first rows
    of: np.ndarray  # (n,) int64, which of the d vectors each row holds
    counts: np.ndarray  # (d,) int64, rows that hold it

    @property
    def all_differ(self) -> bool:
        """Whether no row has a twin."""
        return len(self.rows) == len(self.of)

    @property
    def rare(self) -> np.ndarray:
        """Numbers of the vectors with no more twins than most have, ascending: at least half of them.

        They stand for queries to come: a query is new, and one that is a row of base says little of it.
        """
        return np.flatnonzero(self.counts <= np.median(self.counts))

    @property
    def rare_rows(self) -> np.ndarray:
        """First rows of the vectors that are rare, ascending."""
        return np.sort(self.rows[self.rare])


def distinct_rows(vectors: Vectors, block_bytes: int = BLOCK_BYTES) -> Distinct:
    """Tell the different vectors: as float32, -0 counts as 0, digit by digit.

    A checksum of each row says which may be equal; these are read again and compared. Two passes at most, and 8 bytes
    of memory a row.
    """
    n, step = len(vectors), rows_per_block(vectors.dim, block_bytes)
    sums = np.empty(n, dtype=np.uint64)
    for start in range(0, n, step):
        sums[start : start + step] = faiss.checksum(_as_read(vectors, slice(start, start + step)))
    first = np.arange(n)
    rest = _alike(sums, first)  # rows that may have a twin
    while len(rest):  # more than once only where checksums of different rows agree
        _, at = np.unique(sums[rest], return_inverse=True)
        leader = np.full(int(at.max()) + 1, n)
        np.minimum.at(leader, at, rest)
        same = np.empty(len(rest), dtype=bool)
        for start in range(0, len(rest), step):
            part = slice(start, start + step)
            theirs = _as_read(vectors, leader[at[part]])
            same[part] = (_as_read(vectors, rest[part]) == theirs).all(axis=1)
        first[rest[same]] = leader[at[same]]
        rest = _alike(sums, rest[~same])
    return distinct_of(first)


def are_among(x: np.ndarray, points: Points, block_bytes: int = BLOCK_BYTES) -> np.ndarray:
    """Which vectors are some row of points, digit by digit. x: (n, dim) float32, inside; returns (n,) bool

    Checksums say which may be. Their nearest row would not tell: rounding may find another one nearer.
    """
    x, step = x + np.float32(0), rows_per_block(points.dim, block_bytes)
    sums, held = faiss.checksum(x), set[bytes]()
    for start in range(0, len(points), step):
        block = points.x(slice(start, start + step)) + np.float32(0)
        held.update(row.tobytes() for row in block[np.isin(faiss.checksum(block), sums)])
    return np.array([row.tobytes() in held for row in x], dtype=bool)


def distinct_of(first: np.ndarray) -> Distinct:
    """Of rows that are equal where these numbers are, by rising number. first: (n,) int"""
    _, rows, of, count = np.unique(first, return_index=True, return_inverse=True, return_counts=True)
    return Distinct(rows, of, count)


def columns_of_rows(counts: np.ndarray, k: int) -> np.ndarray:
    """Where each column of a line stands for some rows, the columns of the first k rows.

    counts: (n, m) int, rows of each column, k or more in a line; returns (n, k) int64
    """
    last = np.cumsum(np.minimum(counts, k), axis=1)
    found = np.zeros((len(counts), k), dtype=np.int64)
    for passed in last[:, :-1].T:
        found += passed[:, None] <= np.arange(k)
    return found


def _alike(sums: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of some rows those whose checksum another one of them has too."""
    _, at, count = np.unique(sums[rows], return_inverse=True, return_counts=True)
    return rows[count[at] > 1]


def _as_read(vectors: Vectors, rows: np.ndarray | slice) -> np.ndarray:
    """(n, dim) float32, C order, -0 made 0."""
    return vectors.raw(rows).astype(np.float32) + np.float32(0)
