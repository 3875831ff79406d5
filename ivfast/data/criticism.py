"""What may be wrong with a data set: twins, constant columns, far rows, norms, queries of another kind, gt."""

import hashlib
from typing import Any

import numpy as np

from ivfast.data.another_kind import PROBES, SAME, farther
from ivfast.data.middle import middle_of, sampled
from ivfast.data.vectors import BLOCK_BYTES, Vectors, rows_per_block
from ivfast.method import COUNTED
from ivfast.runtime.draws import spread

SCHEMA = 1
MOST_ROWS = 200_000  # rows looked at: a few seconds, and shares above 0.01 % are seen
FAR = 5.0  # times the median distance from the middle; unit vectors never lie so far
NAMED = 10  # rows or columns that are named
QUANTILES = {"least": 0, "p1": 1, "p50": 50, "p99": 99, "largest": 100}


def criticise(base: Vectors, query: Vectors, gt: np.ndarray, block_bytes: int = BLOCK_BYTES) -> dict[str, Any]:
    """One pass over base and query, or over 200,000 rows taken evenly where there are more.

    gt: (n_query, width) integer, -1 where there is no answer
    returns: JSON values: counts, shares in 0..1, distances and norms in the unit of the files
    """
    asked, own = spread(len(query), PROBES), spread(len(base), PROBES)
    answers = np.asarray(gt[asked, 0]).astype(np.int64)
    middle = _middle(base)
    probes = _Nearest(query.raw(asked) - middle, base.raw(own) - middle, own)
    stored = _look_at(base, middle, block_bytes, probes)
    asking = _look_at(query, _middle(query), block_bytes)
    stored_rows = stored.pop("hashes")
    record = {"schema": SCHEMA, "base": stored, "query": asking, "gt": _look_at_gt(gt, len(base))}
    asking["rows_of_base"] = len(stored_rows & asking.pop("hashes"))
    answered = answers >= 0
    first = base.raw(answers[answered]) - middle - probes.x[: len(asked)][answered]
    record["queries_beside_base"] = probes.facts(np.sqrt(np.square(first).sum(axis=1)), answered)
    return record


class _Nearest:
    """The nearest among the rows looked at, of some queries and of some rows of base, twins left out.

    asked, stored: (n, dim) float64, from the middle; own: numbers of the rows of base
    """

    def __init__(self, asked: np.ndarray, stored: np.ndarray, own: np.ndarray) -> None:
        self.n_asked = len(asked)
        self.x = np.concatenate([asked, stored])  # float64, and near zero: products keep their digits
        self.own = np.r_[np.full(self.n_asked, -1), own]
        self.squares = np.square(self.x).sum(axis=1)
        self.nearest = np.full(len(self.x), np.inf)

    def add(self, rows: np.ndarray, numbers: np.ndarray) -> None:
        """rows: (n, dim) float64, from the middle; numbers: (n,) theirs in base"""
        squares = np.square(rows).sum(axis=1)
        found = self.squares[:, None] + squares - 2 * self.x @ rows.T
        found[self.own[:, None] == numbers] = np.inf
        # a twin of a row of base says nothing of how far others lie; of a query it may be the right answer
        twin = found[self.n_asked :] <= SAME**2 * self.squares[self.n_asked :, None]
        found[self.n_asked :][twin] = np.inf
        self.nearest = np.minimum(self.nearest, found.min(axis=1))

    def facts(self, to_first: np.ndarray, answered: np.ndarray) -> dict[str, Any]:
        """to_first: distances of the queries that have an answer to their first one"""
        distances = np.sqrt(np.maximum(self.nearest, 0))
        near = distances[: self.n_asked][answered]
        scale = np.sqrt(self.squares[: self.n_asked][answered])
        others = distances[self.n_asked :]
        others = others[np.isfinite(others)]
        return {
            "looked_at": self.n_asked,
            "answered": int(answered.sum()),
            "nearer_than_first_answer": int((near < to_first - 10 * SAME * np.maximum(to_first, scale)).sum()),
            "nearest_of_queries": float(np.median(distances[: self.n_asked])),
            "nearest_of_base": float(np.median(others)) if len(others) else None,
            "farther_than_base": farther(distances[: self.n_asked], others),
        }


def _middle(vectors: Vectors) -> np.ndarray:
    """The median of each column, (dim,) float64: where `scan` too sees the middle, from which rows lie far."""
    return middle_of(vectors.raw(sampled(len(vectors), vectors.dim))).center


def _look_at(vectors: Vectors, middle: np.ndarray, block_bytes: int, probes: _Nearest | None = None) -> dict[str, Any]:
    """Facts of rows, and under "hashes" the set of their bytes' hashes."""
    looked_at = spread(len(vectors), MOST_ROWS)
    low, high = np.full(vectors.dim, np.inf), np.full(vectors.dim, -np.inf)
    sums, squares = np.zeros(vectors.dim), np.zeros(vectors.dim)
    norms, distances, hashes = np.empty(len(looked_at)), np.empty(len(looked_at)), set()
    step = rows_per_block(vectors.dim, block_bytes // 4)  # several arrays of float64 at once
    for start in range(0, len(looked_at), step):
        block = slice(start, min(start + step, len(looked_at)))
        rows = vectors.raw(looked_at[block])
        hashes.update(_hashes(rows))
        x = rows.astype(np.float64)
        low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
        norms[block] = np.sqrt(np.square(x).sum(axis=1))
        x -= middle
        if probes is not None:
            probes.add(x, looked_at[block])
        sums += x.sum(axis=0)
        squares += np.square(x).sum(axis=0)
        distances[block] = np.sqrt(np.square(x).sum(axis=1))
    variance = np.maximum(squares / len(looked_at) - np.square(sums / len(looked_at)), 0)
    typical = float(np.median(distances))
    far = np.flatnonzero(distances > FAR * typical) if typical > 0 else np.flatnonzero(distances)
    far = far[np.argsort(-distances[far], kind="stable")]
    constant = np.flatnonzero(low == high)
    return {
        "rows": len(vectors),
        "dim": vectors.dim,
        "dtype": vectors.rows.dtype.name,
        "dropped": len(vectors.rows) - len(vectors),
        "looked_at": len(looked_at),
        "twins": len(looked_at) - len(hashes),
        "constant_columns": {"count": len(constant), "first": constant[:NAMED].tolist()},
        "widest_column": {
            "column": int(variance.argmax()),
            "share_of_variance": float(variance.max() / variance.sum()) if variance.sum() > 0 else None,
        },
        "norms": _quantiles(norms),
        "from_the_middle": _quantiles(distances),
        "far": {"times": FAR, "count": len(far), "first": looked_at[far[:NAMED]].tolist()},
        "hashes": hashes,
    }


def _hashes(rows: np.ndarray) -> list[bytes]:
    """Of each row as float32: what a run cannot tell apart. -0 counts as 0."""
    same = np.ascontiguousarray(rows.astype(np.float32) + np.float32(0))
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in same]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.percentile(values, list(QUANTILES.values()))
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def _look_at_gt(gt: np.ndarray, n_base: int) -> dict[str, Any]:
    """How many answers queries have, and whether few rows of base are the answers of many."""
    looked_at = spread(len(gt), MOST_ROWS)
    counted = np.asarray(gt[looked_at, :COUNTED]).astype(np.int64)
    per_query = (counted >= 0).sum(axis=1)
    rows, times = np.unique(counted[counted >= 0], return_counts=True)
    return {
        "queries": len(gt),
        "width": gt.shape[1],
        "looked_at": len(looked_at),
        "answers_a_query": {"least": int(per_query.min()), "mean": float(per_query.mean())},
        "without_answers": int((per_query == 0).sum()),
        "rows_that_are_answers": len(rows),
        "share_of_base": len(rows) / n_base,
        "most_named": {"row": int(rows[times.argmax()]), "times": int(times.max())} if len(rows) else None,
    }
