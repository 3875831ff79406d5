"""The second pass over a file: its vectors in FAISS lists, copies above the border of all files among them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data.vectors import rows_per_block
from ivfast.index.codes import flats_of
from ivfast.index.entries import stored_ids, vectors_of
from ivfast.index.files import FAISS_NAME
from ivfast.index.fill import TRAINED_ON, add_entries, check_faiss_path, check_room, empty_index, merge_shards
from ivfast.index.growth import Index
from ivfast.runtime.draws import spread
from ivfast.runtime.errors import RunError
from ivfast.spread.border import stored_buckets
from ivfast.spread.given import Given, leave
from ivfast.spread.ranks import ranks_of, rows_of
from ivfast.spread.sources import Numbered


class Bordered(NamedTuple):
    """A file, and which of its copies are stored."""

    file: Numbered
    key: int  # of the border
    ties: int  # of its copies with this key that are stored
    wanted: np.ndarray  # (m,) int64, ids of the file whose vectors are handed back


class Listed(NamedTuple):
    """What the second pass says of a file."""

    shards: list[str]  # files of FAISS lists, in the order of ids
    sizes: np.ndarray  # (nlist,) int64, entries
    vectors: np.ndarray  # (m, dim) float32, those wanted
    computed: int  # rows that were not stored before


def make_empty(index: Index, kind: str, seed: int, path: Path) -> None:
    """Write an index of nothing over the trained centers, its codes fitted to vectors that another index holds."""
    ids = stored_ids(index.faiss_index)
    x = vectors_of(index.faiss_index, ids[spread(len(ids), TRAINED_ON)])
    made = empty_index(index.model.centers, index.model.metric, kind, x, seed)
    leave(path, lambda beside: faiss.write_index(made, str(beside)))


def empty_path(given: Given) -> Path:
    """Where it is kept."""
    return given.part("empty", ".faiss", given.kind)


def store(given: Given, item: Bordered) -> Listed:
    """Write the lists of a file piece by piece, those that lack."""
    pieces = given.pieces(item.file)
    paths = [_shard_path(given, item, piece) for piece in range(len(pieces))]
    lacking = {piece for piece, path in enumerate(paths) if not path.is_file()}
    sizes = np.zeros(given.model.nlist, dtype=np.int64)
    vectors = np.empty((len(item.wanted), given.model.dim), dtype=np.float32)
    blocks = rows_of(given, item.file) if lacking or len(item.wanted) else None
    index: Any = read_lists(empty_path(given)) if lacking else None
    for piece, (rows, buckets) in enumerate(zip(pieces, _stored(given, item), strict=True)):
        sizes += np.bincount(buckets[buckets >= 0], minlength=len(sizes))
        if blocks is None:
            continue
        for start, x in blocks:
            ids = np.arange(item.file.first + start, item.file.first + start + len(x))
            vectors[np.isin(item.wanted, ids)] = x[np.isin(ids, item.wanted)]
            if piece in lacking:
                _add(index, x, ids, buckets[start - rows.start : start - rows.start + len(x)])
            if start + len(x) == rows.stop:
                break
        if piece in lacking:
            leave(paths[piece], lambda beside: _write(index, beside))
            index.reset()
    n = sum(pieces[piece].stop - pieces[piece].start for piece in lacking)
    return Listed([str(path) for path in paths], sizes, vectors, n)


def _add(index: Any, x: np.ndarray, ids: np.ndarray, buckets: np.ndarray) -> None:
    """Add vectors with their copies to lists. buckets: (n, width), -1 where none"""
    row, column = np.nonzero(buckets >= 0)
    step = rows_per_block(index.d)
    for start in range(0, len(row), step):
        few = slice(start, start + step)
        add_entries(index, x[row[few]], ids[row[few]], buckets[row[few], column[few]])


def _stored(given: Given, item: Bordered) -> Iterator[np.ndarray]:
    """The buckets of each piece, (rows, width) int32, -1 where none."""
    left = item.ties
    for buckets, keys in ranks_of(given, item.file):
        found, used = stored_buckets(buckets, keys, item.key, left)
        left -= used
        yield found


def buckets_of(given: Given, item: Bordered) -> np.ndarray:
    """The buckets of the vectors that are wanted, (m, width) int32, -1 where none."""
    found = [np.empty((0, given.model.placer(given.copies).width), np.int32)]
    rows, pieces = item.wanted - item.file.first, given.pieces(item.file)
    for piece, buckets in zip(pieces, _stored(given, item), strict=True):
        here = rows[(rows >= piece.start) & (rows < piece.stop)]
        found.append(buckets[here - piece.start])
    return np.concatenate(found)


def _write(index: Any, path: Path) -> None:
    """Without centers: a thousand files with them would be read by whoever merges these."""
    quantizer: Any = faiss.downcast_index(index.quantizer)
    flats = flats_of(index)
    held = [flat.reconstruct_n(0, index.nlist) for flat in flats]
    quantizer.reset()  # both of two flats, and the number of them that it says to whoever reads it
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as problem:  # all that FAISS says of a disk
        raise OSError(str(problem).strip().splitlines()[-1][:200]) from None
    finally:
        for flat, centers in zip(flats, held, strict=True):
            flat.add(centers)
        quantizer.ntotal = index.nlist


def read_lists(path: Path, flags: int = 0) -> Any:
    """A FAISS index that a task left. raises: RunError where something has damaged it"""
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError:
        raise RunError(f"{path} is damaged; remove it, and give the same command again") from None


def _shard_path(given: Given, item: Bordered, piece: int) -> Path:
    rows, file = given.pieces(item.file)[piece], item.file
    facts = file.stamp, file.first, rows.start, rows.stop, item.key, item.ties, given.kind
    return given.part("lists", ".faiss", *facts)


def merge(given: Given, shards: list[str], data: Path) -> faiss.IndexIVF:
    """One index of all shards, its lists in a file.

    shards: in the order of ids
    raises: RunError where the disk refuses
    """
    check_faiss_path(data)
    check_room(data, sum(Path(shard).stat().st_size for shard in shards))
    index: Any = read_lists(empty_path(given))
    merge_shards(index, shards, data, outdated=data.with_name(FAISS_NAME))
    return index
