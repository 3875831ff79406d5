"""What a second run need not compute again: k-means and neighbours, kept by fingerprint."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ivfast.runtime.files import write_beside


def fingerprint(**facts: object) -> str:
    """A short name for data and settings: equal where all facts are equal."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def cached(
    folder: Path, name: str, key: str, compute: Callable[[], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], bool]:
    """Arrays from folder/name.key.npz, or computed and put there.

    returns: the arrays by name, and whether they came from the cache
    """
    path = folder / f"{name}.{key}.npz"
    if path.is_file():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {field: stored[field] for field in stored.files}, True
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):  # damaged: computed and written anew
            pass
    arrays = compute()

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_beside(path, write, sum(array.nbytes for array in arrays.values()))
    return arrays, False
