"""The four arrays of a run: opened by memory map, checked, read as float32 rows."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.ground_truth import check_gt
from ivfast.data.middle import FAR, middle_of, sampled
from ivfast.data.missing import missing
from ivfast.data.npy import called, check_whole, map_of, open_array
from ivfast.data.space import Space
from ivfast.data.wrong_types import refusal
from ivfast.runtime.errors import UserError

BLOCK_BYTES = 64 << 20  # what is read at once: far under the memory of any machine
FLOATS = ("float16", "float32", "float64")
WHOLE = ("uint8", "int8", "uint16", "int16")  # which float32 holds exactly
COARSE = 2  # times the scale: float32's steps, where centers would be told apart no more
LARGEST = 1e37  # of learn's numbers under L2: above, centers and their sums are no longer float32
ALIKE = float(np.sqrt(np.finfo(np.float32).eps))  # of unit rows: where all their inner products are 1 in float32
LOST = 1e-3  # of the scale: where float32 rounds rows by more, those of float64 are centered in float64


@dataclass(frozen=True)
class Vectors:
    """Rows of one .npy file, as they are stored.

    name: what messages call it
    digest: hash of all its bytes and of what cleaning changed; empty before `scan`
    """

    name: str
    path: Path
    rows: np.ndarray  # (rows of the file, dim) memory map; read through `raw` alone
    digest: str = ""
    rows_kept: np.ndarray | None = None  # (n,) int64, rows of the file that count, ascending; None: all
    normalize: bool = False
    far: np.ndarray | None = None  # (m,) rows of the file that lie far (see ivfast.data.far), ascending; None: none
    was_read: bool = False  # into memory, since its file can't be mapped

    def __len__(self) -> int:
        return self.rows.shape[0] if self.rows_kept is None else len(self.rows_kept)

    @property
    def dim(self) -> int:
        """Entries of a row."""
        return self.rows.shape[1]

    def raw(self, index: np.ndarray | slice) -> np.ndarray:
        """The rows at `index` as stored, (len(index), dim) in C order; normalised where that is asked for.

        raises: RunError where the file was cut short
        """
        check_whole(self.rows, self.name)
        rows = np.ascontiguousarray(self.rows[index if self.rows_kept is None else self.rows_kept[index]])
        return unit_rows(rows) if self.normalize else rows

    def only(self, index: np.ndarray) -> "Vectors":
        """The same file, but of its rows that count those at `index` alone."""
        return replace(self, rows_kept=index if self.rows_kept is None else self.rows_kept[index])


@dataclass(frozen=True)
class Points:
    """Vectors together with the coordinates in which all formulas see them.

    mapped: (n, dim) float32, x of all of them, where it was written down (see ivfast.data.mapped)
    """

    vectors: Vectors
    space: Space
    mapped: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Coordinates of a point."""
        return self.vectors.dim

    @property
    def metric(self) -> str:
        """IP or L2."""
        return self.space.metric

    def x(self, index: np.ndarray | slice) -> np.ndarray:
        """The points at `index`, (len(index), dim) float32, not to be changed: a slice may be a view of a file.

        raises: RunError where the file was cut short
        """
        if self.mapped is None:
            return self.space.inside(self.vectors.raw(index))
        check_whole(self.mapped, self.vectors.name)
        return self.mapped[index]

    def only(self, index: np.ndarray) -> "Points":
        """Those at `index` alone, read from their own file."""
        return replace(self, vectors=self.vectors.only(index), mapped=None)


def unit_rows(rows: np.ndarray, block_bytes: int = BLOCK_BYTES) -> np.ndarray:
    """Rows over their norms, in float64 and block by block. Zeros stay zeros, infinity becomes NaN.

    rows: (n, dim) any float; returns (n, dim) float32
    """
    unit = np.empty(rows.shape, dtype=np.float32)
    step = rows_per_block(rows.shape[1], block_bytes)
    for start in range(0, len(rows), step):
        x = rows[start : start + step].astype(np.float64)
        with np.errstate(invalid="ignore"):
            # by a power of two first, which is exact, so that no square overflows or vanishes
            x = np.ldexp(x, -np.frexp(np.abs(x).max(axis=1, keepdims=True))[1])
            norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
            unit[start : start + step] = x / np.where(norms > 0, norms, 1)
    return unit


def open_vectors(path: Path, name: str, dim: int | None) -> Vectors:
    """Memory-map vectors.

    dim: entries each row must have; None: any
    raises: UserError on a wrong shape or a type that is not floating
    """
    rows = open_array(path, name)
    if rows.dtype.name not in FLOATS:
        raise UserError(f"{name}: {path} {refusal(rows.dtype.str, name, path)}")
    if dim is not None and rows.shape[1] != dim:
        raise UserError(
            f"{name}: {path} has {rows.shape[1]} columns, expected {dim} "
            "(the first number of --param_list, and the same in learn, base, query and --ai_center); "
            "correct that flag or name other files"
        )
    return Vectors(name, path, rows, was_read=map_of(rows) is None)


def rows_per_block(dim: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Rows of `dim` float32 entries that make up one block of so many bytes."""
    return max(1, block_bytes // (4 * dim))


def measure_space(vectors: Vectors, metric: str) -> Space:
    """Mean and one scale of all rows, accumulated in float64 (see Space).

    raises: UserError where all rows are equal (L2 alone), are too large, or float32 can't tell centers among them apart
    """
    if metric == "IP":
        if 0 < (differ := unit_spread(vectors)) < ALIKE:
            raise UserError(
                f"{vectors.name}: {vectors.path} has rows that differ by {differ:.1g} of their norm, expected "
                f"{ALIKE:.1g} or more under --metric IP, since float32 makes all their inner products equal; "
                "subtract learn's mean from learn, base and query in float64 before they are divided by their norms"
            )
        return Space("IP", np.zeros(vectors.dim, np.float32), np.float32(1))
    mean, root = _wide_moments(vectors.raw, len(vectors), vectors.dim)
    where = f"{vectors.name}: {vectors.path}"
    if not root > 0:
        raise UserError(f"{vectors.name}: all rows of {vectors.path} are equal; there is nothing to cluster")
    if (size := max(root, float(np.abs(mean).max()))) > LARGEST:
        raise UserError(
            f"{where} has numbers of about {size:.1g}, expected at most {LARGEST:.0e}, since centers are float32; "
            "multiply learn, base and query by one number"
        )
    if root < np.finfo(np.float32).tiny:
        raise UserError(
            f"{where} has rows that differ by {root:.1g}, expected 1e-37 or more, since centers are float32; multiply "
            "learn, base and query by one number in float64"
        )
    narrow, scale = mean.astype(np.float32), np.float32(root)
    if vectors.rows.dtype.itemsize < 8:
        return Space("L2", narrow, scale)
    rounded = _rounded_by(vectors, mean, root)
    if rounded > COARSE * root:
        raise UserError(
            f"{where} has rows that differ by {root:.3g}, while float32, as centers are stored, rounds them by "
            f"{rounded:.3g}; expected less: subtract learn's mean from learn, base and query in float64"
        )
    return Space("L2", mean if rounded > LOST * root else narrow, scale)


def unit_spread(vectors: Vectors) -> float:
    """How far rows of about unit norm lie from their mean, as the root mean square of a sample."""
    rows = vectors.raw(sampled(len(vectors), vectors.dim)).astype(np.float64)
    rows -= rows[0]  # so that equal rows differ by 0
    return float(np.sqrt(np.square(rows - rows.mean(axis=0)).sum(axis=1).mean()))


def _rounded_by(vectors: Vectors, mean: np.ndarray, scale: float) -> float:
    """Root mean square of float32's steps at the mean, over the columns that matter: those that vary."""
    rows = vectors.raw(sampled(len(vectors), vectors.dim))
    varies = (rows.astype(np.float64) - mean).std(axis=0) > LOST * scale
    steps = np.where(varies, np.spacing(np.abs(mean).astype(np.float32)).astype(np.float64), 0)
    return float(np.sqrt(np.square(steps).mean()))


def space_of(rows: np.ndarray, metric: str) -> Space:
    """Where distances to a few rows, (n, dim) any float, keep their digits; in float64 (see Space)."""
    if metric == "IP":
        return Space("IP", np.zeros(rows.shape[1], np.float32), np.float32(1))
    wide = rows.astype(np.float64)
    wide = wide[middle_of(wide).times(wide) <= FAR]
    mean = wide.mean(axis=0)
    return Space("L2", mean.astype(np.float32), np.float32(np.sqrt(np.square(wide - mean).mean()) or 1))


def moments(
    read: Callable[[slice], np.ndarray], n: int, dim: int, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.float32]:
    """Mean vector and root mean square deviation per dimension.

    read: gives rows, (rows, dim) any float: `Vectors.raw` as stored, `Points.x` as formulas see them
    returns: (dim,) float32 and one float32, accumulated in float64 over two passes
    """
    mean, root = _wide_moments(read, n, dim, block_bytes)
    return mean.astype(np.float32), np.float32(root)


def _wide_moments(
    read: Callable[[slice], np.ndarray], n: int, dim: int, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, float]:
    step = rows_per_block(dim, block_bytes)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, n, step):
            yield np.asarray(read(slice(start, start + step)), dtype=np.float64)

    mean = np.zeros(dim)
    for block in blocks():
        mean += block.sum(axis=0)
    mean /= n
    square = sum(float(np.square(block - mean).sum()) for block in blocks())
    return mean, float(np.sqrt(square / (n * dim)))


def float_rows(vectors: np.ndarray, name: str, dim: int | None = None) -> np.ndarray:
    """Vectors that a caller hands over, as floats: integers that float32 holds exactly are taken as such.

    dim: entries each row must have; None: any
    returns: (n, dim) floats
    raises: UserError on another shape or type
    """
    rows = np.asarray(vectors)
    known = rows.dtype.name in (*FLOATS, *WHOLE)
    if known and rows.ndim == 2 and len(rows) and dim not in (None, rows.shape[1]):
        raise UserError(
            f"{called(name, rows)}: found rows of {rows.shape[1]} columns, expected {dim}, as base and centers have; "
            "hand over vectors of that length"
        )
    if not known or rows.ndim != 2 or 0 in rows.shape:
        raise UserError(
            f"{called(name, rows)}: found {rows.dtype} of shape {rows.shape}, expected floats, (n, {dim or 'dim'}) "
            "with n above 0, or 8- and 16-bit integers; convert them with .astype('float32'), or hand over vectors of "
            "that shape"
        )
    return rows.astype(np.float32) if rows.dtype.name in WHOLE else rows


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
    paths = {name: data_path / data_name / f"{name}.npy" for name in ("base", "query", "gt")}
    if absent := {name: path for name, path in paths.items() if not os.path.isfile(path)}:
        raise missing(absent)
    base = open_vectors(paths["base"], "base", dim)
    query = open_vectors(paths["query"], "query", base.dim)
    gt = open_array(paths["gt"], "gt")
    check_gt(gt, paths["gt"], len(query), len(base))
    return EvaluationSet(data_name, paths["gt"], base, query, gt)
