"""The first pass over a file: buckets of each vector and what each is worth, kept beside a histogram of the copies."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError

from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.files import write_tensors
from ivfast.runtime.tensors import read_tensors
from ivfast.spread.asking import rank_block
from ivfast.spread.border import count_lower, count_ties, count_upper
from ivfast.spread.given import Given, leave
from ivfast.spread.sources import BLOCK, Numbered, Source, blocks_of, count_rows, is_watched, opened, stamp_of
from ivfast.store.place import BINS


class Counted(NamedTuple):
    """What the header of a file says."""

    stamp: str
    n: int
    watched: bool  # whether another stamp tells that it was changed


class Ranked(NamedTuple):
    """What the first pass says of a file."""

    histogram: np.ndarray  # (BINS,) int64, of `count_upper`
    computed: int  # rows that were not ranked before


def count(given: Given, source: Source) -> Counted:
    """How many rows a file promises."""
    return Counted(stamp_of(source), count_rows(source, given.column), is_watched(source))


def rank(given: Given, file: Numbered) -> Ranked:
    """Rank the vectors of a file, and keep it piece by piece."""
    paths = [rank_path(given, file, piece) for piece in range(len(given.pieces(file)))]
    lacking = [piece for piece, path in enumerate(paths) if not path.is_file()]
    if lacking:
        _rank(given, file, paths, lacking[0])
    histogram = np.zeros(BINS, dtype=np.int64)
    for path in paths:
        histogram += read_part(path, "histogram")[0]
    n = sum(piece.stop - piece.start for number, piece in enumerate(given.pieces(file)) if number in lacking)
    return Ranked(histogram, n)


def _rank(given: Given, file: Numbered, paths: list[Path], begin: int) -> None:
    """Rank the pieces from one on."""
    pieces, found, number = given.pieces(file), [], begin
    for start, rows in rows_of(given, file, pieces[begin].start):
        found.append(rank_block(given.asking, given.looks, rows, file.first + start, given.copies))
        if start + len(rows) == pieces[number].stop:
            buckets, keys = (np.concatenate(parts) for parts in zip(*found, strict=True))
            if not paths[number].is_file():
                keep_ranks(paths[number], buckets, keys)
            found, number = [], number + 1


def keep_ranks(path: Path, buckets: np.ndarray, keys: np.ndarray) -> None:
    """Write what the first pass says of a piece."""
    arrays = {"buckets": buckets, "keys": keys, "histogram": count_upper(buckets, keys)}
    whole = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    leave(path, lambda beside: write_tensors(beside, whole))


def rank_path(given: Given, file: Numbered, piece: int) -> Path:
    """Where that is kept. Of the file's place among the others it goes by where its rows lie within tiles alone."""
    rows = given.pieces(file)[piece]
    return given.part("ranks", ".safetensors", file.stamp, file.first % BLOCK, rows.start, rows.stop)


def read_part(path: Path, *names: str) -> list[np.ndarray]:
    """Some of the arrays that a task left; raises RunError where something has damaged them."""
    try:
        arrays, _ = read_tensors(path)
        return [arrays[name] for name in names]
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise RunError(f"{path} is damaged ({said}); remove it, and give the same command again") from None


def ranks_of(given: Given, file: Numbered) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Buckets and keys of a file, piece by piece."""
    for piece in range(len(given.pieces(file))):
        buckets, keys = read_part(rank_path(given, file, piece), "buckets", "keys")
        yield buckets, keys


def rows_of(given: Given, file: Numbered, begin: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """The blocks of a file from a row on, checked and as an index stores them: number of the first row, (n, dim).

    raises: UserError where a row can't be stored, or the file holds other than its header says
    """
    model = given.model
    if stamp_of(file.source) != file.stamp:
        raise RunError(
            f"base: {file.source} was changed while it was stored; leave it alone, and give the same command"
        )
    if not file.n:  # its format may know no file of nothing
        return
    with opened(file.source, given.column) as rows:
        if (rows.n, rows.dim) != (file.n, model.dim):
            raise UserError(
                f"base: {file.source} holds {rows.n:,} rows of {rows.dim} numbers, expected {file.n:,} of {model.dim}; "
                "name files of vectors like those that trained, and leave them alone until the run has ended"
            )
        for start, block in blocks_of(rows, file.first):
            if start >= begin:
                yield start, model.as_stored(block, f"base: {file.source}", start)


class Within(NamedTuple):
    """A file, and the upper bits of the border's key."""

    file: Numbered
    upper: int


class AtKey(NamedTuple):
    """A file, and the border's key."""

    file: Numbered
    key: int


def lower(given: Given, item: Within) -> np.ndarray:
    """Copies within the border's bin, (BINS,) int64."""
    return sum((count_lower(*ranks, item.upper) for ranks in ranks_of(given, item.file)), np.zeros(BINS, np.int64))


def ties(given: Given, item: AtKey) -> int:
    """Copies with the border's key."""
    return sum(count_ties(*ranks, item.key) for ranks in ranks_of(given, item.file))
