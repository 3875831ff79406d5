"""Files whose writing was interrupted: their size was set at once, and from some row on they hold nothing but zeros."""

import numpy as np

ROWS = 4096  # looked at at once
LEAST = 2  # rows: one alone may be meant


def zeros_from(rows: np.ndarray) -> int | None:
    """The row from which on all are zero; None where the last two are not. rows: (n, dim), read from its end"""
    end = len(rows)
    while end:
        start = max(0, end - ROWS)
        filled = np.flatnonzero(np.asarray(rows[start:end]).any(axis=1))
        if len(filled):
            end = start + int(filled[-1]) + 1
            break
        end = start
    return end if len(rows) - end >= LEAST else None


def interrupted(rows: np.ndarray) -> str:
    """What is said of rows that are zero from one on; "" where they are not. rows: (n, dim)"""
    if (first := zeros_from(rows)) is None:
        return ""
    return (
        f"all rows from row {first} on ({len(rows) - first:,} of {len(rows):,}) are zero, as in a file whose writing "
        "was interrupted"
    )
