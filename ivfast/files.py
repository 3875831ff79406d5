"""How a file comes into being: complete or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ivfast.errors import RunError


def write_beside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, make it durable, then rename it to `path`.

    path: the file to replace; its folder is made where it is absent
    write: called with the temporary path, which has the suffix of `path`
    raises: RunError where the disk refuses, whatever else `write` raises; `path` then holds
    what it held before
    """
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        beside.chmod(0o666 & ~_umask())  # safetensors leaves its files to their owner alone
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)  # the rename too
    except OSError as problem:
        raise RunError(_refused(path, beside, problem)) from None
    finally:
        _remove(beside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that can't be written holds nothing of ours
        return


def _refused(path: Path, beside: Path, problem: OSError) -> str:
    try:
        written = f" after {beside.stat().st_size:,} bytes"
    except OSError:
        written = ""
    reason = problem.strerror or str(problem)
    return f"{path} cannot be written ({reason}{written}); make room or give permission, what was there is kept"


def save_array(path: Path, array: np.ndarray) -> None:
    """Write `array` as a .npy file (C order, no pickle)."""
    write_beside(path, lambda beside: np.save(beside, np.ascontiguousarray(array), allow_pickle=False))


def save_tensors(path: Path, arrays: dict[str, np.ndarray], text: dict[str, str]) -> None:
    """Write `arrays` and metadata as .safetensors."""
    whole = {name: np.asarray(value, order="C") for name, value in arrays.items()}

    def write(beside: Path) -> None:
        try:
            save_file(whole, beside, text)
        except SafetensorError as problem:  # all it says of a full disk
            needed = sum(value.nbytes for value in whole.values())
            raise OSError(f"{problem}; {needed:,} bytes are needed") from None

    write_beside(path, write)


def save_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    data = text.encode()

    def write(beside: Path) -> None:
        beside.write_bytes(data)

    write_beside(path, write)


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, since JSON has none."""
    save_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
