"""How sure a recall is that few queries were asked for, and what is said of it."""

import numpy as np

LEAST_SAID = 0.01  # standard errors above it are told
FEW = 10  # queries: of fewer the standard error itself is hardly known, and 0 where all are found alike
PERCENT = 0.01  # the standard error that is aimed at where more queries are advised


def recall_error(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The standard error of recall, over queries: answers of one query are found or missed together.

        recall = sum f / sum a,  error = sqrt(n / (n - 1) sum (f - recall a)^2) / sum a

    Where all queries have as many answers this is the standard deviation of their recalls over sqrt(n).

    found: (queries, points) f, answers found; right: (queries,) a, answers that there are; n: queries that have any
    returns: (points,) float64, NaN where fewer than two queries have an answer
    """
    n, total = int((right > 0).sum()), int(right.sum())
    if n < 2:
        return np.full(found.shape[1], np.nan)
    off = found - right[:, None] * (found.sum(axis=0) / total)
    return np.sqrt(np.square(off).sum(axis=0) * n / (n - 1)) / total


def in_words(error: float) -> str:
    """A standard error for a table."""
    return "unknown" if np.isnan(error) else f"{error:.4f}"


def doubt(k: int, error: float, n_queries: int) -> str | None:
    """What is said of a recall that is not sure; None of one that is.

    error: its standard error, NaN: unknown; n_queries: those that have an answer
    """
    few = f"recall@{k} is that of {n_queries:,} {'query' if n_queries == 1 else 'queries'}"
    if np.isnan(error) or (n_queries < FEW and error <= LEAST_SAID):
        return f"{few}: how sure it is cannot be told; use more queries"
    if error <= LEAST_SAID:
        return None
    enough = int(np.ceil(n_queries * (error / PERCENT) ** 2))
    return f"{few}: its standard error is up to {error:.3f}; about {enough:,} queries would bring it to {PERCENT}"
