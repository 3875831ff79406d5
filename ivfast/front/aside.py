"""Rows of base that are set aside, and the folder of arrays that a training run reads."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.exact import nearest_of_stored
from ivfast.data.formats.convert import write_rows
from ivfast.data.npy import map_of
from ivfast.data.twins import Distinct
from ivfast.data.vectors import Points, open_vectors, rows_per_block
from ivfast.index.build import n_aside
from ivfast.index.fit_file import DATA_NAME, FIT_NAME
from ivfast.method import COUNTED
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_array
from ivfast.runtime.own_files import claim
from ivfast.runtime.progress import Progress

PART = 3  # of the draws from "sample"
LOG_NAME = "query_log"
WRITTEN = ("base.npy", "query.npy", "gt.npy", "start.npy", f"{LOG_NAME}.npy")


class Aside(NamedTuple):
    """Rows of base that don't train, ascending."""

    calibrate: np.ndarray  # they tell what a search of the index finds and scans
    test: np.ndarray  # they try it; none where queries are given

    @property
    def rows(self) -> np.ndarray:
        """Both, ascending."""
        return np.sort(np.concatenate([self.calibrate, self.test]))


def set_aside(distinct: Distinct, seed: int, *, test: bool) -> Aside:
    """Draw up to 2,000 rows to calibrate on, and as many for a test, each at most a twentieth of all.

    Rows whose twins would train say nothing, so rows with more twins than most have are not drawn.

    raises: UserError where there are too few
    """
    rows = distinct.rare_rows
    wanted = min(n_aside(len(distinct.of)), -(-len(rows) // 4))
    drawn_at_all = wanted * (2 if test else 1)
    if drawn_at_all > len(rows):
        raise UserError(
            f"base: only {len(distinct.rows)} of {len(distinct.of):,} rows differ, too few to set {drawn_at_all} of "
            "them aside for a test; leave copies out, or use more vectors that differ"
        )
    drawn = generator(seed, 0, "sample", PART).choice(rows, drawn_at_all, replace=False)
    return Aside(np.sort(drawn[:wanted]), np.sort(drawn[wanted:]))


def write_run_files(
    folder: Path, base: Points, aside: Aside, query: np.ndarray | None, progress: Progress,
    log: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write what training reads: base without the rows set aside, queries, their exact nearest, and a log.

    query: (n, dim) floats, as stored; None: the rows that were set aside for a test
    log: (l, dim) floats, likewise: queries to learn from
    raises: UserError where a file of the caller's would be written over
    """
    folder = folder / DATA_NAME
    _refuse_own(folder, base.vectors.rows, query, log)
    claim(folder, WRITTEN, known=(folder.parent / FIT_NAME).is_file())
    kept = np.setdiff1d(np.arange(len(base)), aside.rows)
    step = rows_per_block(base.dim)
    blocks = (base.vectors.raw(kept[i : i + step]).astype(np.float32) for i in range(0, len(kept), step))
    # as float32, since a run reads them many times
    write_rows(blocks, len(kept), base.dim, np.dtype(np.float32), folder / "base.npy", progress)
    rows = base.vectors.raw(aside.test) if query is None else query
    save_array(folder / "query.npy", np.ascontiguousarray(rows, dtype=np.float32))
    if log is not None:
        save_array(folder / f"{LOG_NAME}.npy", np.ascontiguousarray(log, dtype=np.float32))
    vectors = open_vectors(folder / "base.npy", "base", base.dim)
    points = Points(vectors, base.space)
    with progress.bar("exact answers", len(points)) as bar:
        near = nearest_of_stored(rows, points, np.arange(len(points)), COUNTED, bar)
    save_array(folder / "gt.npy", near)


def _refuse_own(folder: Path, *arrays: np.ndarray | None) -> None:
    for array in arrays:
        path = getattr(map_of(array), "filename", None)
        if path and folder.resolve() in Path(path).resolve().parents:
            raise UserError(f"{path} lies where a fit writes files of its own; choose another --save_path, or move it")
