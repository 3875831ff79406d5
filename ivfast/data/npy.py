"""Opening .npy files of unknown origin: nothing is read, mapped or allocated before the size equation holds."""

import errno
import math
import os
import re
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from unicodedata import normalize

import numpy as np

from ivfast.runtime.errors import RunError, UserError

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes; NumPy's own limit
NUMERIC = re.compile(r"[<>|=](b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32))")

# one grammar and no eval: exactly what np.save writes, spaces and the order of the keys aside
_VALUE = r"'[^'\\]{1,99}'|True|False|\([0-9, ]{0,999}\)"
_ITEM = rf"[ ]*'[a-z_]{{1,20}}'[ ]*:[ ]*(?:{_VALUE})"
_HEADER = re.compile(rf"\{{{_ITEM}(?:,{_ITEM}){{2}}(?:[ ]*,)?[ ]*\}}[ ]*\n?")
_PARTS = re.compile(rf"'([a-z_]+)'[ ]*:[ ]*({_VALUE})")
_SHAPE = re.compile(r"\((?:(?:0|[1-9][0-9]{0,17}), ?)*(?:0|[1-9][0-9]{0,17})?\)")


class Header(NamedTuple):
    """What a .npy file says about itself."""

    shape: tuple[int, ...]
    type: str  # as written, such as <f4
    start: int  # of the data, in bytes


def open_array(path: Path, name: str) -> np.ndarray:
    """Memory-map one two-dimensional .npy file of numbers; read it where its file system has no memory maps.

    name: what messages call it
    raises: UserError where it is absent, not such a file, of another size than its header says, or not two-dimensional
    """
    if not os.path.isfile(path):
        raise missing({name: path})
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(file, size)
        _check_size(header, size)
    except OSError as problem:
        raise UserError(f"{name}: {path} cannot be opened ({problem.strerror}); check its permissions") from None
    except ValueError as problem:
        raise UserError(f"{name}: {path} {problem}; save it anew with np.save") from None
    if len(header.shape) != 2 or 0 in header.shape:
        raise UserError(
            f"{name}: {path} has shape {header.shape}, expected (rows, columns), both above 0; reshape it and save it "
            "anew with np.save"
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
    """Parse the header; raises ValueError with what was found and what was expected."""
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
        raise ValueError("holds Python objects (a pickle), which are never loaded, expected float32")
    if not NUMERIC.fullmatch(found):
        raise ValueError(f"holds {found}, expected float32")
    return Header(tuple(int(n) for n in re.findall(r"[0-9]+", shape)), found, 8 + n_length + length)


def _check_size(header: Header, size: int) -> None:
    """The size equation; raises ValueError.

    file size = header + product of shape * itemsize
    """
    itemsize = 1 if header.type[1] == "b" else int(header.type[2:])
    expected = header.start + math.prod(header.shape) * itemsize
    if size == expected:
        return
    what = f"has {size - expected} bytes too many" if size > expected else "is truncated, or its header is forged"
    raise ValueError(
        f"{what}: shape {header.shape} of {header.type} makes {expected} bytes with the header, the file has {size}"
    )


def missing(absent: dict[str, Path]) -> UserError:
    """What to raise for files that are not there, by what messages call them."""
    names, paths = ", ".join(absent), ", ".join(str(path) for path in absent.values())
    folders = dict.fromkeys(path.parent for path in absent.values())
    there = "; ".join(_what_is_there(folder) for folder in folders)
    for path in absent.values():
        if same := _of_other_bytes(path):
            there += f"; {same} is there, whose letters are written in another way (Unicode NFC, NFD): copy that name"
    return UserError(
        f"{names}: {paths} {'is' if len(absent) == 1 else 'are'} missing{_but_a_folder(absent)}; {there}; "
        "put the file there, or correct the flag that names it"
    )


def _of_other_bytes(path: Path) -> Path | None:
    """A file of the same letters: an umlaut is one character, or a vowel and a mark. macOS takes both as one name."""
    found = Path(path.anchor)
    for part in path.parts[bool(path.anchor) :]:
        if not os.path.lexists(found / part):
            try:
                names = os.listdir(found)
            except OSError:
                return None
            part = next((name for name in names if normalize("NFC", name) == normalize("NFC", part)), part)
        found /= part
    return found if found != path and os.path.isfile(found) else None


def _but_a_folder(absent: dict[str, Path]) -> str:
    folders = [str(path) for path in absent.values() if os.path.isdir(path)]
    return f" ({', '.join(folders)}: a folder, expected a file)" if folders else ""


def _what_is_there(folder: Path) -> str:
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    except OSError as problem:
        return f"{folder} cannot be listed ({problem.strerror})"
    return f"{folder} holds {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}"
