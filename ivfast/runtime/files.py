"""How a file comes into being: complete or not at all."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ivfast.runtime.errors import RunError, UserError

PART = ".ivfast-part."  # what every name begins with that part_of gives, and no name of a user
WRITTEN = (".", "cache", "checkpoints", "converted", "data")  # folders of a save_path that anything is written into
LONGEST = 100  # bytes of a name that becomes a part of another one: file systems take 255, some of them 143
A_FOLDER, A_PIPE = "a folder", "a pipe"
KINDS = (
    (stat.S_ISDIR, A_FOLDER),
    (stat.S_ISFIFO, A_PIPE),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # what lies where a file is expected
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)  # what fsync isn't offered by


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


def user_path(path: Path | str) -> Path:
    """A path as a shell would take it, with ~ as the home folder.

    raises: UserError where it is empty, holds what no path can, or nobody knows that home
    """
    check_letters(text := str(path), "a path")
    if not text:
        raise UserError("a path is empty, expected one; write . for the folder at work")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder, expected a path; write it out without ~") from None


def check_letters(text: str, name: str) -> None:
    """raises: UserError where a text holds what no file's name can: a zero, or half of a character"""
    try:
        whole = "\0" not in os.fsdecode(os.fsencode(text))
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise UserError(f"{name}: {text!r} holds a zero or half a character, which no file's name can; correct it")


def check_file_name(path: Path | str) -> None:
    """raises: UserError where a text ends in a slash, which a path would lose, and with it that a folder is meant"""
    if isinstance(path, str) and path.endswith(("/", os.sep)):
        raise UserError(
            f"{path} ends in a slash, as folders do, expected a file; leave the slash out, or name a file in it"
        )


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    raises: UserError where a file is in the way, RunError where the system refuses
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} is or lies below a file, expected a folder; name another") from None
    except OSError as problem:
        said = problem.strerror or problem
        raise RunError(f"{path}: no folder can be made there ({said}); give permission, or name another") from None


def what_is(path: Path) -> str:
    """What lies at a path that is no file, with its article; "" of a file, and where nothing lies.

    Nothing is opened, since a pipe would wait for whoever writes into it.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError:  # whatever it is
        return ""
    except (OSError, ValueError):
        return f"a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else ""
    return next((what for is_one, what in KINDS if is_one(mode)), "")


def as_name(text: str) -> str:
    """A text as a part of a file's name: where it is too long, or holds what names can't, a hash tells it from others.

    >>> as_name("faces"), as_name("a/b")
    ('faces', 'a_b-be41b07f')
    """
    plain = re.sub("[/\0-\x1f\ud800-\udfff]", "_", text)
    data = plain.encode()
    if plain == text and len(data) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{data[:LONGEST].decode(errors='ignore')}-{digest}"


def part_of(path: Path, what: str = "") -> Path:
    """Where to write what will become `path`: a name beside it that is never too long, and that remove_leftovers knows.

    what: tells several parts apart; the suffix stays that of `path`
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return path.with_name(f"{PART}{digest}.{os.getpid()}{what}{path.suffix}")


def free_space(folder: Path) -> int | None:
    """Bytes that may still be written in a folder; None where its file system doesn't say."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None  # of nothing nothing is free: FUSE, and some quotas


def write_beside(path: Path, write: Callable[[Path], None], n_bytes: int | None = None, what: str = "") -> None:
    """Let `write` fill a file beside `path`, make it durable, then rename it to `path`.

    path: the file to replace; its folder is made where it is absent
    write: called with the temporary path, which has the suffix of `path`
    n_bytes: about what it writes, for the message; None: not known
    what: tells those apart who may write the same file at the same time, on several hosts
    raises: UserError where `path` is no file, but a folder, a pipe or a device; RunError where the disk refuses,
    whatever else `write` raises; `path` then holds what it held before
    """
    if os.path.exists(path) and (found := what_is(path)):
        raise UserError(f"{path} is {found}, expected a file or nothing; name another file")
    beside = part_of(path, what)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with suppress(OSError):  # not every file system has permissions
            beside.chmod(0o666 & ~_umask())  # safetensors leaves its files to their owner alone
        _sync(beside)
        os.replace(beside, path)
        _sync_folder(path.parent)  # the rename too
    except OSError as problem:
        raise RunError(_refused(path, beside, problem, n_bytes)) from None
    finally:
        remove(beside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # one that can be written, but not read
        return
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in NO_SYNC:
            raise


def remove(path: Path) -> None:
    """Remove a file of ours, if it can be removed: what stays costs nothing but room."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _refused(path: Path, beside: Path, problem: OSError, n_bytes: int | None) -> str:
    try:
        written = f" after {beside.stat().st_size:,} bytes"
    except OSError:
        written = ""
    reason = problem.strerror or str(problem)
    needed = "" if n_bytes is None else f"; {n_bytes:,} bytes are needed"
    return f"{path} cannot be written ({reason}{written}{needed}); make room or give permission, what was there is kept"


def remove_leftovers(save_path: Path) -> None:
    """Remove what killed processes left half written in the folders of a save_path; for who alone writes there."""
    for folder in WRITTEN:
        for path in (save_path / folder).glob(f"{PART}*"):
            remove(path)


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

    write_beside(path, lambda beside: write_tensors(beside, whole, text), sum(value.nbytes for value in whole.values()))


def write_tensors(path: Path, arrays: dict[str, np.ndarray], text: dict[str, str] | None = None) -> None:
    """Write arrays in C order as .safetensors, in place. raises: OSError where the disk refuses"""
    try:
        save_file(arrays, path, text)
    except SafetensorError as problem:  # all it says of a full disk
        raise OSError(str(problem)) from None


def save_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    data = text.encode()

    def write(beside: Path) -> None:
        beside.write_bytes(data)

    write_beside(path, write, len(data))


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, since JSON has none."""
    save_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
