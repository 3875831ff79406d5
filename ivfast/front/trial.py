"""An index tried on queries that neither trained nor calibrated anything."""

import numpy as np

from ivfast.data.exact import nearest_of_stored, without_self
from ivfast.data.vectors import Points
from ivfast.index.growth import Index
from ivfast.index.index import Reached
from ivfast.runtime.progress import Progress

K = 10  # nearest that count


def try_index(
    index: Index, points: Points, query: np.ndarray | None, test: np.ndarray, progress: Progress
) -> list[Reached]:
    """Search for several recalls.

    points: base, as it was checked before it was stored
    query: (m, dim) floats; None: rows of base are asked
    test: rows of base that a fit has set aside for this, ascending
    """
    rows = np.arange(len(points))
    own = test if query is None else None
    asked = points.vectors.raw(own) if own is not None else index.model.as_stored(np.asarray(query), "query")
    with progress.bar("exact answers of the test", len(points)) as bar:
        near = nearest_of_stored(asked, points, rows, K + 1, bar)
    gt = near[:, :K] if own is None else without_self(near, own)
    return index.evaluate(asked, gt, K, without=own)
