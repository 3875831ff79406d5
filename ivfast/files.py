"""How a file comes into being: complete or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def write_beside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, make it durable, then rename it to `path`.

    path: the file to replace; its folder is made where it is absent
    write: called with the temporary path, which has the suffix of `path`
    raises: whatever `write` raises; `path` then holds what it held before
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(beside)
        descriptor = os.open(beside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write `array` as a .npy file (C order, no pickle)."""
    write_beside(path, lambda beside: np.save(beside, np.ascontiguousarray(array), allow_pickle=False))


def save_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    data = text.encode()

    def write(beside: Path) -> None:
        beside.write_bytes(data)

    write_beside(path, write)


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, since JSON has none."""
    save_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
