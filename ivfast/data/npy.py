"""Opening .npy files of unknown origin: nothing is read, mapped or allocated before the size equation holds."""

import errno
import math
import os
import re
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ivfast.data.first_bytes import UNTOLD, recognise
from ivfast.data.missing import missing
from ivfast.data.wrong_types import BFLOAT16, OBJECTS, RECORDS, refusal
from ivfast.runtime.errors import RunError, UserError

MAGIC = b"\x93NUMPY"
NO_FILE = "(array)"
LONGEST_HEADER = 10_000  # bytes; NumPy's own limit
NUMERIC = re.compile(r"[<>|=](b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|V2)")  # V2: see BFLOAT16

# one grammar and no eval: exactly what np.save writes, spaces and the order of the keys aside
_VALUE = r"'[^'\\]{1,99}'|True|False|\([0-9, ]{0,999}\)"
_ITEM = rf"[ ]*'[a-z_]{{1,20}}'[ ]*:[ ]*(?:{_VALUE})"
_HEADER = re.compile(rf"\{{{_ITEM}(?:,{_ITEM}){{2}}(?:[ ]*,)?[ ]*\}}[ ]*\n?")
_RECORDS = re.compile(r"\{[ ]*'descr'[ ]*:[ ]*\[\('")
_PARTS = re.compile(rf"'([a-z_]+)'[ ]*:[ ]*({_VALUE})")
_SHAPE = re.compile(r"\((?:(?:0|[1-9][0-9]{0,17}), ?)*(?:0|[1-9][0-9]{0,17})?\)")


class Header(NamedTuple):
    """What a .npy file says about itself."""

    shape: tuple[int, ...]
    type: str  # as written, such as <f4
    start: int  # of the data, in bytes


class _WrongTypeError(Exception):
    """The type that a header says, or what stands for it."""


def open_array(path: Path, name: str, *, bfloat16: bool = False) -> np.ndarray:
    """Memory-map one two-dimensional .npy file of numbers; read it where its file system has no memory maps.

    name: what messages call it
    bfloat16: open it too, as the two bytes without a type (V2) that NumPy writes of it
    raises: UserError where it is absent, not such a file, of another size than its header says, or not two-dimensional
    """
    if not os.path.isfile(path):
        raise missing({name: path})
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(file, size)
        if header.type[1:] == BFLOAT16 and not bfloat16:
            raise _WrongTypeError(header.type)
        _check_size(header, size)
    except _WrongTypeError as wrong:
        raise UserError(f"{name}: {path} {refusal(str(wrong), name, path)}") from None
    except OSError as problem:
        raise UserError(f"{name}: {path} cannot be opened ({problem.strerror}); check its permissions") from None
    except ValueError as problem:
        raise UserError(f"{name}: {path} {problem}; {_what_to_do(path, name)}") from None
    if len(header.shape) != 2 or 0 in header.shape:
        raise UserError(
            f"{name}: {path} has shape {header.shape}, expected (rows, columns), both above 0; "
            f"{_other_shape(header.shape, name)} and save it anew with np.save"
        )
    try:
        return _map(path)
    except OSError as problem:
        raise UserError(
            f"{name}: {path} cannot be read ({problem.strerror or problem}); check its disk and the limits of memory "
            "(ulimit -v), it need not be saved anew"
        ) from None
    except (ValueError, EOFError) as problem:  # it changed since
        raise UserError(f"{name}: {path} cannot be mapped ({problem}); save it anew with np.save") from None


def promised_shape(path: Path) -> tuple[int, ...]:
    """The shape that a .npy file's header says, whether or not its numbers are all there.

    raises: ValueError or OSError where there is no such header
    """
    with path.open("rb") as file:
        try:
            return _read_header(file, os.fstat(file.fileno()).st_size).shape
        except _WrongTypeError as wrong:
            raise ValueError(f"holds {wrong}") from None


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=LONGEST_HEADER)
    except OSError as problem:
        if problem.errno == errno.ENOMEM:  # as large a piece of memory will not be there either
            raise
    return np.load(path, allow_pickle=False, max_header_size=LONGEST_HEADER)


def map_of(array: np.ndarray | None) -> Any:
    """The numpy.memmap that an array is a view of, or is; None where there is none."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not isinstance(owner.base, mmap):
        owner = owner.base
    return owner if hasattr(owner, "filename") else None


def path_of(array: np.ndarray | None) -> Path:
    """The file that an array is a memory map of; (array) where there is none."""
    return Path(getattr(map_of(array), "filename", None) or NO_FILE)


def called(name: str, array: np.ndarray | None) -> str:
    """What messages call an array: its name, and the file that it is a memory map of."""
    path = path_of(array)
    return name if path == Path(NO_FILE) else f"{name}: {path}"


def check_whole(array: np.ndarray, name: str) -> None:
    """Look whether a memory map's file is as long as it was: reading beyond its end would end the process (SIGBUS).

    array: any, also a view of a memory map
    raises: RunError where the file was cut short since it was opened
    """
    if (owner := map_of(array)) is None:
        return
    found, expected = owner.base.size(), owner.offset + owner.nbytes
    if found < expected:
        raise RunError(
            f"{name}: {owner.filename} was cut short while it was read ({found:,} bytes, expected {expected:,}); "
            "copy it anew, and leave it alone until the run has ended"
        )


def _read_header(file: BinaryIO, size: int) -> Header:
    """Parse the header; raises ValueError with what was found and what was expected, or _WrongTypeError."""
    if size == 0:
        raise ValueError("is no readable .npy array: it is empty, expected a header and data")
    start = file.read(12)
    if start[:6] != MAGIC:
        raise ValueError(f"is no readable .npy array: it begins with {start[:6]!r}, expected {MAGIC!r}")
    if len(start) < 12 or start[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError(f"is no readable .npy array: format version {tuple(start[6:8])}, expected 1.0, 2.0 or 3.0")
    n_length = 2 if start[6] == 1 else 4
    length = int.from_bytes(start[8 : 8 + n_length], "little")
    if length > min(LONGEST_HEADER, size - 8 - n_length):
        raise ValueError(
            f"is no readable .npy array: a header of {length} bytes is promised, expected at most {LONGEST_HEADER} "
            f"and no more than the file's {size} bytes"
        )
    file.seek(8 + n_length)
    text = file.read(length).decode("latin1")
    if _RECORDS.match(text):
        raise _WrongTypeError(RECORDS)
    fields = dict(_PARTS.findall(text)) if _HEADER.fullmatch(text) else {}
    shape = fields.get("shape", "")
    if (
        set(fields) != {"descr", "fortran_order", "shape"}
        or fields["fortran_order"] not in ("True", "False")
        or not fields["descr"].startswith("'")
        or not _SHAPE.fullmatch(shape)
        or re.fullmatch(r"\([0-9]+\)", shape)
    ):
        raise ValueError(
            f"is no readable .npy array of numbers: its header is {text[:60]!r}, expected descr, fortran_order, shape"
        )
    found = fields["descr"].strip("'")
    if "O" in found:
        raise _WrongTypeError(OBJECTS)
    if not NUMERIC.fullmatch(found):
        raise _WrongTypeError(found)
    return Header(tuple(int(n) for n in re.findall(r"[0-9]+", shape)), found, 8 + n_length + length)


def _check_size(header: Header, size: int) -> None:
    """The size equation; raises ValueError.

    file size = header + product of shape * itemsize
    """
    itemsize = 1 if header.type[1] == "b" else int(header.type[2:])
    expected = header.start + math.prod(header.shape) * itemsize
    if size == expected:
        return
    too_long = f"has {size - expected} bytes too many"
    what = too_long if size > expected else "is truncated, or its header promises too much"
    raise ValueError(
        f"{what}: shape {header.shape} of {header.type} makes {expected} bytes with the header, the file has {size}"
    )


def _what_to_do(path: Path, name: str) -> str:
    kind = recognise(path) or UNTOLD
    if kind.suffix == ".npy" or os.path.getsize(path) == 0:
        return "copy it anew, or save it anew with np.save"
    return f"it is {kind.what}; {kind.advice(path, name)}"


def _other_shape(shape: tuple[int, ...], name: str) -> str:
    """What makes two dimensions of others."""
    whole = tuple(size for size in shape if size != 1)
    if 0 in shape or not shape:
        return "write the vectors themselves"
    if len(shape) == 1 and name == "gt":
        return "where it is one answer a query, use .reshape(-1, 1)"
    if len(shape) == 1:
        return "where it is one vector of many files, stack all with np.stack, else use .reshape(-1, DIM)"
    if len(whole) == 2:
        return f"use .reshape{whole}"
    return f"make one vector of each row (.mean(axis=1) is usual), or a row of each vector (.reshape(-1, {shape[-1]})),"
