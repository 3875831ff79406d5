"""One run at a time in a save_path."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.files import remove
from ivfast.runtime.progress import Progress

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # what flock says of a lock that another process holds
TRIES = 100  # to lock a file that its holder removes meanwhile; some file systems number a file anew at every look


@contextmanager
def locked(save_path: Path, progress: Progress, flag: str = "--save_path") -> Iterator[None]:
    """Hold save_path/.ivfast.lock, which says who holds it, and remove it at the end.

    The system frees the lock of a process that dies; the file that it left is taken over. Where the file system has no
    locks, a warning says so, and nothing is held.

    flag: what named the folder, for messages
    raises: UserError where another process holds it, RunError where the folder can't be written
    """
    path = save_path / ".ivfast.lock"
    try:
        save_path.mkdir(parents=True, exist_ok=True)
        file, lacking = _open(path, flag)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{flag} {save_path} {_what_it_is(save_path)}, expected a folder; name another") from None
    except OSError as problem:
        raise RunError(f"{flag} {save_path} cannot be written ({problem.strerror}); name another") from None
    with file:
        try:
            of_others = bool(path.stat().st_size)
            if lacking:
                other = f"; it was left by {_holder(path)}, which may be at work still" if of_others else ""
                progress.note(
                    f"warning: {path} cannot be locked ({lacking}): see to it that no other run works there{other}"
                )
            elif of_others:
                progress.note(f"the lock of {_holder(path)}, which is gone, is taken over")
            _write_holder(path)
            yield
        finally:
            remove(path)


def _what_it_is(save_path: Path) -> str:
    if save_path.is_symlink() and not save_path.exists():
        return f"is a link to {os.readlink(save_path)}, which is not there"
    return "is or lies below a file"


def _write_holder(path: Path) -> None:
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise RunError(f"{path} cannot be written ({problem.strerror}); {len(text)} bytes are needed") from None


def _open(path: Path, flag: str) -> tuple[TextIO, str]:
    """The file, locked, and nothing; or why it could not be locked. Anew where its holder removed it in between."""
    for _ in range(TRIES):
        file = path.open("a+", encoding="utf-8")
        try:
            lacking = _try_lock(file)
        except OSError:
            file.close()
            raise UserError(
                f"{flag} {path.parent} is in use by {_holder(path)}; wait for it, or choose another {flag}"
            ) from None
        if lacking or _still_there(file, path):
            return file, lacking
        file.close()
    return path.open("a+", encoding="utf-8"), "it is another file at every look"


def _try_lock(file: TextIO) -> str:
    """Nothing where the file is locked now, else why it can't be; raises OSError where another process holds it."""
    if fcntl is None:
        return "this system has no fcntl"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in HELD:
            raise
        return problem.strerror or str(problem)  # NFS without its lock service, Lustre, FUSE
    return ""


def _still_there(file: TextIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
