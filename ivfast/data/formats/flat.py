"""Formats without a library: a few bytes of header, then rows of equal length, read by plain reads block by block."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError

from ivfast.data.first_bytes import are_whole
from ivfast.data.formats.rows import NUMBERS, READ_AS, Rows, damaged, pick
from ivfast.data.npy import check_whole, open_array
from ivfast.data.wrong_types import refusal
from ivfast.runtime.errors import UserError
from ivfast.runtime.tensors import METADATA, read_header

HEADER = 8  # bytes of .fbin and its kin: uint32 rows, uint32 dim
ROW_HEAD = 4  # bytes before each row of .fvecs and its kin: int32 dim
TENSOR_TYPES = {
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
LOOKED_AT = 1 << 16  # bytes at the start, for numbers that are no floats
PROBLEMS = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
Open = Callable[[Path, str, str | None], Rows]  # path, name, column -> Rows


class Flat(NamedTuple):
    """Where rows of equal length lie in a file."""

    name: str
    path: Path
    start: int  # of the first row, in bytes
    row_head: int  # bytes before each row, which say its length
    n: int
    dim: int
    type: str  # as NumPy writes it, such as <f4

    def read(self, rows_at_once: int) -> Iterator[np.ndarray]:
        """All rows as stored, (at most rows_at_once, dim).

        raises: UserError where a row says another length than the first, or the file ends early
        """
        stride = self.row_head + self.dim * np.dtype(self.type).itemsize
        with damaged(self.name, self.path, OSError), self.path.open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.n, rows_at_once):
                n = min(rows_at_once, self.n - first)
                data = file.read(n * stride)
                if len(data) < n * stride:
                    raise UserError(f"{self.name}: {self.path} ends in row {first + len(data) // stride}; copy it anew")
                rows = np.frombuffer(data, np.uint8).reshape(n, stride)
                if self.row_head:
                    self._check_lengths(rows, first)
                yield rows[:, self.row_head :].view(self.type)

    def _check_lengths(self, rows: np.ndarray, first: int) -> None:
        lengths = rows[:, : self.row_head].view("<i4")[:, 0]
        wrong = lengths != self.dim
        if wrong.any():
            row = int(np.argmax(wrong))
            if not rows[row:].any():
                raise UserError(
                    f"{self.name}: {self.path} holds nothing but zeros from row {first + row} on, as a file whose "
                    "writing was interrupted; copy it anew"
                )
            raise UserError(
                f"{self.name}: {self.path} row {first + row} says {lengths[row]} columns, expected {self.dim} as in "
                "row 0; it is damaged or of another format than its name says"
            )


def flat_vecs(path: Path, name: str, type: str) -> Flat:
    """.fvecs and its kin: each row has its length before it.

    raises: UserError unless file size = rows * (4 + dim * itemsize)
    """
    size, head = _size_and_head(path, name, ROW_HEAD)
    dim = int.from_bytes(head, "little", signed=True)
    stride = ROW_HEAD + dim * np.dtype(type).itemsize
    if dim <= 0 or size % stride:
        raise UserError(
            f"{name}: {path} is no readable {path.suffix} file: row 0 says {dim} columns, expected above 0, and rows "
            f"of {stride} bytes that make up the file's {size}; it is truncated, has rows of unequal length, or is of "
            "another format than its name says"
        )
    return Flat(name, path, 0, ROW_HEAD, size // stride, dim, type)


def flat_bin(path: Path, name: str, type: str, *, distances: bool = False) -> Flat:
    """.fbin and its kin: rows and dim first, then all rows.

    distances: whether as many float32 may follow, as in .ibin
    raises: UserError unless file size = 8 + rows * dim * itemsize
    """
    size, head = _size_and_head(path, name, HEADER)
    n, dim = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
    expected = HEADER + n * dim * np.dtype(type).itemsize
    if n == 0 or dim == 0 or size not in (expected, expected + 4 * n * dim * distances):
        raise UserError(
            f"{name}: {path} is no readable {path.suffix} file: its header says {n} rows of {dim} columns, both "
            f"expected above 0, which makes {expected} bytes, the file has {size}; it is truncated, or "
            "of another format than its name says"
        )
    return Flat(name, path, HEADER, 0, n, dim, type)


def _size_and_head(path: Path, name: str, n_bytes: int) -> tuple[int, bytes]:
    with damaged(name, path, OSError), path.open("rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(n_bytes)
    if len(head) < n_bytes:
        raise UserError(f"{name}: {path} is truncated: {size} bytes, expected a header of {n_bytes} and data")
    return size, head


def as_rows(flat: Flat, dtype: str) -> Rows:
    """Rows that lie flat in a file, as Rows."""
    return Rows(flat.name, flat.path, flat.n, flat.dim, dtype, flat.read)


def open_vecs(path: Path, name: str, _: str | None, *, type: str) -> Rows:
    """.fvecs or .bvecs, by the type of its numbers; raises UserError as flat_vecs does, or on rows that are none."""
    return as_rows(_told_apart(flat_vecs(path, name, type)), np.dtype(type).name)


def open_bin(path: Path, name: str, _: str | None, *, type: str) -> Rows:
    """.fbin, .u8bin or .i8bin, by the type of its numbers; raises UserError as flat_bin does, or on no floats."""
    return as_rows(_told_apart(flat_bin(path, name, type)), np.dtype(type).name)


def _told_apart(flat: Flat) -> Flat:
    """Look at the first rows, since the size of a file may fit another format by chance, or fits it always.

    raises: UserError on a second row of another length, or where floats can't be meant
    """
    next(flat._replace(n=min(flat.n, 2)).read(2))
    if flat.type != "<f4":
        return flat
    stride = flat.row_head + 4 * flat.dim
    with damaged(flat.name, flat.path, OSError), flat.path.open("rb") as file:
        file.seek(flat.start)
        data = np.frombuffer(file.read(max(1, LOOKED_AT // stride) * stride), np.uint8)
    data = data[: len(data) // stride * stride]  # where it was cut short meanwhile
    where = f"{flat.name}: {flat.path} is no readable {flat.path.suffix} file"
    if flat.row_head and stride % (of_bytes := ROW_HEAD + flat.dim) == 0:
        heads = np.ascontiguousarray(data.reshape(-1, of_bytes)[:, :ROW_HEAD]).view("<i4")
        if (heads == flat.dim).all():
            raise UserError(f"{where}: its rows are bytes, as .bvecs has them; rename it")
    if are_whole(data.reshape(-1, stride)[:, flat.row_head :].tobytes()):
        raise UserError(
            f"{where}: it holds whole numbers of 32 bits, as .ivecs and .ibin have them, which would all be nearly 0; "
            "name the vectors' file, and rename it where it is gt"
        )
    return flat


def open_npy(path: Path, name: str, _: str | None) -> Rows:
    """A .npy file, mapped anew whenever it is read, so that many shards hold no files open."""
    array = open_array(path, name, bfloat16=True)
    (n, dim), is_bfloat16 = array.shape, array.dtype.kind == "V"
    if not is_bfloat16 and array.dtype.name not in READ_AS:
        raise UserError(f"{name}: {path} {refusal(array.dtype.str, name, path)}")

    def pieces(rows_at_once: int) -> Iterator[np.ndarray]:
        whole = open_array(path, name, bfloat16=True)
        mapped = whole.view(np.ndarray)
        for start in range(0, n, rows_at_once):
            check_whole(whole, name)
            rows = mapped[start : start + rows_at_once]
            yield rows.view("<u2") if is_bfloat16 else rows

    return Rows(name, path, n, dim, "bfloat16" if is_bfloat16 else array.dtype.name, pieces)


class Tensor(NamedTuple):
    """What a .safetensors file says about one tensor."""

    dtype: str
    shape: tuple[int, ...]


def open_safetensors(path: Path, name: str, column: str | None) -> Rows:
    """One two-dimensional tensor. The library checks the header and the size equation; its bytes are read flat.

    raises: UserError where it is damaged, or none or several tensors could be meant
    """
    with damaged(name, path, *PROBLEMS):
        header, begin = read_header(path)
        about = {key: stored for key, stored in header.items() if key != METADATA}
        types = {key: str(stored["dtype"]) for key, stored in about.items()}
        tensors = {key: Tensor(TENSOR_TYPES.get(types[key], types[key]), tuple(about[key]["shape"])) for key in about}
    seen = {key: f"{tensor.dtype} {tensor.shape}" for key, tensor in tensors.items()}
    fit = [key for key, (dtype, shape) in tensors.items() if dtype in READ_AS and len(shape) == 2 and 0 not in shape]
    chosen = pick(seen, fit, column, name, path, f"two-dimensional tensor of {NUMBERS}")
    dtype, (n, dim) = tensors[chosen]
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
    with damaged(name, path, *PROBLEMS):
        first, end = about[chosen]["data_offsets"]
        if end - first != n * dim * stored.itemsize:
            raise SafetensorError(f"{chosen} has {end - first} bytes, expected {n * dim * stored.itemsize}")
    return as_rows(Flat(name, path, begin + first, 0, n, dim, stored.str), dtype)
