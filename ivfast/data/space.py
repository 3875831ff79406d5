"""How stored rows become the x of all formulas."""

from typing import NamedTuple

import numpy as np

UNIT_TOLERANCE = 1e-3  # a row this close to unit norm counts as unit norm under IP
LIMIT = 5000.0  # root mean squares from the mean, as far as inside reaches; rows that are not far lie within 4,500


class Space(NamedTuple):
    """How stored rows become the x of all formulas: x = (row - mean) / scale in float32.

    Under L2 mean and scale are learn's, so that every product is of centered vectors of about unit size, whatever the
    unit of the file. Rows that lie thousands of times farther from the mean are moved toward it, so that no square
    overflows. Under IP rows of nearly unit norm (within 0.001) are divided by it, others stay as they are.
    """

    metric: str
    mean: np.ndarray  # (dim,) float32; float64 where float32 would lose digits (see LOST); zeros under IP
    scale: np.float32  # root mean square of the centered rows, per dimension; 1 under IP

    def inside(self, rows: np.ndarray) -> np.ndarray:
        """Rows as stored, (n, dim) any float -> x, (n, dim) float32."""
        if self.metric == "L2":
            return self._centered(rows)
        x = np.ascontiguousarray(rows, dtype=np.float32)
        norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
        near = np.abs(norms - 1) <= UNIT_TOLERANCE
        return np.where(near, x / np.where(near, norms, 1), x)

    def _centered(self, rows: np.ndarray) -> np.ndarray:
        dtype = np.float64 if rows.dtype.itemsize == self.mean.dtype.itemsize == 8 else np.float32
        with np.errstate(over="ignore"):
            x = np.ascontiguousarray(rows, dtype=dtype) - self.mean.astype(dtype, copy=False)
            x = x.astype(np.float32, copy=False) / self.scale
        if max(x.max(initial=0), -x.min(initial=0)) > LIMIT:
            beyond = np.flatnonzero(np.abs(x).max(axis=1) > LIMIT)
            wanted = self.wide(rows[beyond])
            times = np.sqrt(np.square(wanted).mean(axis=1))
            far = times > LIMIT
            x[beyond[far]] = wanted[far] * (LIMIT / times[far])[:, None]
        return x

    def wide(self, rows: np.ndarray) -> np.ndarray:
        """Rows as stored, (n, dim) any float -> the same place in float64, however far; for L2 alone."""
        return (rows.astype(np.float64) - self.mean) / np.float64(self.scale)

    @property
    def facts(self) -> dict[str, object]:
        """What tells this space from others, for a fingerprint."""
        return {"metric": self.metric, "mean": self.mean.tolist(), "scale": float(self.scale), "limit": LIMIT}

    def outside(self, x: np.ndarray) -> np.ndarray:
        """x, (n, dim) float32 -> rows as a user stores them, float32."""
        return x if self.metric == "IP" else (x * self.scale + self.mean).astype(np.float32, copy=False)
