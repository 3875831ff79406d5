"""One run at a time in a save_path."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.progress import Progress


@contextmanager
def locked(save_path: Path, progress: Progress) -> Iterator[None]:
    """Hold save_path/.lock, which says who holds it, and remove it at the end.

    The system frees the lock of a process that dies; the file that it left is taken over.

    raises: UserError where another process holds it, RunError where the folder can't be written or locked
    """
    path = save_path / ".lock"
    try:
        save_path.mkdir(parents=True, exist_ok=True)
        file = _open(path)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--save_path {save_path} is or lies below a file, expected a folder; name another") from None
    except OSError as problem:
        raise RunError(f"--save_path {save_path} cannot be written ({problem.strerror}); name another") from None
    with file:
        try:
            if path.stat().st_size:
                progress.note(f"the lock of {_holder(path)}, which is gone, is taken over")
            _write_holder(path)
            yield
        finally:
            path.unlink(missing_ok=True)


def _write_holder(path: Path) -> None:
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise RunError(f"{path} cannot be written ({problem.strerror}); {len(text)} bytes are needed") from None


def _open(path: Path) -> TextIO:
    """The file, locked; anew where its holder removed it in between."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            raise UserError(
                f"--save_path {path.parent} is in use by {_holder(path)}; wait for it, or choose another --save_path"
            ) from None
        except OSError as problem:  # NFS without its lock service
            file.close()
            raise RunError(
                f"{path} cannot be locked ({problem.strerror}); choose a --save_path on a file system that has locks"
            ) from None
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
        file.close()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
