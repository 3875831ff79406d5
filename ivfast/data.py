"""The four arrays of a run: opened by memory map, checked, read as float32 rows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.errors import UserError
from ivfast.progress import Progress

BLOCK_BYTES = 64 << 20  # read at once: 64 MiB, far under what any machine has
UNIT_TOLERANCE = 1e-3  # a row this close to unit norm counts as unit norm under IP
FLOATS = ("float16", "float32", "float64")


class Space(NamedTuple):
    """How stored rows become the x of all formulas: x = (row - mean) / scale in float32.

    Under L2 mean and scale are learn's, so that every product is of centered vectors of
    about unit size, whatever the unit of the file. Under IP rows stay as they are.
    """

    metric: str
    mean: np.ndarray  # (dim,) float32; zeros under IP
    scale: np.float32  # root mean square of the centered rows, per dimension; 1 under IP

    def inside(self, rows: np.ndarray) -> np.ndarray:
        """Rows as stored, (n, dim) any float -> x, (n, dim) float32."""
        x = np.ascontiguousarray(rows, dtype=np.float32)
        if self.metric == "L2":
            return (x - self.mean) / self.scale
        norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
        near = np.abs(norms - 1) <= UNIT_TOLERANCE
        return np.where(near, x / np.where(near, norms, 1), x)

    def outside(self, x: np.ndarray) -> np.ndarray:
        """x, (n, dim) float32 -> rows as a user stores them."""
        return x if self.metric == "IP" else x * self.scale + self.mean


@dataclass(frozen=True)
class Vectors:
    """Rows of one .npy file.

    name: what messages call it; digest: hash of all its bytes, empty before `scan`
    """

    name: str
    path: Path
    rows: np.ndarray  # (n, dim) memory map
    digest: str = ""

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def dim(self) -> int:
        """Entries of a row."""
        return self.rows.shape[1]

    def take(self, space: Space, index: np.ndarray | slice) -> np.ndarray:
        """The rows at `index` as x, (len(index), dim) float32."""
        return space.inside(self.rows[index])


def open_array(path: Path, name: str) -> np.ndarray:
    """Memory-map one two-dimensional .npy file.

    raises: UserError where it is absent, not such a file, or not two-dimensional
    """
    if not path.is_file():
        raise UserError(f"{name}: {path} is missing; {_what_is_there(path.parent)}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as problem:
        raise UserError(f"{name}: {path} is no readable .npy array ({problem}); save it with np.save") from None
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{name}: {path} has shape {array.shape}, expected (rows, columns), both above 0")
    return array


def open_vectors(path: Path, name: str, dim: int | None) -> Vectors:
    """Memory-map vectors.

    dim: entries each row must have; None: any
    raises: UserError on a wrong shape or a type that is not floating
    """
    rows = open_array(path, name)
    if rows.dtype.name not in FLOATS:
        raise UserError(f"{name}: {path} holds {rows.dtype}, expected float32; save it with .astype('float32')")
    if dim is not None and rows.shape[1] != dim:
        raise UserError(
            f"{name}: {path} has {rows.shape[1]} columns, expected {dim} "
            "(the first number of --param_list, and the same in learn, base, query and centers)"
        )
    return Vectors(name, path, rows)


def scan(vectors: Vectors, metric: str, progress: Progress) -> Vectors:
    """One pass over all rows: hash them, and refuse what would spoil a run.

    returns: the vectors with their digest
    raises: UserError on NaN, infinity, or (under IP) rows without unit norm
    """
    digest = hashlib.blake2b(f"{vectors.rows.shape} {vectors.rows.dtype.str}".encode(), digest_size=16)
    step = rows_per_block(vectors.dim)
    with progress.bar(f"checking {vectors.name}", len(vectors)) as bar:
        for start in range(0, len(vectors), step):
            block = np.ascontiguousarray(vectors.rows[start : start + step])
            digest.update(block.data)
            _check_rows(vectors, block, start, metric)
            bar.advance(len(block))
    return Vectors(vectors.name, vectors.path, vectors.rows, digest.hexdigest())


def _check_rows(vectors: Vectors, block: np.ndarray, start: int, metric: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        x = block.astype(np.float32)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise UserError(
            f"{vectors.name}: {vectors.path} row {first} holds NaN, infinity or a value beyond float32; "
            "remove or mend such rows"
        )
    if metric == "IP":
        norms = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1))
        off = np.abs(norms - 1) > UNIT_TOLERANCE
        if off.any():
            first = int(np.argmax(off))
            raise UserError(
                f"{vectors.name}: {vectors.path} row {start + first} has norm {norms[first]:.4g}, expected 1 under "
                "--metric IP; run faiss.normalize_L2 before np.save, or use --metric L2"
            )


def rows_per_block(dim: int) -> int:
    """Rows of `dim` float32 entries that make up one block."""
    return max(1, BLOCK_BYTES // (4 * dim))


def measure_space(vectors: Vectors, metric: str) -> Space:
    """Mean and one scale of all rows, accumulated in float64 (see Space).

    raises: UserError under L2 where all rows are equal
    """
    if metric == "IP":
        return Space("IP", np.zeros(vectors.dim, np.float32), np.float32(1))
    mean, scale = moments(vectors, None)
    if not scale > 0:
        raise UserError(f"{vectors.name}: all rows of {vectors.path} are equal; there is nothing to cluster")
    return Space("L2", mean, scale)


def moments(vectors: Vectors, space: Space | None) -> tuple[np.ndarray, np.float32]:
    """Mean vector and root mean square deviation per dimension.

    space: where to measure; None: rows as stored
    returns: (dim,) float32 and one float32, accumulated in float64 over two passes
    """
    step = rows_per_block(vectors.dim)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(vectors), step):
            rows = vectors.rows[start : start + step]
            yield np.asarray(rows if space is None else space.inside(rows), dtype=np.float64)

    mean = np.zeros(vectors.dim)
    for block in blocks():
        mean += block.sum(axis=0)
    mean /= len(vectors)
    square = sum(float(np.square(block - mean).sum()) for block in blocks())
    return mean.astype(np.float32), np.float32(np.sqrt(square / (len(vectors) * vectors.dim)))


class EvaluationSet(NamedTuple):
    """base, query and gt of one data set."""

    name: str
    gt_path: Path
    base: Vectors
    query: Vectors
    gt: np.ndarray  # (n_query, width) integer memory map


def learn_path(data_path: Path, learn_name: str) -> Path:
    """Where learn lies."""
    return data_path / f"{learn_name}.npy"


def open_evaluation_set(data_path: Path, data_name: str, dim: int | None) -> EvaluationSet:
    """Memory-map the three documented arrays of one data set.

    raises: UserError on shapes, types and offsets that do not fit each other
    """
    folder = data_path / data_name
    base = open_vectors(folder / "base.npy", "base", dim)
    query = open_vectors(folder / "query.npy", "query", base.dim)
    gt_path = folder / "gt.npy"
    gt = open_array(gt_path, "gt")
    if gt.dtype.kind not in "iu":
        raise UserError(f"gt: {gt_path} holds {gt.dtype}, expected int64 offsets into base")
    if gt.shape[0] != len(query):
        raise UserError(f"gt: {gt_path} has {gt.shape[0]} rows, expected {len(query)} (one per query)")
    low, high = int(gt.min()), int(gt.max())
    if low < -1 or high >= len(base):
        raise UserError(
            f"gt: {gt_path} holds offsets {low} to {high}, expected 0 to {len(base) - 1} (rows of base), or -1 for none"
        )
    if not (np.asarray(gt[:, :10]) >= 0).any():
        raise UserError(f"gt: {gt_path} names no right answer in its first 10 columns")
    return EvaluationSet(data_name, gt_path, base, query, gt)


def _what_is_there(folder: Path) -> str:
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    return f"{folder} holds {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}"
