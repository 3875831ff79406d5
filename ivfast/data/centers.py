"""The centers of a run, ivfast.npy or kmeans.npy: opened with every check, wherever they are read."""

from pathlib import Path

import numpy as np

from ivfast.data.npy import open_array
from ivfast.data.vectors import UNIT_TOLERANCE
from ivfast.runtime.errors import UserError


def open_centers(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read centers, (nlist, dim) float32, as stored.

    shape: of the ivfast.npy beside them (None: any)
    raises: UserError where they are no matrix of finite floats of that shape
    """
    array = open_array(path, "centers")
    if array.dtype.kind != "f":
        raise UserError(f"centers: {path} holds {array.dtype}, expected float32; name an ivfast.npy")
    if shape is not None and array.shape != shape:
        raise UserError(
            f"centers: {path} has shape {array.shape}, expected {shape} as the ivfast.npy beside it; remove it"
        )
    with np.errstate(over="ignore"):
        centers = np.array(array, dtype=np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(centers).all(axis=1))):
        raise UserError(f"centers: {path} row {bad[0]} holds NaN or infinity, expected finite numbers; export it anew")
    return centers


def check_norms(centers: np.ndarray, path: Path) -> None:
    """Means of unit rows are no longer than 1; for longer ones 2 - 2 <x, c> is no squared distance.

    raises: UserError where one is; for IP alone
    """
    norms = np.sqrt(np.square(centers, dtype=np.float64).sum(axis=1))
    longest = int(norms.argmax())
    if norms[longest] > 1 + UNIT_TOLERANCE:
        raise UserError(
            f"centers: {path} row {longest} has norm {norms[longest]:.4g}, expected at most 1 under --metric IP; "
            "divide the rows by their norms, or use --metric L2"
        )
