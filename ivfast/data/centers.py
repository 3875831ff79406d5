"""The centers of a run, ivfast.npy or kmeans.npy: opened with every check, wherever they are read."""

from pathlib import Path

import faiss
import numpy as np

from ivfast.data.npy import open_array
from ivfast.data.space import UNIT_TOLERANCE
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

ONE_PLACE = 2e-3  # of a center's norm: k-means splits a bucket into two that lie 1/512 of it apart, and both stay there


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


def n_in_one_place(centers: np.ndarray) -> int:
    """How many centers have another one in their place, up to 0.2 % of their norm.

    centers: (nlist, dim) float32, inside
    """
    near = faiss.knn(centers, centers, min(3, len(centers)))[1]
    same = np.zeros(len(centers), dtype=bool)
    border = ONE_PLACE**2 * np.square(centers).sum(axis=1)
    for column in near.T:
        same |= (np.square(centers - centers[column]).sum(axis=1) <= border) & (column != np.arange(len(centers)))
    return int(same.sum())


def tell_one_place(name: str, centers: np.ndarray, progress: Progress) -> None:
    """Note where centers lie in one place. name: what they are called; centers: (nlist, dim) float32, inside"""
    if n := n_in_one_place(centers):
        progress.note(
            f"warning: {name}: {n:,} of {len(centers):,} centers have another one in their place (within "
            f"{100 * ONE_PLACE:g} %), and of these one alone gets the vectors: learn has too few that differ; use a "
            "smaller --nlist, or remove copies from learn"
        )
