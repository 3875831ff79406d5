"""A folder of .npy or .parquet shards, read one after another in the natural order of their names."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ivfast.data.formats.flat import Open, open_npy
from ivfast.data.formats.rows import Rows
from ivfast.data.formats.tables import open_parquet
from ivfast.runtime.errors import UserError

SHARDS: dict[str, Open] = {".npy": open_npy, ".parquet": open_parquet}


def open_folder(path: Path, name: str, column: str | None) -> Rows:
    """All shards of a folder as one; files of other suffixes and hidden ones are left out.

    raises: UserError where there are none or of both kinds, or one has another dim or type than the first
    """
    shards = [SHARDS[shard.suffix.lower()](shard, name, column) for shard in shards_of(path, name)]
    first = shards[0]
    for shard in shards:
        if (shard.dim, shard.dtype) != (first.dim, first.dtype):
            raise UserError(
                f"{name}: {shard.path} holds {shard.dim} columns of {shard.dtype}, expected {first.dim} of "
                f"{first.dtype} as in {first.path.name}; convert or remove it"
            )

    def pieces(rows_at_once: int) -> Iterator[np.ndarray]:
        for shard in shards:
            yield from shard.pieces(rows_at_once)

    return Rows(name, path, sum(shard.n for shard in shards), first.dim, first.dtype, pieces)


def shards_of(path: Path, name: str) -> list[Path]:
    """The shards of a folder in natural order: part-2 before part-10."""
    try:
        entries = [entry for entry in os.scandir(path) if entry.name[0] != "."]
    except OSError as problem:
        raise UserError(f"{name}: {path} cannot be listed ({problem.strerror}); check its permissions") from None
    files = [Path(entry.path) for entry in entries if os.path.isfile(entry.path)]
    found = [file for file in files if file.suffix.lower() in SHARDS]
    kinds = sorted({file.suffix.lower() for file in found})
    if len(kinds) != 1:
        seen = ", ".join(sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in entries)[:12]) or "nothing"
        raise UserError(
            f"{name}: {path} is a folder that holds {seen}, expected shards that are all .npy or all .parquet "
            "(a Lance dataset ends in .lance); name the file or folder of the vectors alone"
        )
    return sorted(found, key=lambda file: natural(file.name))


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]
