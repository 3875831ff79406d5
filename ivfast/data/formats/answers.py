"""gt from files of many formats: for each query the rows of base that are right, as integers."""

import os
from pathlib import Path

import numpy as np

from ivfast.data.formats import OF_ANSWERS, check_suffix, recognised
from ivfast.data.formats.flat import Flat, flat_bin, flat_vecs
from ivfast.data.formats.hdf5 import datasets, read_hdf5
from ivfast.data.formats.rows import pick
from ivfast.data.ground_truth import check_integers
from ivfast.data.missing import missing
from ivfast.data.npy import open_array
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import user_path

ANSWERS = "neighbors"  # what ann-benchmarks calls the right answers
HDF5 = (".hdf5", ".h5")
SUFFIXES = (".npy", *OF_ANSWERS, *HDF5)


def open_gt(path: str | Path, column: str | None = None, name: str = "gt") -> np.ndarray:
    """The answers of a file, by its suffix.

    column: the dataset of an .hdf5 file; None: neighbors, or the only one that fits
    name: what messages call it
    returns: (n, k) integers, unchecked offsets into base; of a .npy file a memory map
    raises: UserError where the file is absent, damaged or of an unknown format, or holds no integers
    """
    path = user_path(path)
    if not os.path.isfile(path):
        raise missing({name: path})
    suffix = check_suffix(path, name, SUFFIXES)
    if column is not None and suffix not in HDF5:
        raise UserError(f"{name}: {path} has no datasets to choose {column} from; leave --column out")
    if suffix == ".npy":
        gt = open_array(path, name)
        check_integers(gt, path, name)
        return gt
    with recognised(path, name):
        if suffix in HDF5:
            return _from_hdf5(path, column, name)
        # int32 in both: big-ann's own reader takes .ibin so as well, and -1 stays -1
        of_vecs = suffix == ".ivecs"
        return _whole(flat_vecs(path, name, "<i4") if of_vecs else flat_bin(path, name, "<i4", distances=True))


def _whole(flat: Flat) -> np.ndarray:
    return np.ascontiguousarray(next(flat.read(flat.n)))


def _from_hdf5(path: Path, column: str | None, name: str) -> np.ndarray:
    found = datasets(path, name)
    fit = [key for key, item in found.items() if item.is_integer and item.is_matrix]
    if column is None and ANSWERS in fit:
        column = ANSWERS
    about = {key: item.about for key, item in found.items()}
    chosen = pick(about, fit, column, name, path, "two-dimensional dataset of integers")
    return next(read_hdf5(path, name, chosen, found[chosen].shape[0]))
