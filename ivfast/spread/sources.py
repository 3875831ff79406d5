"""The files of a base, in order: which they are, how many rows each has, and what tells one content from another."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivfast.data.formats import LANCE, open_rows
from ivfast.data.formats.folder import natural, shards_of
from ivfast.data.formats.rows import Rows, damaged, load_package
from ivfast.data.formats.tables import PROBLEMS, Fragment, open_lance
from ivfast.data.missing import missing
from ivfast.data.npy import promised_shape
from ivfast.route.routers import TILE
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import temporary_folder, user_path

BLOCK = 16 * TILE  # rows that are looked at at once
HEAD = 16_384  # bytes of a .npy file that hold its header
PARQUET = ".parquet"
LOCAL, HTTP = "file://", ("http://", "https://")
MARKS = ("ETag", "Last-Modified", "Content-MD5", "Digest")  # what a server may say of a file's content


class Source(NamedTuple):
    """A file, or a fragment of a Lance dataset."""

    where: str  # a path or a URL
    fragment: Fragment | None = None

    def __str__(self) -> str:
        return self.where if self.fragment is None else f"{self.where} fragment {self.fragment.number}"

    @property
    def is_url(self) -> bool:
        """Whether it is read through fsspec, or by Lance itself."""
        return "://" in self.where


class Numbered(NamedTuple):
    """A file whose place among the others is known."""

    source: Source
    stamp: str  # another one where the file holds something else
    first: int  # id of its first row
    n: int  # rows


def expanded(words: Sequence[str]) -> list[str]:
    """The same words, where a pattern that the shell has left as it is (`'parts/*.npy'`) names files in natural order.

    A file of that very name is meant first. URLs, and what names nothing, stay as they are.
    """
    found: list[str] = []
    for word in words:
        path = str(user_path(word))
        is_pattern = "://" not in word and re.search(r"[*?[]", word) and not os.path.lexists(path)
        found += (is_pattern and sorted(glob(path), key=natural)) or [word]
    return found


def find_sources(words: Sequence[str]) -> list[Source]:
    """The files that words name, in their order. Ids count through them.

    words: files, folders of shards, Lance datasets, and URLs of files, with * where several are meant
    raises: UserError where one names nothing
    """
    found: list[Source] = []
    for word in words:
        word = word.removeprefix(LOCAL)
        path = word if "://" in word else str(user_path(word).absolute())
        if Path(path).suffix.lower() == LANCE:
            found += _fragments(path)
        elif "://" in word:
            found += _of_url(word)
        elif os.path.isdir(path):
            found += [Source(str(shard)) for shard in shards_of(Path(path), "base")]
        elif os.path.isfile(path):
            found.append(Source(path))
        else:
            raise missing({"base": Path(path)})
    return found


def _fragments(where: str) -> list[Source]:
    lance = load_package("lance", "base", Path(where))
    with damaged("base", Path(where), *PROBLEMS):
        dataset = lance.dataset(where)
        return [Source(where, Fragment(part.fragment_id, dataset.version)) for part in dataset.get_fragments()]


def _of_url(url: str) -> list[Source]:
    fs, path = file_system(url)
    try:
        found = sorted(fs.glob(path), key=natural) if "*" in path else [path] * fs.isfile(path)
    except Exception as problem:  # of whichever store it is
        raise _unread(url, problem) from None
    if not found:
        raise UserError(f"base: {url} names no file; correct it")
    return [Source(fs.unstrip_protocol(one)) for one in found]


def file_system(url: str) -> tuple[Any, str]:
    """What reads a URL, and the path in it; raises UserError where that lacks."""
    fsspec = load_package("fsspec", "base", Path(url))
    try:
        return fsspec.core.url_to_fs(url)
    except Exception as problem:  # an unknown protocol, a package that lacks, no access
        raise _unread(url, problem) from None


def _unread(url: str, problem: Exception) -> UserError:
    said = " ".join(str(problem).split())[:200]
    return UserError(f"base: {url} cannot be read ({said or type(problem).__name__}); correct it, or give access")


def stamp_of(source: Source) -> str:
    """What changes when a file does: its path, size and time, or what its store says of it."""
    if source.fragment is not None:
        lance = load_package("lance", "base", Path(source.where))
        with damaged("base", Path(source.where), *PROBLEMS):
            dataset = lance.dataset(source.where, version=source.fragment.version)
            return digest_of(source.where, dataset.get_fragment(source.fragment.number).metadata.to_json())
    if source.is_url:
        return digest_of(source.where, *_said_of(source.where))
    found = os.stat(source.where)
    return digest_of(source.where, found.st_size, found.st_mtime_ns)


def is_watched(source: Source) -> bool:
    """Whether a file that changes is noticed: not where its server says nothing but its size."""
    return not source.where.startswith(HTTP) or len(_said_of(source.where)) > 1


def _said_of(url: str) -> list[object]:
    """What a store says of a file's content. Files of HTTP never change for fsspec, so their server is asked."""
    fs, path = file_system(url)
    try:
        if not url.startswith(HTTP):
            return [fs.ukey(path)]
        info = fs.info(path)
    except Exception as problem:  # of whichever store it is
        raise _unread(url, problem) from None
    return [info.get("size"), *(info[name] for name in MARKS if name in info)]


def digest_of(*facts: object) -> str:
    """A name for some facts, of 32 letters."""
    return hashlib.blake2b(repr(facts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def count_rows(source: Source, column: str | None) -> int:
    """Rows that a file promises, as far as its header tells; raises UserError where it can't be told."""
    if source.fragment is not None or Path(source.where).suffix.lower() in (".npy", PARQUET):
        with suppress(Exception):  # what opening it says is clearer
            return _promised(source)
    with opened(source, column) as rows:
        return rows.n


def _promised(source: Source) -> int:
    """The same, by the header alone, whether or not there are rows. raises: any Exception"""
    path = Path(source.where)
    if source.fragment is not None:
        dataset = load_package("lance", "base", path).dataset(source.where, version=source.fragment.version)
        return dataset.get_fragment(source.fragment.number).count_rows()
    if path.suffix.lower() != PARQUET:
        with local_copy(source, HEAD) as copy:
            return promised_shape(copy)[0]
    if source.is_url:
        fs, inside = file_system(source.where)
        file = fs.open(inside, "rb")  # of which pyarrow reads the end
    else:
        file = path.open("rb")
    with file:
        return load_package("pyarrow.parquet", "base", path).ParquetFile(file).metadata.num_rows


@contextmanager
def opened(source: Source, column: str | None) -> Iterator[Rows]:
    """The rows of a file; one that a URL names is copied to this host first.

    raises: UserError where it cannot be read
    """
    if source.fragment is not None:
        yield open_lance(Path(source.where), "base", column, source.fragment, source.where)
        return
    with local_copy(source) as path:
        try:
            yield replace(open_rows(path, column, "base"), path=Path(source.where))
        except UserError as problem:
            raise UserError(str(problem).replace(str(path), source.where)) from None


@contextmanager
def local_copy(source: Source, n_bytes: int | None = None) -> Iterator[Path]:
    """A file as a path of this host. n_bytes: of a URL so many are copied alone; None: all"""
    if not source.is_url:
        yield Path(source.where)
        return
    fs, inside = file_system(source.where)
    with temporary_folder() as folder:
        path = folder / Path(inside).name
        try:
            if n_bytes is None:
                fs.get_file(inside, str(path))
            else:
                path.write_bytes(fs.cat_file(inside, 0, n_bytes))
        except Exception as problem:
            raise _unread(source.where, problem) from None
        yield path


def blocks_of(rows: Rows, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number of the first row, block). Blocks end where an id is a multiple of BLOCK, in whichever file.

    So a row lies at the same place of its tile, however a base is cut into files, and its bits are the same.
    """
    waiting: list[np.ndarray] = []
    start = done = 0
    wanted = BLOCK - first % BLOCK
    for block in rows.blocks(BLOCK):
        while len(block):
            taken, block = block[: wanted - (done - start)], block[wanted - (done - start) :]
            waiting.append(taken)
            done += len(taken)
            if done - start == wanted:
                yield start, waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                waiting, start, wanted = [], done, BLOCK
    if waiting:
        yield start, np.concatenate(waiting)
