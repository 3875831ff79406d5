"""Vectors of a file of any format: how many, how long, what is stored, and blocks of them as floats, in order."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from ivfast.runtime.errors import UserError
from ivfast.runtime.packages import broken, culprit, is_wish, reason

# what is stored, and the least float type that holds all its values exactly
READ_AS = {
    "int8": "float16",
    "uint8": "float16",
    "int16": "float32",
    "uint16": "float32",
    "float16": "float16",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
}
NUMBERS = f"numbers ({', '.join(READ_AS)})"
SHOWN = 12  # names in a message
INSTALL = 'pip install "ivfast[formats]"'


@dataclass(frozen=True)
class Rows:
    """Vectors of one file or folder. Nothing is read, and no file stays open, but while blocks are asked for.

    name: what messages call it
    dtype: name of what is stored, a key of READ_AS
    pieces: gives all rows in order as they are stored, (any number, dim), in pieces of about so many rows
    """

    name: str
    path: Path
    n: int
    dim: int
    dtype: str
    pieces: Callable[[int], Iterator[np.ndarray]]

    @property
    def read_as(self) -> np.dtype:
        """The type of blocks: float16, float32 or float64."""
        return np.dtype(READ_AS[self.dtype])

    def blocks(self, rows_at_once: int) -> Iterator[np.ndarray]:
        """All rows in order, (rows_at_once, dim) of `read_as`, the last block with what is left.

        Blocks are not to be changed: they may be views of a file.

        raises: UserError on rows of unequal length, missing values, or a file that ends early
        """
        assert rows_at_once > 0
        waiting, n_waiting, n_read = [], 0, 0
        for stored in self.pieces(rows_at_once):
            piece = as_floats(stored, self.dtype)
            n_read += len(piece)
            while n_waiting + len(piece) >= rows_at_once:
                n_taken = rows_at_once - n_waiting
                taken, piece = piece[:n_taken], piece[n_taken:]
                yield np.concatenate([*waiting, taken]) if waiting else taken
                waiting, n_waiting = [], 0
            if len(piece):
                waiting.append(piece)
                n_waiting += len(piece)
        if n_read != self.n:
            raise UserError(f"{self.name}: {self.path} gave {n_read:,} rows, expected {self.n:,}; copy it anew")
        if waiting:
            yield np.concatenate(waiting)


def as_floats(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Rows as stored -> the same values in the float type of READ_AS, C order.

    stored: (n, dim) of dtype; of bfloat16 its bits as uint16
    """
    if dtype == "bfloat16":  # the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(stored, dtype=READ_AS[dtype])


def pick(seen: dict[str, str], fit: list[str], column: str | None, name: str, path: Path, what: str) -> str:
    """Which of several columns, tensors or datasets holds the vectors: the one asked for, else the only one that fits.

    seen: all that the file holds, with a few words on each; fit: those that can be vectors
    what: what they are called, in the singular
    raises: UserError where none or several could be meant, or the one that is asked for is not among them
    """
    if not fit:
        held = ", ".join(f"{key} ({about})" for key, about in list(seen.items())[:SHOWN]) or "nothing"
        raise UserError(f"{name}: {path} has no {what}, it holds {held}; save what is meant with np.save")
    choice = ", ".join(f"{key} ({seen[key]})" for key in fit[:SHOWN])
    if column is not None and column not in fit:
        held = f", it is {seen[column]}" if column in seen else ""
        raise UserError(f"{name}: {path} has no {what} called {column}{held}; choose one of {choice}")
    if column is None and len(fit) > 1:
        raise UserError(f"{name}: {path} has more than one {what}; choose by --column one of {choice}")
    return fit[0] if column is None else column


def load_package(module: str, name: str, path: Path) -> ModuleType:
    """A package of the extra `formats`, loaded where a file needs it; raises UserError where it lacks or is broken."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        raise UserError(f"{name}: {path} needs a package that is not there ({problem}); {INSTALL}") from None
    except BaseException as problem:
        if is_wish(problem):
            raise
        line = broken(culprit(problem) or module.partition(".")[0], reason(problem))
        raise UserError(f"{name}: {path} can't be read: {line}") from None


@contextmanager
def damaged(name: str, path: Path, *problems: type[Exception]) -> Iterator[None]:
    """Turn what a library raises over a file that it cannot read into one line."""
    try:
        yield
    except problems as problem:
        said = " ".join(str(problem).split())[:200]
        raise UserError(
            f"{name}: {path} cannot be read ({said or type(problem).__name__}); it is damaged or of another format "
            "than its name says: copy it anew"
        ) from None
