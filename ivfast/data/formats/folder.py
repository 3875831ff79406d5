"""A folder of .npy or .parquet shards, read one after another in the natural order of their names."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.first_bytes import CONVERTED
from ivfast.data.formats.flat import Open, open_npy
from ivfast.data.formats.rows import Rows
from ivfast.data.formats.tables import open_parquet
from ivfast.data.missing import missing
from ivfast.runtime.errors import UserError

SHARDS: dict[str, Open] = {".npy": open_npy, ".parquet": open_parquet}
ASIDE = (".md", ".txt", ".log", ".json", ".yaml", ".yml")  # files about shards, which may be called as these are
PART_OF = re.compile(r"(.*?)([0-9]{1,9})([-_.]of[-_.])([0-9]{1,9})(.*)", re.IGNORECASE | re.DOTALL)
NAMED = 12  # names in a message


class Series(NamedTuple):
    """Names that differ by their number alone, and say how many there are: part-0-of-3.npy and its kin."""

    before: str
    of: str  # with the number that they say
    after: str
    n: int

    def name(self, number: int, width: int) -> str:
        """Of a number, filled up with zeros."""
        return f"{self.before}{number:0{width}}{self.of}{self.after}"


def open_folder(path: Path, name: str, column: str | None) -> Rows:
    """All shards of a folder as one; files of other suffixes and hidden ones are left out.

    raises: UserError where there are none or of both kinds, where one lacks of those that the names count, where
    vectors of another format lie beside them, or one has another dim or type than the first
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
    there = sorted((Path(entry.path) for entry in entries), key=lambda path: natural(path.name))
    found = [file for file in there if file.suffix.lower() in SHARDS]
    kinds = sorted({file.suffix.lower() for file in found if os.path.isfile(file)})
    if len(kinds) != 1:
        seen = ", ".join(sorted(file.name + "/" * os.path.isdir(file) for file in there)[:NAMED]) or "nothing"
        raise UserError(
            f"{name}: {path} is a folder that holds {seen}, expected shards that are all .npy or all .parquet "
            "(a Lance dataset ends in .lance); name the file or folder of the vectors alone"
        )
    if broken := [file for file in found if not os.path.isfile(file)]:
        raise missing({name: broken[0]})
    _refuse_left_out(found, there, name)
    _refuse_lacking(path, found, name)
    return found


def _refuse_left_out(shards: list[Path], there: list[Path], name: str) -> None:
    """raises: UserError where a file lies among shards that looks like one more of them, but is of another format"""
    stems = {shard.name.split(".")[0] for shard in shards}
    patterns = {_pattern(stem) for stem in stems}
    for file in there:
        suffix, stem = file.suffix.lower(), file.name.split(".")[0]
        is_one = stem not in stems and _pattern(stem) in patterns and suffix not in ASIDE and os.path.isfile(file)
        if suffix not in SHARDS and (suffix in CONVERTED or is_one):
            raise UserError(
                f"{name}: {file} lies among {len(shards)} shards that end in {shards[0].suffix} and would be left out, "
                f"expected shards of one format; convert it to {shards[0].suffix}, or move it elsewhere"
            )


def _pattern(stem: str) -> str:
    return re.sub("[0-9]+", "#", stem)


def _refuse_lacking(path: Path, shards: list[Path], name: str) -> None:
    """raises: UserError where names say of how many shards they are, as part-0-of-3.npy does, and one lacks"""
    series: defaultdict[Series, list[str]] = defaultdict(list)
    for shard in shards:
        if found := PART_OF.fullmatch(shard.name):
            before, number, of, n, after = found.groups()
            series[Series(before, of + n, after, int(n))].append(number)
    for one, written in series.items():
        numbers, width = {int(number) for number in written}, min(map(len, written))
        first = int(one.n in numbers and 0 not in numbers)  # counted from 1
        expected = range(first, first + one.n)
        lacking = [i for i in islice(expected, NAMED + len(numbers)) if i not in numbers][:NAMED]
        if lacking:
            names = ", ".join(one.name(i, width) for i in lacking)
            names += f" (or {one.name(one.n, width)})" if lacking == [0] else ""  # of those counted from 1
            n_there = sum(number in expected for number in numbers)
            more = f" and {one.n - n_there - NAMED:,} more" if one.n - n_there > NAMED else ""
            raise UserError(
                f"{name}: {path} lacks {names}{more}: {n_there} of the {one.n:,} shards are there that their names "
                "count; copy the others too, or rename those that are all there is"
            )


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]
