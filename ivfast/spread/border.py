"""One border for the copies of all files: counted from above by two histograms, with ties in the order of ids."""

from typing import NamedTuple

import numpy as np

from ivfast.store.place import BINS, border_of, key_bins, ordered_keys

ALL, NONE = -1, 1 << 32  # borders below all keys, and above


class Border(NamedTuple):
    """Of which copies a budget pays for: all above a key, and of those with this key the first ones."""

    key: int  # see `ordered_keys`
    ties: tuple[int, ...]  # of each file, how many copies with this key are stored


def count_upper(buckets: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """How many copies are offered by the upper 16 bits of their keys. Both (n, width); returns (BINS,) int64"""
    return np.bincount(key_bins(keys[:, 1:])[buckets[:, 1:] >= 0], minlength=BINS)


def count_lower(buckets: np.ndarray, keys: np.ndarray, upper: int) -> np.ndarray:
    """The same of those with these upper bits, by the lower 16 bits."""
    offered = ordered_keys(keys[:, 1:])[buckets[:, 1:] >= 0]
    return np.bincount(offered[offered >> 16 == upper] & (BINS - 1), minlength=BINS)


def count_ties(buckets: np.ndarray, keys: np.ndarray, key: int) -> int:
    """Copies offered with exactly this key."""
    return int(((ordered_keys(keys[:, 1:]) == key) & (buckets[:, 1:] >= 0)).sum())


def key_within(lower: np.ndarray, upper: int, budget: int) -> tuple[int, int]:
    """The key at the border, and how many copies with it are stored.

    lower: (BINS,) of `count_lower`; budget: copies that are stored of those with these upper bits
    """
    at = border_of(lower, budget)
    return upper * BINS + at, budget - int(lower[at + 1 :].sum())


def share_ties(spare: int, ties: list[int]) -> tuple[int, ...]:
    """How many ties of each file are stored where the first `spare` of all are. Files in the order of their ids."""
    before = np.cumsum([0, *ties[:-1]])
    return tuple(int(min(count, max(0, spare - start))) for count, start in zip(ties, before, strict=True))


def stored_buckets(buckets: np.ndarray, keys: np.ndarray, key: int, ties: int) -> tuple[np.ndarray, int]:
    """The buckets in which vectors are stored: the first of each, and its copies above the border.

    buckets, keys: (n, width) of consecutive vectors; ties: how many copies with the border's key are stored, by vector,
    then by bucket
    returns: (n, width) int32, -1 where none, and how many of the ties were stored
    """
    worth, offered = ordered_keys(keys[:, 1:]), buckets[:, 1:] >= 0
    taken = np.ones(buckets.shape, dtype=bool)
    taken[:, 1:] = (worth > key) & offered
    row, column = np.nonzero((worth == key) & offered)
    first = np.lexsort((buckets[row, column + 1], row))[:ties]
    taken[row[first], column[first] + 1] = True
    return np.where(taken, buckets, -1), len(first)
