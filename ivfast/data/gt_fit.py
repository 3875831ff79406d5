"""What a gt fits whose first answers are not the nearest: counted from 1, another metric, another order of answers."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ivfast.data.exact import nearest_among, nearest_wide
from ivfast.data.vectors import EvaluationSet, Points, space_of
from ivfast.method import COUNTED

SAME_DISTANCE = 1e-4  # inside: two vectors whose distances differ by less are both the nearest
SURE = 0.9  # of the queries: what fits so many, where the gt as it is fits few, is meant
FROM_1 = "its numbers seem to be counted from 1: save gt - 1"


class Compared(NamedTuple):
    """Some queries beside their nearest rows of base, compared in one way."""

    x: np.ndarray  # (n, dim) float32 under IP, float64 under L2, where a few far rows must not blur the others
    base: Points
    nearest: np.ndarray  # (n, 2) closeness of the nearest two rows, which is larger the nearer

    def closeness(self, rows: np.ndarray) -> np.ndarray:
        """Of each query to one row of base, (n,) float. rows: (n,)"""
        if self.base.metric == "IP":
            return (self.x * self.base.x(rows)).sum(axis=1)
        return -np.square(self.x - self.base.space.wide(self.base.vectors.raw(rows))).sum(axis=1)

    def are_nearest(self, rows: np.ndarray, place: int = 0) -> np.ndarray:
        """Which of these rows, (n,), are as near as the nearest, or as the one after it where place is 1: (n,) bool."""
        nearest = self.nearest[:, place]
        with np.errstate(over="ignore", invalid="ignore"):  # products of rows as stored may be beyond float32
            least = nearest - SAME_DISTANCE * np.maximum(np.abs(nearest), 1)
            return self.closeness(rows) >= least

    def n_nearest(self, rows: np.ndarray, place: int = 0) -> int:
        """How many of them."""
        return int(self.are_nearest(rows, place).sum())


def compare(data: EvaluationSet, queries: np.ndarray, metric: str) -> Compared:
    """Search base exactly for some queries. queries: (n,) their rows"""
    asked = data.query.raw(queries)
    base, rows = Points(data.base, space_of(asked, metric)), np.arange(len(data.base))
    if metric == "IP":
        x = base.space.inside(asked)
        return Compared(x, base, nearest_among(x, base, rows, 2)[0])
    return Compared(base.space.wide(asked), base, -nearest_wide(asked, base, rows, 2)[0])


def what_fits(data: EvaluationSet, queries: np.ndarray, compared: Compared) -> str:
    """What the answers of these queries fit, with what to do; "" where it is nothing that is known.

    queries: (n,) rows whose first answer is no -1; compared: the same, by the metric of the run
    """
    gt, metric = np.asarray(data.gt[queries]).astype(np.int64), compared.base.metric
    first, last = gt[:, 0], gt[np.arange(len(gt)), np.maximum((gt >= 0).sum(axis=1) - 1, 0)]
    enough = SURE * len(gt)
    if (first > 0).all() and compared.n_nearest(first - 1) >= enough:
        return FROM_1
    if compared.n_nearest(last) >= enough:
        return "its answers are listed farthest first: save gt[:, ::-1]"
    itself = compared.closeness(first) < compared.nearest[:, 0]
    if itself.sum() >= enough and compared.nearest.shape[1] > 1 and compared.n_nearest(first, 1) >= enough:
        return "it fits the second nearest: queries are rows of base, and gt leaves out each one's own"
    if metric == "IP" and _opposite(compared).n_nearest(first) >= enough:
        return "it names the farthest rows: sort by falling products, as np.argsort(-products) does"
    if told := _other_metric(data, queries, first, metric):
        return told
    in_other_order = _n_nearest_named(gt, compared) >= enough
    return "the nearest is among its answers, whose order recall does not look at" if in_other_order else ""


def _n_nearest_named(gt: np.ndarray, compared: Compared) -> int:
    """For how many queries one of the answers that count is as near as the nearest. gt: (n, width)"""
    named = np.zeros(len(gt), dtype=bool)
    for column in gt[:, :COUNTED].T:
        named |= (column >= 0) & compared.are_nearest(np.maximum(column, 0))
    return int(named.sum())


def _opposite(compared: Compared) -> Compared:
    x = -compared.x
    return compared._replace(x=x, nearest=nearest_among(x, compared.base, np.arange(len(compared.base)), 1)[0])


def _other_metric(data: EvaluationSet, queries: np.ndarray, first: np.ndarray, metric: str) -> str:
    """first: (n,) answers"""
    if metric == "IP" and not data.base.normalize:
        return ""  # rows are of unit norm: all metrics agree
    as_it_is = "it fits inner products of vectors that are not of unit norm, which no --metric means"
    ways = {
        ("L2", False): "it fits --metric L2: run with it",
        ("IP", True): "it fits --metric IP with --normalize True (cosine): run with these",
        ("IP", False): as_it_is,
    }
    for (other, normalize), told in ways.items():
        if (other, normalize) == (metric, data.base.normalize):
            continue
        vectors = {"base": replace(data.base, normalize=normalize), "query": replace(data.query, normalize=normalize)}
        with np.errstate(over="ignore", invalid="ignore"):  # of far rows, which then fit nothing
            compared = compare(data._replace(**vectors), queries, other)
        for rows, also in ((first, ""), (first - 1, f"; {FROM_1}")):
            if (rows >= 0).all() and compared.n_nearest(rows) >= SURE * len(rows):
                return f"{told}, or regenerate it by {metric}{also}"
    return ""


def seems_from_1(data: EvaluationSet, queries: np.ndarray, metric: str) -> bool:
    """Whether the row before the first answer is nearer than it, without a search: of a base that is too large for one.

    queries: (n,) rows whose first answer is no -1
    """
    first = np.asarray(data.gt[queries, 0]).astype(np.int64)
    asked = data.query.raw(queries)
    base = Points(data.base, space_of(asked, metric))
    x = base.space.inside(asked) if metric == "IP" else base.space.wide(asked)
    compared = Compared(x, base, np.empty((0, 0)))
    if (first == 0).any():
        return False
    return int((compared.closeness(first - 1) > compared.closeness(first)).sum()) >= SURE * len(first)
