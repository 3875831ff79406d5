"""Queries whose exact answers are found over the files of a base."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.index.load import load
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress
from ivfast.spread.asking import NO_LOOKS
from ivfast.spread.given import Given, fit_digest
from ivfast.spread.maps import Spread
from ivfast.spread.sources import find_sources
from ivfast.spread.stages import Stages, find_nearest, number_files


class Exact(NamedTuple):
    """The exact answers of some queries."""

    ids: np.ndarray  # (q, k) int64, nearest first, ties to the smaller id
    distances: np.ndarray  # (q, k) float64, squared distances, or inner products with the other sign


def exact_answers(
    folder: Path, words: Sequence[str], column: str | None, query: np.ndarray, k: int, over: Spread, progress: Progress,
    n: int | None = None,
) -> Exact:  # fmt: skip
    """The k nearest of each query among all vectors of some files, by distances in float64.

    folder: of the model; words: see find_sources; query: (q, dim) floats, as base is
    n: vectors that the files must hold; None: any number
    raises: UserError where they hold others, or fewer than k; RunError where a file can't be read, after all others
    """
    model = load(folder)
    given = Given(str(folder), fit_digest(folder), "", column, 0.0, "Flat", NO_LOOKS, 0)
    stages, sources = Stages(over, given, progress), find_sources(words)
    x = model.as_stored(query, "query")
    files = number_files(stages, sources)
    stages.check(len(sources))
    found = sum(file.n for file in files)
    if n is not None and found != n:
        raise UserError(
            f"--base: its files hold {found:,} vectors, the index {n:,}; name those that it was made of, in their order"
        )
    if found < k:
        raise UserError(f"--k {k}: base holds {found:,} vectors, expected as many or more; ask for fewer")
    best = find_nearest(stages, files, x, k, "exact answers")
    return Exact(best.ids, best.distances)
