"""An index tried on queries that neither trained nor calibrated anything."""

import numpy as np

from ivfast.data.exact import nearest_of_stored, without_self
from ivfast.data.twins import distinct_rows
from ivfast.data.vectors import Points
from ivfast.front.aside import set_aside
from ivfast.index.growth import Index
from ivfast.index.index import Reached
from ivfast.runtime.progress import Progress

K = 10  # nearest that count


def try_index(index: Index, points: Points, query: np.ndarray | None, seed: int, progress: Progress) -> list[Reached]:
    """Search for several recalls.

    points: base, as it was checked before it was stored
    query: (m, dim) floats; None: the rows of base that were set aside for this
    """
    rows = np.arange(len(points))
    own = set_aside(distinct_rows(points.vectors), seed, test=True).test if query is None else None
    asked = points.vectors.raw(own) if own is not None else index.model.as_stored(np.asarray(query), "query")
    with progress.bar("exact answers of the test", len(points)) as bar:
        near = nearest_of_stored(asked, points, rows, K + 1, bar)
    gt = near[:, :K] if own is None else without_self(near, own)
    return index.evaluate(asked, gt, K, without=own)
