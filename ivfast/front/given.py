"""Centers that a fit starts from: those of a model, of a folder, of a file or of an array."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.centers import open_centers
from ivfast.data.vectors import Points
from ivfast.index.model import TrainedModel
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import user_path, what_is
from ivfast.train.given import check_metric, check_start, trained_for

Start = TrainedModel | Path | str | np.ndarray


class Given(NamedTuple):
    """Centers to start from."""

    centers: np.ndarray  # (nlist, dim) float32, as stored
    metric: str | None  # that they were trained for; None: not known
    name: str  # what messages call them

    def check(self, base: Points) -> None:
        """raises: UserError where they are no start for a base: of another dim or metric"""
        check_start(self.centers, self.name, (len(self.centers), base.dim))
        check_metric(self.centers, self.name, base.metric, self.metric)


def open_given(start: Start) -> Given:
    """Read the centers of an earlier fit or run.

    start: a model, the folder of a fit or run, an .npy of centers, or (nlist, dim) floats
    raises: UserError where there are none, or none that are finite floats
    """
    if isinstance(start, TrainedModel):
        return Given(start.centers, start.metric, "start")
    if isinstance(start, Path | str):
        path = user_path(start)
        if path.is_dir():
            path /= "ivfast.npy"
            if not path.is_file():
                what = f"ivfast.npy is {found}" if (found := what_is(path)) else "no ivfast.npy"
                raise UserError(f"start {path.parent}: {what}, expected the folder of a finished fit or run")
        return Given(open_centers(path), trained_for(path), f"start {path}")
    rows = np.asarray(start)
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind != "f":
        raise UserError(f"start: found {rows.dtype} of shape {rows.shape}, expected floats, (nlist, dim); reshape it")
    if not np.isfinite(rows := rows.astype(np.float32)).all():
        raise UserError("start: found NaN or infinity, expected finite numbers; leave such centers out")
    return Given(rows, None, "start")
