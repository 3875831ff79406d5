"""Centers that training starts from instead of k-means: read and checked."""

import hashlib
from pathlib import Path

import numpy as np

from ivfast.data.centers import open_centers
from ivfast.data.space import UNIT_TOLERANCE
from ivfast.runtime.config import Config
from ivfast.runtime.errors import UserError
from ivfast.store.dcnet_file import load_model


def open_start(config: Config) -> np.ndarray | None:
    """Read --start, (nlist, dim) float32, as stored; None where it is not given.

    raises: UserError where it is no matrix of centers, or does not fit --nlist, the vectors' dim or --metric
    """
    if config.start is None:
        return None
    centers, metric = open_centers(config.start), trained_for(config.start)
    check_start(centers, f"--start {config.start}", (config.nlist, config.dim))
    check_metric(centers, f"--start {config.start}", config.metric, metric)
    return centers


def trained_for(path: Path) -> str | None:
    """The metric of the dcnet.safetensors beside an ivfast.npy; None where none belongs to it."""
    model = load_model(path.parent / "dcnet.safetensors", path)
    return model.space.metric if model else None


def check_start(centers: np.ndarray, name: str, shape: tuple[int, int]) -> None:
    """raises: UserError where there are not so many centers of such a length. name: what the line begins with"""
    if centers.shape != shape:
        raise UserError(
            f"{name}: found {centers.shape[0]} centers of {centers.shape[1]} entries, expected {shape[0]} (nlist) of "
            f"{shape[1]} (the vectors' dim); leave nlist to the start, or start at others"
        )


def check_metric(centers: np.ndarray, name: str, metric: str, trained: str | None) -> None:
    """raises: UserError where they were trained for another metric, or aren't of unit norm under IP"""
    if trained not in (None, metric):
        raise UserError(f"{name}: found centers trained for {trained}, expected {metric}; train with metric {trained}")
    if metric == "IP":
        norms = np.sqrt(np.square(centers, dtype=np.float64).sum(axis=1))
        off = np.abs(norms - 1)
        if off.max() > UNIT_TOLERANCE:
            row = int(off.argmax())
            raise UserError(
                f"{name}: row {row} has norm {norms[row]:.4g}, expected unit norm under IP; divide rows by their norms"
            )


def digest_of(start: np.ndarray) -> str:
    """What tells the start of one run from that of another. start: (nlist, dim) float32, as stored"""
    return hashlib.blake2b(np.ascontiguousarray(start).tobytes(), digest_size=16).hexdigest()
