"""Points that are stored, and queries behind them: pairs may have either on one side."""

from dataclasses import dataclass, field

import numpy as np

from ivfast.data.vectors import Points


@dataclass(frozen=True)
class WithQueries(Points):
    """Points whose numbers go on beyond the last one: there are queries, which are not stored and do not count.

    queries: (m, dim) float32, inside; the first has the number len(points)
    """

    queries: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def x(self, index: np.ndarray | slice) -> np.ndarray:
        """See Points; a slice is of stored points alone."""
        if isinstance(index, slice):
            return super().x(index)
        numbers, n = np.asarray(index), len(self)
        stored = numbers < n
        if stored.all():
            return super().x(numbers)
        found = np.empty((len(numbers), self.dim), dtype=np.float32)
        if stored.any():
            found[stored] = super().x(numbers[stored])
        found[~stored] = self.queries[numbers[~stored] - n]
        return found

    def only(self, index: np.ndarray) -> Points:
        """Stored points alone."""
        return Points(self.vectors.only(index), self.space)


def with_queries(points: Points, queries: np.ndarray) -> WithQueries:
    """The same points, and queries behind them, (m, dim) float32, inside."""
    return WithQueries(points.vectors, points.space, points.mapped, queries)
