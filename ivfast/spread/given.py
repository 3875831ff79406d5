"""What every task is given, and the files that it leaves for the next ones."""

import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ivfast.index.files import BESIDE_NAME, read_index
from ivfast.index.growth import Index
from ivfast.index.load import load, put_together
from ivfast.index.model import TrainedModel
from ivfast.runtime.errors import RunError
from ivfast.runtime.files import file_hash, write_beside
from ivfast.spread.asking import Looks
from ivfast.spread.sources import BLOCK, Numbered, digest_of

PARTS = "parts"  # folder of what tasks leave
RULES = 3  # raised where tasks compute something else: what earlier versions left is done again
PIECE_BYTES = 1 << 30  # of lists that a task holds in memory at once


class Given(NamedTuple):
    """What every task is given. Under Ray its arrays lie once in the memory of each host."""

    fit: str  # folder of the model and of the index that tells who asks
    digest: str  # of both
    out: str  # folder of the index that is made
    column: str | None
    copies: float
    kind: str
    looks: Looks
    piece: int  # rows that are ranked and stored at once, a multiple of BLOCK

    @property
    def asking(self) -> Index:
        """The index that tells who asks, read once in a process."""
        return _index_of(self.fit, self.digest)

    @property
    def model(self) -> TrainedModel:
        """The same, of the model alone."""
        return _model_of(self.fit, self.digest)

    def part(self, what: str, suffix: str, *facts: object) -> Path:
        """Where a task leaves what it computed of some facts: whoever finds it there need not compute it again."""
        return (
            Path(self.out) / PARTS / f"{what}-{digest_of(RULES, self.digest, self.copies, self.column, *facts)}{suffix}"
        )

    def pieces(self, file: Numbered) -> list[slice]:
        """The rows of a file in pieces that end where blocks do; none of a file of nothing."""
        if not file.n:
            return []
        ends = range(self.piece - file.first % BLOCK, file.n, self.piece)
        return [slice(start, end) for start, end in zip([0, *ends], [*ends, file.n], strict=True)]


@lru_cache(maxsize=1)
def _index_of(folder: str, digest: str) -> Index:
    found = put_together(load(folder, None), read_index(Path(folder), mapped=True))
    _refuse_other(folder, digest)
    return found


@lru_cache(maxsize=1)
def _model_of(folder: str, digest: str) -> TrainedModel:
    found = load(folder, None)
    _refuse_other(folder, digest)
    return found


def fit_digest(folder: Path) -> str:
    """What changes when a model or its index does: each of two files names the hash of its neighbour."""
    paths = [folder / name for name in ("dcnet.safetensors", BESIDE_NAME)]
    return digest_of(*(file_hash(path) for path in paths if path.is_file()))


def _refuse_other(folder: str, digest: str) -> None:
    """raises: RunError where a fit, as it has just been read, is another one than the work began with"""
    if fit_digest(Path(folder)) != digest:
        raise RunError(f"{folder}: the fit was changed while it was in use; leave it alone, and give the same command")


def piece_rows(dim: int, copies: float, n_bytes: int = PIECE_BYTES) -> int:
    """Rows of a piece: a multiple of BLOCK whose lists take about so many bytes."""
    return BLOCK * max(1, int(n_bytes // (BLOCK * (1 + copies) * (4 * dim + 8))))


def leave(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside and rename it. Two hosts may do so at once, where one was thought lost."""
    write_beside(path, write, what=f".{uuid.uuid4().hex[:8]}")
