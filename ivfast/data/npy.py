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

from ivfast.data.first_bytes import CONVERTED, OF_ANSWERS, UNTOLD, answers_line, quoted, recognise
from ivfast.data.wrong_types import BFLOAT16, OBJECTS, RECORDS, refusal
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.files import A_FOLDER, A_PIPE, what_is

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


def missing(absent: dict[str, Path]) -> UserError:
    """What to raise for files that are not there, or are none, by what messages call them."""
    names = ", ".join(absent)
    folders = dict.fromkeys(path.parent for path in absent.values())
    if shut := next((path for path in absent.values() if _is_shut(path)), None):
        return UserError(
            f"{names}: {shut} cannot be looked at (Permission denied): a folder above it may be listed at most, not "
            f"entered; give permission (chmod u+x {shut.parent})"
        )
    there = "; ".join(_what_is_there(folder) for folder in folders)
    for path in absent.values():
        if same := _of_other_bytes(path):
            there += f"; {same} is there, whose letters are written in another way (Unicode NFC, NFD): copy that name"
    return UserError(f"{names}: {_how(absent)}; {there}; {_from_others(absent)}{_do_with(absent)}")


def _how(absent: dict[str, Path]) -> str:
    """Which of them are missing, and which are no files."""
    gone = [str(path) for path in absent.values() if not what_is(path)]
    parts = [f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing"] if gone else []
    parts += [f"{path} is {what}, expected a file" for path in absent.values() if (what := what_is(path))]
    return ", ".join(parts)


def _do_with(absent: dict[str, Path]) -> str:
    for path in absent.values():
        if (what := what_is(path)) == A_PIPE:
            copied = quoted(path.with_stem(f"{path.stem}_copy"))
            return f"files are read more than once: write into one what comes out of it (cat {quoted(path)} > {copied})"
        if what and what != A_FOLDER:
            return "put the file there, or name another one"
    return "put the file there, or correct its name where it is given"


def _is_shut(path: Path) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        pass
    return False


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


def _from_others(absent: dict[str, Path]) -> str:
    """The commands that make absent .npy files of what lies beside them, in other formats or as shards."""
    found = []
    for name, path in absent.items():
        if path.suffix != ".npy":
            continue
        if name == "gt":
            others = [path.with_suffix(suffix) for suffix in OF_ANSWERS]
            found += [answers_line(other, path) for other in others if os.path.isfile(other)]
            continue
        folder = path.with_suffix("")
        if os.path.isdir(path):
            found.append(f"mv {quoted(path, folder)} && ivfast convert {quoted(folder, path)}")
        others = [other for suffix in CONVERTED if os.path.exists(other := path.with_suffix(suffix))]
        others += [folder] if _holds_shards(folder) else []
        found += [f"ivfast convert {quoted(other, path)}" for other in others]
    return "".join(f"{line}; or " for line in found)


def _holds_shards(folder: Path) -> bool:
    """Whether it is a folder of shards, and no data set."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError:
        return False
    return "gt.npy" not in names and any(name.endswith((".npy", ".parquet")) for name in names)


def _what_is_there(folder: Path) -> str:
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in os.scandir(folder))
    except OSError as problem:
        return f"{folder} cannot be listed ({problem.strerror})"
    return f"{folder} holds {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}"
