"""HDF5 files such as those of ann-benchmarks: one two-dimensional dataset of numbers."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivfast.data.formats.rows import NUMBERS, READ_AS, Rows, damaged, load_package, pick
from ivfast.runtime.errors import UserError

PROBLEMS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises over damaged files
VECTORS = "train"  # what ann-benchmarks calls the vectors to search
LOCKING = "best-effort"  # file systems without locks, such as some NFS, are read too


class Dataset(NamedTuple):
    """What a file says about one dataset, before anything of it is read."""

    shape: tuple[int, ...]
    type: str

    @property
    def is_matrix(self) -> bool:
        """Whether it has rows and columns."""
        return len(self.shape) == 2 and 0 not in self.shape

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers, of whatever size."""
        return self.type.startswith(("int", "uint"))

    @property
    def about(self) -> str:
        """In words."""
        return f"{self.type} {self.shape}"


def open_hdf5(path: Path, name: str, column: str | None) -> Rows:
    """The dataset `column`; None: `train`, or the only one that fits.

    raises: UserError where the file is damaged, or none or several datasets could be meant
    """
    found = datasets(path, name)
    fit = [key for key, item in found.items() if item.type in READ_AS and item.is_matrix]
    if column is None and VECTORS in fit:
        column = VECTORS
    about = {key: item.about for key, item in found.items()}
    chosen = pick(about, fit, column, name, path, f"two-dimensional dataset of {NUMBERS}")
    n, dim = found[chosen].shape
    return Rows(name, path, n, dim, found[chosen].type, lambda rows: read_hdf5(path, name, chosen, rows))


def read_hdf5(path: Path, name: str, dataset: str, rows_at_once: int) -> Iterator[np.ndarray]:
    """All rows of one dataset as stored, so many at once."""
    h5py = load_package("h5py", name, path)
    with damaged(name, path, *PROBLEMS), h5py.File(path, "r", locking=LOCKING) as file:
        stored = file[dataset]
        _check_written(stored, name, path)
        for start in range(0, len(stored), rows_at_once):
            yield stored[start : start + rows_at_once]


def datasets(path: Path, name: str) -> dict[str, Dataset]:
    """The datasets of the file itself by name. Links to other files are not followed."""
    h5py = load_package("h5py", name, path)
    found = {}

    def see(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[key] = Dataset(tuple(int(size) for size in item.shape or ()), item.dtype.name)

    with damaged(name, path, *PROBLEMS), h5py.File(path, "r", locking=LOCKING) as file:
        file.visititems(see)
    return found


def _check_written(stored: Any, name: str, path: Path) -> None:
    """Refuse shapes that nobody wrote values for, before rows of them are allocated, and values in other files."""
    if stored.external or stored.is_virtual:
        raise UserError(f"{name}: {path} keeps {stored.name} in other files; copy it into one, e.g. with h5repack")
    if stored.chunks:
        expected = math.prod(-(-size // chunk) for size, chunk in zip(stored.shape, stored.chunks, strict=True))
        found, unit = stored.id.get_num_chunks(), "chunks"
    else:
        expected, found, unit = stored.nbytes, stored.id.get_storage_size(), "bytes"
    if found < expected:
        raise UserError(
            f"{name}: {path} holds {found:,} of the {expected:,} {unit} of {stored.name}: it was not written to its "
            "end; write it anew"
        )
