"""From a trained model and a base to a searchable index."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import nearest_of_stored, without_self
from ivfast.data.twins import Distinct
from ivfast.data.vectors import Points
from ivfast.index.calibration import MOST_K, Answers, calibrate, calibrate_codes
from ivfast.index.fill import TRAINED_ON, empty_index, fill, fill_on_disk, finish, sizes_of
from ivfast.index.growth import Index
from ivfast.index.place import Placing
from ivfast.index.probing import Candidates, chosen, search_distinct
from ivfast.route.search import imbalance
from ivfast.runtime.draws import generator, spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

CALIBRATED_ON = 2000  # vectors that stand for queries
MOST_OF_BASE = 20  # at most one vector in so many
LEAST_CALIBRATED_ON = 10  # but no fewer: their ten nearest tell a recall to the hundredth
ASIDE_PART = 2  # of the draws from "sample"


class Wishes(NamedTuple):
    """How an index is to be made."""

    copies: float
    kind: str = "Flat"
    lists_file: Path | None = None  # where the lists lie on disk; None: in memory
    aside: np.ndarray | None = None  # rows of base that did not train, to calibrate on; None: drawn
    test: np.ndarray | None = None  # rows of base that will try the index
    seed: int = 1


def build_index(model: Placing, base: Points, wishes: Wishes, progress: Progress) -> Index:
    """Store base, fill the lists, measure recall against scanned.

    Some vectors of base stand for queries, or logged queries that were held out where the model has a log. They are
    left out where it counts who asks for whom. Else their own answers would lie where they look, and every recall would
    come out too high: 0.910 for 0.90 on 50,000 vectors of text.

    raises: UserError on a single vector
    """
    n = len(base)
    if n < 2:
        raise UserError(f"{base.vectors.name}: found 1 row, expected 2 or more, so that one is near another; add some")
    queries, aside = model.held_out_queries, np.empty(0, np.int64)
    if queries is None:
        aside = draw_aside(n, wishes.seed) if wishes.aside is None else wishes.aside
    silent = aside if wishes.test is None else np.union1d(aside, wishes.test)
    stored = model.place_points(base, wishes.copies, silent, progress, spare=True)
    aside = without_twins(aside, stored.twins)
    answers = exact_answers(base, aside if queries is None else queries, progress)
    entry_rows, columns = np.nonzero(stored.buckets >= 0)
    entry_buckets = stored.buckets[entry_rows, columns]
    ids = np.arange(n)
    sample, far = spread(n, TRAINED_ON), base.vectors.far
    rows = base.vectors.raw(sample if far is None else np.setdiff1d(sample, far))  # codes are fitted to the others
    index = empty_index(model.centers, model.metric, wishes.kind, rows, wishes.seed)
    if wishes.lists_file is None:
        fill(index, base.vectors, entry_rows, entry_buckets, ids, progress)
    else:
        fill_on_disk(index, base.vectors, entry_rows, entry_buckets, ids, wishes.lists_file, progress)
    index = finish(index, wishes.kind)
    sizes, prober = sizes_of(index), model.prober()
    with progress.stage("calibrating"):
        calibration = calibrate(prober, answers, stored.buckets[answers.nearest], sizes, n)
        if wishes.kind != "Flat":
            search = by_codes(index, answers, aside, wishes.copies)
            calibration = calibrate_codes(prober, answers, calibration.width, sizes / n, search)
    built = n, imbalance(sizes)
    return Index(
        model, index, calibration, stored.probes_use, stored.reach, wishes.copies, wishes.kind, n, n, built
    )  # fmt: skip


def without_twins(aside: np.ndarray, twins: Distinct | None) -> np.ndarray:
    """Of rows that stand for queries those with no more twins than most have: others find themselves. All, if none."""
    if twins is None:
        return aside
    kept = aside[np.isin(twins.of[aside], twins.rare)]
    return kept if len(kept) else aside


def n_aside(n: int) -> int:
    """How many of n vectors, 2 or more, stand for queries. The others tell who asks for whom."""
    return min(max(LEAST_CALIBRATED_ON, min(CALIBRATED_ON, n // MOST_OF_BASE)), n // 2)


def draw_aside(n: int, seed: int) -> np.ndarray:
    """Rows of base that stand for queries, ascending."""
    return np.sort(generator(seed, 0, "sample", ASIDE_PART).choice(n, n_aside(n), replace=False))


def exact_answers(base: Points, asked: np.ndarray, progress: Progress, most_k: int = MOST_K) -> Answers:
    """Some vectors of base with their nearest among all others, or queries with their nearest.

    asked: (m,) rows of base, or (m, dim) queries, as stored
    """
    n, own = len(base), asked.ndim == 1
    x = np.ascontiguousarray(base.vectors.raw(asked) if own else asked, dtype=np.float32)
    k = min(most_k, n - 1) + own
    with progress.stage("exact answers"), progress.bar("exact answers", n) as bar:
        near = nearest_of_stored(x, base, np.arange(n), k, bar)
    return Answers(x, without_self(near, asked) if own else near)


def by_codes(
    index: faiss.IndexIVF, answers: Answers, aside: np.ndarray, copies: float
) -> Callable[[Candidates, float, int, slice], np.ndarray]:
    """What a search by codes finds, the vector itself left out. aside: its row; empty: queries are no rows"""

    def search(ranked: Candidates, threshold: float, k: int, block: slice) -> np.ndarray:
        if not len(aside):
            return search_distinct(index, answers.x[block], k, *chosen(ranked, threshold), copies)[1]
        found = search_distinct(index, answers.x[block], k + 1, *chosen(ranked, threshold), copies)[1]
        return without_self(found, aside[block])

    return search
