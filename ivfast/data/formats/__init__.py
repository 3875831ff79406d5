"""Vectors and answers from files of many formats. A new format is one function, and one row of a table."""

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ivfast.data.first_bytes import UNTOLD, recognise
from ivfast.data.formats.flat import Open, open_bin, open_npy, open_safetensors, open_vecs
from ivfast.data.formats.folder import open_folder
from ivfast.data.formats.hdf5 import open_hdf5
from ivfast.data.formats.rows import Rows
from ivfast.data.formats.tables import open_lance, open_parquet
from ivfast.data.missing import missing
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import user_path

FORMATS: dict[str, Open] = {
    ".npy": open_npy,
    ".fvecs": partial(open_vecs, type="<f4"),
    ".bvecs": partial(open_vecs, type="u1"),
    ".fbin": partial(open_bin, type="<f4"),
    ".u8bin": partial(open_bin, type="u1"),
    ".i8bin": partial(open_bin, type="i1"),
    ".hdf5": open_hdf5,
    ".h5": open_hdf5,
    ".parquet": open_parquet,
    ".safetensors": open_safetensors,
}
LANCE = ".lance"
OF_ANSWERS = (".ivecs", ".ibin")
SAME = {".h5": ".hdf5", ".i8bin": ".u8bin"}  # alike by their first bytes
RAW = (".bin", ".dat", ".raw", ".data")  # often numbers alone
NEAR = 0.7  # how alike a suffix must be to be suggested; 0.6 takes .csv for .fvecs
WITH_COLUMNS = (".hdf5", ".h5", ".parquet", ".safetensors")  # and folders


def open_rows(path: str | Path, column: str | None = None, name: str = "vectors") -> Rows:
    """Vectors of a file, by its suffix, or of a folder: a Lance dataset, or shards.

    column: which column, tensor or dataset, where there are several
    name: what messages call it
    raises: UserError where it is absent, damaged or of an unknown format, or holds what cannot be vectors
    """
    path = user_path(path)
    if os.path.isdir(path):
        return (open_lance if path.suffix.lower() == LANCE else open_folder)(path, name, column)
    if not os.path.isfile(path):  # a pipe would wait forever
        raise missing({name: path})
    if path.suffix.lower() in OF_ANSWERS:
        raise UserError(f"{name}: {path} holds answers (gt) by its suffix, expected vectors; name the vectors' file")
    suffix = check_suffix(path, name, FORMATS, f"a folder ending in {LANCE}, or a folder of .npy or .parquet")
    if column is not None and suffix not in WITH_COLUMNS:
        raise UserError(f"{name}: {path} has no columns to choose {column} from; leave --column out")
    with recognised(path, name):
        return FORMATS[suffix](path, name, column)


@contextmanager
def recognised(path: Path, name: str) -> Iterator[None]:
    """Where a file is refused, and its first bytes are those of another format than its suffix says: tell it."""
    try:
        yield
    except UserError:
        if os.path.getsize(path) == 0:
            raise UserError(f"{name}: {path} is empty, expected a header and data; copy it anew") from None
        kind, suffix = recognise(path), path.suffix.lower()
        if kind is None or suffix == ".npy" or SAME.get(suffix, suffix) == SAME.get(kind.suffix, kind.suffix):
            raise
        wrong = f"{name}: {path} is no readable {suffix} file: it is {kind.what}; {kind.advice(path, name)}"
        raise UserError(wrong) from None


def check_suffix(path: Path, name: str, known: Iterable[str], also: str = "") -> str:
    """The suffix of a path, in lower case; raises UserError where it is none of those known, with what the file is."""
    suffix, names = path.suffix.lower(), list(known)
    if suffix in names:
        return suffix
    near = difflib.get_close_matches(suffix, names, 1, NEAR)
    meant = f" (did you mean {near[0]}?)" if near else ""
    kind = recognise(path) or (UNTOLD if suffix in RAW else None)
    told = f"; it is {kind.what}; {kind.advice(path, name)}" if kind else ""
    raise UserError(
        f"{name}: {path} ends in {suffix or 'no suffix'}{meant}, expected {', '.join(names)}{', ' * bool(also)}{also}"
        f"{told}"
    )
