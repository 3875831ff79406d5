"""The gt that an index is evaluated by: refused where it can't be right, doubted where a full search finds others."""

import faiss
import numpy as np

from ivfast.data.gt_fit import FROM_1, SURE
from ivfast.data.npy import called
from ivfast.data.ties import of_pairs
from ivfast.data.unfinished import interrupted
from ivfast.data.wrong_gt import named_twice, not_integers, outside
from ivfast.index.entries import stored_ids, vectors_of
from ivfast.runtime.errors import UserError

SAME = 1e-4  # beside the larger of two distances: those that differ by less are one
LEAST_AGREEMENT = 0.5  # of the queries: below, gt is doubted


def check_answers(gt: np.ndarray, n_query: int, k: int, next_id: int) -> np.ndarray:
    """The first k answers of each query, (n_query, k) int64, -1: none, as run_dcnet takes them.

    next_id: ids of the index are below it
    raises: UserError on another shape or type, ids that the index can't have, a row that names one twice, no answers
    """
    where = called("gt", gt)
    if np.ndim(gt) != 2 or len(gt) != n_query or np.shape(gt)[1] < k:
        raise UserError(
            f"{where}: found shape {np.shape(gt)}, expected {n_query} rows of {k} ids or more; name the answers of "
            "these queries, or ask for a smaller k"
        )
    counted = np.asarray(gt)[:, :k]
    if counted.dtype.kind not in "iu":
        told = not_integers(counted, next_id) if counted.dtype.kind == "f" else "convert them with .astype('int64')"
        raise UserError(f"{where}: found {counted.dtype}, expected integers; {told}")
    if not counted.size:
        return counted.astype(np.int64)
    least, most = int(counted.min()), int(counted.max())
    if not -1 <= least <= most < next_id:
        raise UserError(
            f"{where}: found ids from {least} to {most}, expected 0 to {next_id - 1}, those of the index, or -1 for "
            f"none; {outside(counted, next_id, n_query)}, or name the answers of this base"
        )
    if most < 0:
        raise UserError(
            f"{where}: it names no right answer in its first {k} columns, expected at least one; regenerate it"
        )
    if (twice := named_twice(counted)) and twice[1] == 0 and (said := interrupted(counted)):
        raise UserError(f"{where}: {said}, expected {k} different ids in a row; write it anew")
    if twice:
        raise UserError(
            f"{where}: row {twice[0]} names {twice[1]} more than once, expected {k} different ids; regenerate it"
        )
    return counted.astype(np.int64)


def last_answers(gt: np.ndarray) -> np.ndarray:
    """The last answer of each query, (n,), -1 where there is none. gt: (n, width) ids, -1: none"""
    at = gt.shape[1] - 1 - np.argmax(gt[:, ::-1] >= 0, axis=1)
    return gt[np.arange(len(gt)), at]


def doubt_answers(index: faiss.IndexIVF, x: np.ndarray, nearest: np.ndarray, gt: np.ndarray) -> str:
    """What is wrong with a gt whose first answers are not the nearest for most queries, in one line; "" where they are.

    index: one that stores vectors as they are
    x: (n, dim) float32 queries, as stored; nearest: (n, 2) ids that a full search finds
    gt: (n, width) ids, -1: none, of queries that have a first answer
    """
    columns = {"nearest": nearest[:, 0], "second": nearest[:, 1], "first": gt[:, 0], "before": gt[:, 0] - 1,
               "last": last_answers(gt)}  # fmt: skip
    distance = _distances(index, x, np.stack(list(columns.values())))
    how_far = dict(zip(columns, distance, strict=True))

    def agreeing(name: str, to: str = "nearest") -> int:
        wanted = how_far[to]
        with np.errstate(invalid="ignore"):  # inf - inf, of ids that are not stored
            return int((np.abs(how_far[name] - wanted) <= SAME * np.abs(wanted)).sum())

    n, n_same = len(x), agreeing("first")
    if n_same >= LEAST_AGREEMENT * n:
        return ""
    fits = "regenerate it for the vectors of this index, by its metric"
    if agreeing("before") >= SURE * n:
        fits = FROM_1
    elif agreeing("last") >= SURE * n:
        fits = "its answers are listed farthest first: save gt[:, ::-1]"
    elif agreeing("first", "second") >= SURE * n:
        fits = "it fits the second nearest: queries are stored in the index, and gt leaves out each one's own"
    return f"gt: its first answer is the exact nearest for {n_same} of {n} queries searched for; {fits}"


def _distances(index: faiss.IndexIVF, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each query to its ids, smaller is nearer, inf where one is not stored. ids: (m, n); returns (m, n) float64"""
    metric = "IP" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "L2"
    once = np.intersect1d(ids, stored_ids(index))
    there = np.isin(ids, once)
    rows = np.broadcast_to(np.arange(len(x)), ids.shape)[there]
    found = np.full(ids.shape, np.inf)
    found[there] = of_pairs(x[rows], vectors_of(index, once)[np.searchsorted(once, ids[there])], metric)[0]
    return found
