"""Vectors into a file of another format: streamed, complete or not at all, and only where no value is lost."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.formats import check_suffix, open_rows
from ivfast.data.formats.flat import HEADER, ROW_HEAD
from ivfast.data.formats.hdf5 import VECTORS
from ivfast.data.formats.rows import Rows, load_package
from ivfast.data.vectors import rows_per_block
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.files import check_file_name, free_space, user_path, write_beside
from ivfast.runtime.own_files import refuse_among
from ivfast.runtime.progress import Progress, silent

TENSOR = "vectors"  # the tensor or column that is written
SPARE = 1 << 16  # bytes of headers and footers at most
NAMES = {"float16": "F16", "float32": "F32", "float64": "F64"}  # what safetensors calls them


class Shape(NamedTuple):
    """Of what is written."""

    n: int
    dim: int
    dtype: np.dtype


Write = Callable[[np.ndarray], object]  # appends one block
Writer = Callable[[Path, Shape], AbstractContextManager[Write]]


class Target(NamedTuple):
    """How a format is written.

    dtype: the only type that it holds; None: any float
    row_head: bytes that a row takes beside its numbers
    """

    writer: Writer
    dtype: str | None = None
    row_head: int = 0


def convert(
    source: str | Path, target: str | Path, column: str | None = None, progress: Progress | None = None
) -> Rows:
    """Write the vectors of a file or folder into a file of the format that its suffix names; see write_rows.

    column: which column, tensor or dataset of the source, where there are several
    progress: where a bar is shown; None: nowhere
    returns: what was read
    raises: UserError where either cannot be right, RunError where the disk refuses
    """
    check_file_name(target)
    source, target = user_path(source), user_path(target)
    target_of(target)  # before a large source is opened
    rows = open_rows(source, column, "source")
    if os.path.exists(target) and os.path.samefile(source, target):
        raise UserError(f"target: {target} is the source itself; name another file")
    refuse_among(source, target.parent, name="target")
    _write(rows, target, progress)
    return rows


def write_npy(rows: Rows, path: Path, progress: Progress | None = None) -> None:
    """Write rows into one .npy file of the float type that they are read as; see write_rows."""
    if path.suffix != ".npy":
        raise UserError(f"{rows.name}: {path} is to be written as .npy; let its name end so")
    _write(rows, path, progress)


def _write(rows: Rows, path: Path, progress: Progress | None) -> None:
    blocks = rows.blocks(rows_per_block(rows.dim))
    write_rows(blocks, rows.n, rows.dim, rows.read_as, path, progress)


def write_rows(
    blocks: Iterable[np.ndarray], n: int, dim: int, dtype: np.dtype, path: Path, progress: Progress | None = None
) -> None:
    """Write blocks of rows one after another into a file of the format that its suffix names.

    blocks: (any number, dim) of dtype, n rows in all
    dtype: float16, float32 or float64; kept by .npy, .parquet, .hdf5 and .safetensors
    raises: UserError where the format can't hold a value (rounding float64 to float32 is no loss) or other than n rows
    come, RunError where the disk has no room
    """
    target = target_of(path)
    shape = Shape(n, dim, np.dtype(target.dtype or dtype))
    n_bytes = n * (target.row_head + dim * shape.dtype.itemsize) + SPARE
    _check_room(path, n_bytes)

    def write(beside: Path) -> None:
        with target.writer(beside, shape) as append, (progress or silent()).bar(f"writing {path.name}", n) as bar:
            for first, block in _counted(blocks, n, path):
                append(_exactly(block, shape.dtype, path, first))
                bar.advance(len(block))

    write_beside(path, write, n_bytes)


def _counted(blocks: Iterable[np.ndarray], n: int, path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks, each with the number of its first row; raises UserError where they hold other than n rows."""
    done = 0
    for block in blocks:
        if done + len(block) > n:
            raise UserError(f"target: {path}: more rows came than the {n:,} that were announced; announce them all")
        yield done, block
        done += len(block)
    if done < n:
        raise UserError(f"target: {path}: {done:,} rows came of the {n:,} that were announced; give them all")


def target_of(path: Path) -> Target:
    """How a path's format is written; raises UserError where its suffix is none that is written."""
    return TARGETS[check_suffix(path, "target", TARGETS)]


def _check_room(path: Path, n_bytes: int) -> None:
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = free_space(folder)
    if free is not None and free < n_bytes:
        raise RunError(f"{path}: {n_bytes:,} bytes are needed, {free:,} are free; free some, or write elsewhere")


def _exactly(block: np.ndarray, dtype: np.dtype, path: Path, first: int) -> np.ndarray:
    """A block in another type; raises UserError where that has no such value."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = block.astype(dtype, copy=False)
        # to integers: NaN, fractions and what is out of range; to floats: what overflows
        lost = found != block if dtype.kind in "iu" else np.isinf(found) & np.isfinite(block)
    if lost.any():
        row = int(np.argmax(lost.any(axis=1)))
        value = block[row][lost[row]][0]
        raise UserError(
            f"target: {path} holds {dtype}, which has no {value} (row {first + row} of the source); write a .npy, "
            ".parquet, .hdf5 or .safetensors file, which keep the source's type"
        )
    return found


@contextmanager
def _flat(path: Path, shape: Shape, *, head: Callable[[Shape], bytes], row_head: bool = False) -> Iterator[Write]:
    """Rows after each other, in little endian."""
    before = np.frombuffer(shape.dim.to_bytes(ROW_HEAD, "little") if row_head else b"", np.uint8)

    def append(block: np.ndarray) -> None:
        data = np.ascontiguousarray(block, dtype=shape.dtype.newbyteorder("<")).view(np.uint8)
        if row_head:
            data = np.hstack([np.broadcast_to(before, (len(data), ROW_HEAD)), data])
        file.write(data.data)

    with path.open("wb") as file:
        file.write(head(shape))
        yield append


def _no_head(_: Shape) -> bytes:
    return b""


def _sizes(shape: Shape) -> bytes:
    if shape.n >> 32:
        raise UserError(f"target: .fbin and its kin count rows in 32 bits, the source has {shape.n:,}; write .npy")
    return shape.n.to_bytes(HEADER // 2, "little") + shape.dim.to_bytes(HEADER // 2, "little")


def _npy_head(shape: Shape) -> bytes:
    file = io.BytesIO()
    header = {"descr": shape.dtype.newbyteorder("<").str, "fortran_order": False, "shape": (shape.n, shape.dim)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _tensor_head(shape: Shape) -> bytes:
    n_bytes = shape.n * shape.dim * shape.dtype.itemsize
    tensor = {"dtype": NAMES[shape.dtype.name], "shape": [shape.n, shape.dim], "data_offsets": [0, n_bytes]}
    text = json.dumps({TENSOR: tensor}).encode()
    text += b" " * (-len(text) % 8)  # so that data is aligned
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _hdf5(path: Path, shape: Shape) -> Iterator[Write]:
    h5py = load_package("h5py", "target", path)
    done = 0

    def append(block: np.ndarray) -> None:
        nonlocal done
        dataset[done : done + len(block)] = block
        done += len(block)

    try:
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset(VECTORS, (shape.n, shape.dim), shape.dtype)
            yield append
    except RuntimeError as problem:  # what h5py says of a disk that fills up as it closes the file
        raise OSError(" ".join(str(problem).split())[:200]) from None


@contextmanager
def _parquet(path: Path, shape: Shape) -> Iterator[Write]:
    pa, pq = (load_package(module, "target", path) for module in ("pyarrow", "pyarrow.parquet"))
    lists = pa.list_(pa.from_numpy_dtype(shape.dtype), shape.dim)

    def append(block: np.ndarray) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=lists)
        file.write_batch(pa.record_batch([column], names=[TENSOR]))

    with pq.ParquetWriter(path, pa.schema([(TENSOR, lists)])) as file:
        yield append


TARGETS: dict[str, Target] = {
    ".npy": Target(partial(_flat, head=_npy_head)),
    ".fvecs": Target(partial(_flat, head=_no_head, row_head=True), "float32", ROW_HEAD),
    ".bvecs": Target(partial(_flat, head=_no_head, row_head=True), "uint8", ROW_HEAD),
    ".fbin": Target(partial(_flat, head=_sizes), "float32"),
    ".u8bin": Target(partial(_flat, head=_sizes), "uint8"),
    ".i8bin": Target(partial(_flat, head=_sizes), "int8"),
    ".parquet": Target(_parquet),
    ".hdf5": Target(_hdf5),
    ".h5": Target(_hdf5),
    ".safetensors": Target(partial(_flat, head=_tensor_head)),
}
