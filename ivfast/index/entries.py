"""What an index holds, entry by entry: ids, and vectors as their codes have them."""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from ivfast.index.fill import sizes_of

LOWER = 0xFFFFFFFF  # of a pair, the place within its list


def ids_at(index: faiss.IndexIVF, pairs: np.ndarray) -> np.ndarray:
    """The ids of entries. pairs: (m,) int64, ascending: list and place in it, -1: none; returns (m,) int64"""
    lists: Any = index.invlists
    found = np.full(len(pairs), -1, dtype=np.int64)
    for bucket, here in _by_list(pairs):
        found[here] = faiss.rev_swig_ptr(lists.get_ids(bucket), lists.list_size(bucket))[pairs[here] & LOWER]
    return found


def vectors_at(index: faiss.IndexIVF, pairs: np.ndarray) -> np.ndarray:
    """The vectors of entries, as their codes have them, (m, dim) float32. pairs: (m,) int64, ascending"""
    x = np.empty((len(pairs), index.d), dtype=np.float32)
    lists: Any = index.invlists
    if isinstance(index, faiss.IndexIVFFlat):
        for bucket, here in _by_list(pairs):
            codes = faiss.rev_swig_ptr(lists.get_codes(bucket), lists.list_size(bucket) * index.code_size)
            x[here] = codes.view(np.float32).reshape(-1, index.d)[pairs[here] & LOWER]
        return x
    for row, pair in enumerate(pairs.tolist()):
        x[row] = _vector(index, pair)
    return x


def _by_list(pairs: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each list that entries lie in, and which of them. pairs: (m,) int64, ascending, -1 first"""
    first = int((pairs < 0).sum())
    if first == len(pairs):
        return
    buckets, starts = np.unique(pairs[first:] >> 32, return_index=True)
    for bucket, start, end in zip(buckets.tolist(), starts, np.append(starts[1:], len(pairs) - first), strict=True):
        yield bucket, slice(first + int(start), first + int(end))


def _vector(index: faiss.IndexIVF, pair: int) -> np.ndarray:
    x = np.empty(index.d, dtype=np.float32)
    index.reconstruct_from_offset(pair >> 32, pair & LOWER, faiss.swig_ptr(x))
    return x


def entries_of(index: faiss.IndexIVF) -> tuple[np.ndarray, np.ndarray]:
    """All entries, list by list: their ids, and the lists that they lie in, both (entries,) int64."""
    lists: Any = index.invlists
    sizes = sizes_of(index)
    parts = [faiss.rev_swig_ptr(lists.get_ids(i), int(size)).copy() for i, size in enumerate(sizes) if size]
    return np.concatenate([np.empty(0, np.int64), *parts]), np.repeat(np.arange(len(sizes)), sizes)


def stored_ids(index: faiss.IndexIVF) -> np.ndarray:
    """The different ids in all lists, ascending int64."""
    return np.unique(entries_of(index)[0])


def vectors_of(index: faiss.IndexIVF, ids: np.ndarray) -> np.ndarray:
    """The vectors of some ids, as their codes have them. ids ascending; returns (n, dim) float32"""
    lists = index.invlists
    assert lists is not None
    pairs = np.empty(len(ids), dtype=np.int64)
    for i, size in enumerate(sizes_of(index)):
        if size:
            here = faiss.rev_swig_ptr(lists.get_ids(i), int(size))
            offsets = np.flatnonzero(np.isin(here, ids))
            pairs[np.searchsorted(ids, here[offsets])] = (i << 32) + offsets
    order = np.argsort(pairs)
    x = np.empty((len(ids), index.d), dtype=np.float32)
    x[order] = vectors_at(index, pairs[order])
    return x
