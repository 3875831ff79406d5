"""An empty FAISS index over given centers, and its lists filled with copies."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk

from ivfast.data.vectors import Vectors, rows_per_block
from ivfast.index.codes import fit_codes
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.files import free_space, make_folder, part_of, remove
from ivfast.runtime.progress import Progress

TRAINED_ON = 100_000  # rows that codes are fitted to
SHARD_BYTES = 1 << 30  # of lists in memory before they go to disk
KINDS = ("Flat", "SQ8", "SQ4", "SQfp16", "PQm", "PQmx4fs", "RaBitQ")


def empty_index(centers: np.ndarray, metric: str, kind: str, rows: np.ndarray, seed: int) -> faiss.IndexIVF:
    """A FAISS index whose coarse quantizer holds the centers, its codes trained, nothing stored.

    centers: (nlist, dim) float32; metric: IP or L2
    kind: what follows `IVF` in FAISS' index factory: Flat, SQ8, PQ32, PQ32x4fs, RaBitQ, ..
    rows: (n, dim) float32, to train codes on
    raises: UserError where FAISS knows no such kind, or it doesn't fit the vectors
    """
    nlist, dim = centers.shape
    measure = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    filled_as = kind.removesuffix("x4fs") + "x4" if kind.endswith("x4fs") else kind
    try:
        index: Any = faiss.index_factory(dim, f"IVF{nlist},{filled_as}", measure)
        quantizer: Any = faiss.downcast_index(index.quantizer)
        quantizer.add(np.ascontiguousarray(centers, dtype=np.float32))
        if isinstance(index, faiss.IndexIVF):
            fit_codes(index, np.ascontiguousarray(rows, dtype=np.float32), seed)
    except (RuntimeError, AttributeError) as problem:
        said = str(problem).strip().splitlines()[-1].rpartition("failed: ")[2][:100]  # before it: where in C++
        if "training points" in said:
            raise UserError(
                f"kind {kind!r}: found {len(rows)} vectors, too few to fit such codes to ({said}); take SQ8 or Flat"
            ) from None
        raise UserError(
            f"kind {kind!r}: FAISS cannot make it for {dim} entries ({said}); expected one of {', '.join(KINDS)}, with "
            f"m a divisor of {dim}"
        ) from None
    packed = isinstance(index, faiss.IndexIVFFastScan) or (kind.endswith("x4fs") and not hasattr(index, "pq"))
    if not isinstance(index, faiss.IndexIVF) or packed:  # packed codes take no entries for lists that are named
        raise UserError(f"kind {kind!r}: expected one of {', '.join(KINDS)}, which keep everything in inverted lists")
    return index


def try_kind(kind: str, dim: int) -> None:
    """raises: UserError where FAISS knows no such kind for vectors of dim entries: before a training, not after it"""
    if kind != "Flat":
        rows = np.random.default_rng(1).standard_normal((1000, dim)).astype(np.float32)
        with redirect_stdout(None):
            empty_index(rows[:4], "L2", kind, rows, 1)


def fill(
    index: faiss.IndexIVF, vectors: Vectors, rows: np.ndarray, buckets: np.ndarray, ids: np.ndarray, progress: Progress
) -> None:
    """Store entries in the lists.

    rows: (entries,) rows of the vectors, ascending; buckets: (entries,) the list of each; ids: (n,) of the vectors
    """
    step = rows_per_block(index.d)
    with progress.bar("filling lists", len(rows), "entries") as bar:
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            add_entries(index, _read(vectors, rows[block]), ids[rows[block]], buckets[block])
            bar.advance(len(rows[block]))


def add_entries(index: faiss.IndexIVF, x: np.ndarray, ids: np.ndarray, buckets: np.ndarray) -> None:
    """Add rows to lists. x: (n, dim) float32; ids, buckets: (n,)"""
    x = np.ascontiguousarray(x, dtype=np.float32)
    ids, buckets = (np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (ids, buckets))
    index.add_core(len(x), faiss.swig_ptr(x), faiss.swig_ptr(ids), faiss.swig_ptr(buckets))


def fill_on_disk(
    index: faiss.IndexIVF, vectors: Vectors, rows: np.ndarray, buckets: np.ndarray, ids: np.ndarray, data: Path,
    progress: Progress, shard_bytes: int = SHARD_BYTES,
) -> None:  # fmt: skip
    """The same, with the lists in a file: FAISS merges shards that each fit memory.

    data: file of the lists, which the index names from then on; another index on a file of that name goes on with its
        own, since the new one is written beside and renamed
    raises: RunError where the disk refuses, UserError where FAISS can't take the path
    """
    check_faiss_path(data)
    make_folder(data.parent)
    an_entry = index.code_size + 8
    check_room(data, 2 * len(rows) * an_entry)  # shards, and what they are merged into
    a_shard = max(1, shard_bytes // an_entry)
    shards = []
    try:
        with _refusals_told(data):
            for start in range(0, len(rows), a_shard):
                block = slice(start, start + a_shard)
                fill(index, vectors, rows[block], buckets[block], ids, progress)
                shards.append(part_of(data, f".{len(shards)}"))
                faiss.write_index(index, str(shards[-1]))
                index.reset()
        merge_shards(index, [str(shard) for shard in shards], data)
    finally:
        for path in shards:
            remove(path)


def check_room(data: Path, n_bytes: int) -> None:
    """raises: RunError where the disk has no room for lists"""
    free = free_space(data.parent)
    if free is not None and free < n_bytes:  # FAISS writes by memory map, which ends the process where the disk is full
        raise RunError(f"{data}: {n_bytes:,} bytes are needed, {free:,} are free; free some, or write elsewhere")


def merge_shards(index: faiss.IndexIVF, shards: list[str], data: Path, outdated: Path | None = None) -> None:
    """Put the lists of shards into one file, which the index names from then on.

    outdated: removed before the file is in place, since it would find other lists there than its own
    raises: RunError where the disk refuses
    """
    beside = part_of(data, ".merged")
    try:
        with _refusals_told(data):
            merge_ondisk(index, shards, str(beside))
            if outdated is not None:
                remove(outdated)
            beside.replace(data)
            lists: Any = on_disk(index)
            lists.filename = str(data)
    finally:
        remove(beside)


@contextmanager
def _refusals_told(data: Path) -> Iterator[None]:
    """raises: RunError for what FAISS and the system say of a disk"""
    try:
        yield
    except (RuntimeError, OSError) as problem:
        said = str(problem).strip().splitlines()[-1].split("Error: ")[-1][:200]
        raise RunError(
            f"{data} cannot be written ({said}); lists on disk take a file system with room and memory maps: write "
            "elsewhere"
        ) from None


def check_faiss_path(path: Path) -> None:
    """raises: UserError where a path holds bytes that are no UTF-8, which FAISS can't take"""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: its name holds bytes that are no UTF-8, which FAISS can't write to or read; name another folder"
        ) from None


def on_disk(index: faiss.IndexIVF) -> faiss.OnDiskInvertedLists | None:
    """The lists of an index where they lie on disk."""
    untyped: Any = index
    lists = faiss.downcast_InvertedLists(untyped.invlists)
    return lists if isinstance(lists, faiss.OnDiskInvertedLists) else None


def finish(index: faiss.IndexIVF, kind: str) -> faiss.IndexIVF:
    """The index as it is searched: 4-bit codes are packed anew for fast scanning."""
    return faiss.IndexIVFPQFastScan(index) if kind.endswith("x4fs") else index


def _read(vectors: Vectors, rows: np.ndarray) -> np.ndarray:
    """Rows that ascend and repeat: each is read once."""
    once, back = np.unique(rows, return_inverse=True)
    return vectors.raw(once)[back]


def sizes_of(index: faiss.IndexIVF) -> np.ndarray:
    """Entries of each list, (nlist,) int64."""
    lists: Any = index.invlists
    return np.array([lists.list_size(i) for i in range(index.nlist)], dtype=np.int64)
