"""What every task is given, and the files that it leaves for the next ones."""

import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ivfast.index.growth import Index
from ivfast.index.load import load, load_index
from ivfast.index.model import TrainedModel
from ivfast.runtime.files import write_beside
from ivfast.spread.asking import Looks
from ivfast.spread.sources import BLOCK, Numbered, digest_of

PARTS = "parts"  # folder of what tasks leave
RULES = 2  # raised where tasks compute something else: what earlier versions left is done again
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
    del digest  # another one is read anew
    return load_index(folder)


@lru_cache(maxsize=1)
def _model_of(folder: str, digest: str) -> TrainedModel:
    del digest
    return load(folder, None)


def piece_rows(dim: int, copies: float, n_bytes: int = PIECE_BYTES) -> int:
    """Rows of a piece: a multiple of BLOCK whose lists take about so many bytes."""
    return BLOCK * max(1, int(n_bytes // (BLOCK * (1 + copies) * (4 * dim + 8))))


def leave(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside and rename it. Two hosts may do so at once, where one was thought lost."""
    write_beside(path, write, what=f".{uuid.uuid4().hex[:8]}")
