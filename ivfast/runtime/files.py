"""How a file comes into being: complete or not at all."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ivfast.runtime.errors import RunError, UserError

BESIDE = re.compile(r"\..+\.\d+\.(csv|html|json|npy|npz|png|safetensors)")  # names that write_beside gives


def at_home(path: Path | str) -> Path:
    """A path without its ~.

    raises: UserError where it has one and the user no home: HOME is not set, and the uid has no name
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no home for ~, since HOME is not set; write the whole path") from None


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end.

    raises: RunError where none can be made
    """
    try:
        folder = TemporaryDirectory(prefix="ivfast_")
    except OSError as problem:
        raise no_temporary(problem) from None
    with folder as name:
        yield Path(name)


def no_temporary(problem: OSError) -> RunError:
    """What to raise where no temporary folder can be made."""
    return RunError(
        f"no temporary folder can be made ({problem.strerror or problem}); set TMPDIR to a folder that can be written"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_beside(path: Path, write: Callable[[Path], None], n_bytes: int | None = None) -> None:
    """Let `write` fill a file beside `path`, make it durable, then rename it to `path`.

    path: the file to replace; its folder is made where it is absent
    write: called with the temporary path, which has the suffix of `path`
    n_bytes: about what it writes, for the message; None: not known
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
        raise RunError(_refused(path, beside, problem, n_bytes)) from None
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


def _refused(path: Path, beside: Path, problem: OSError, n_bytes: int | None) -> str:
    try:
        written = f" after {beside.stat().st_size:,} bytes"
    except OSError:
        written = ""
    reason = problem.strerror or str(problem)
    needed = "" if n_bytes is None else f"; {n_bytes:,} bytes are needed"
    return f"{path} cannot be written ({reason}{written}{needed}); make room or give permission, what was there is kept"


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in `folder` and below; for who alone writes there."""
    for path in folder.rglob(".*.*"):
        if BESIDE.fullmatch(path.name):
            _remove(path)


def copy_beside(source: Path, path: Path) -> None:
    """Write a copy of a file."""

    def write(beside: Path) -> None:
        shutil.copyfile(source, beside)

    write_beside(path, write)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write `array` as a .npy file (C order, no pickle)."""
    write_beside(path, lambda beside: np.save(beside, np.ascontiguousarray(array), allow_pickle=False), array.nbytes)


def save_tensors(path: Path, arrays: dict[str, np.ndarray], text: dict[str, str]) -> None:
    """Write `arrays` and metadata as .safetensors."""
    whole = {name: np.asarray(value, order="C") for name, value in arrays.items()}

    def write(beside: Path) -> None:
        try:
            save_file(whole, beside, text)
        except SafetensorError as problem:  # all it says of a full disk
            raise OSError(str(problem)) from None

    write_beside(path, write, sum(value.nbytes for value in whole.values()))


def save_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    data = text.encode()

    def write(beside: Path) -> None:
        beside.write_bytes(data)

    write_beside(path, write, len(data))


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, since JSON has none."""
    save_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
