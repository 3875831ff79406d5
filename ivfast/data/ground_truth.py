"""gt: what a right answer may be, and what becomes of answers whose base rows are dropped."""

from pathlib import Path

import numpy as np

from ivfast.data.unfinished import interrupted
from ivfast.data.wrong_gt import named_twice, not_integers, other_rows, outside
from ivfast.method import COUNTED
from ivfast.runtime.errors import UserError

BLOCK_ENTRIES = 4 << 20  # checked at once


def check_gt(gt: np.ndarray, path: Path, n_query: int, n_base: int) -> None:
    """One pass over all entries.

    gt: (rows, width) memory map
    raises: UserError on a wrong type or number of rows, offsets outside base, a row that names one twice, no answers
    """
    check_integers(gt, path, n_base=n_base)
    if gt.shape[0] != n_query:
        raise UserError(
            f"gt: {path} has {gt.shape[0]} rows, expected {n_query} (one per query); "
            f"{other_rows(gt.shape, n_query, n_base)}"
        )
    step = max(1, BLOCK_ENTRIES // gt.shape[1])
    answered = False
    for start in range(0, len(gt), step):
        block = np.asarray(gt[start : start + step])
        _check_inside(block, gt, path, start, n_base)
        _check_once(block, gt, path, start)
        answered = answered or bool((block[:, :COUNTED] >= 0).any())
    if not answered:
        raise UserError(
            f"gt: {path} names no right answer in its first {COUNTED} columns, expected at least one; regenerate it"
        )


def check_integers(gt: np.ndarray, path: Path, name: str = "gt", n_base: int | None = None) -> None:
    """raises: UserError on another type, with what its numbers look like. n_base: rows of base, where they are known"""
    if gt.dtype.kind not in "iu":
        told = not_integers(gt, n_base)
        raise UserError(f"{name}: {path} holds {gt.dtype}, expected int64 offsets into base; {told}")


def _check_inside(block: np.ndarray, gt: np.ndarray, path: Path, start: int, n_base: int) -> None:
    wrong = (block < -1) | (block >= n_base)
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        value = block[row][wrong[row]][0]
        raise UserError(
            f"gt: {path} row {start + row} holds {value}, expected offsets 0 to {n_base - 1} (rows of base.npy), "
            f"or -1 for none; {outside(gt, n_base, len(gt))}"
        )


def _check_once(block: np.ndarray, gt: np.ndarray, path: Path, start: int) -> None:
    if twice := named_twice(block):
        row, value = twice
        if value == 0 and (said := interrupted(gt)):
            raise UserError(f"gt: {path}: {said}, expected each offset at most once in a row; write it anew")
        raise UserError(
            f"gt: {path} row {start + row} names {value} more than once, expected each offset at most once in a row; "
            "regenerate it, with -1 where answers run out"
        )


def follow_kept(gt: np.ndarray, n_base: int, kept_base: np.ndarray | None, kept_query: np.ndarray | None) -> np.ndarray:
    """The gt of those queries that are left: offsets among the base rows left, -1 where an answer is dropped.

    gt: (n_query, width) offsets into all n_base rows; kept_*: ascending rows, None: all
    returns: (kept queries, width) int64
    """
    found = np.asarray(gt if kept_query is None else gt[kept_query]).astype(np.int64)
    if kept_base is None:
        return found
    place = np.full(n_base, -1, dtype=np.int64)
    place[kept_base] = np.arange(len(kept_base))
    return np.where(found >= 0, place[found], -1)
