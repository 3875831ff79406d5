"""SIGTERM and Ctrl-C: finish the chunk, save, leave; a second one leaves at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import faiss

from ivfast.runtime.errors import StopRequestedError

_asked: list[int] = []  # signals that came so far
_in_chunk: list[bool] = []


@contextmanager
def handled() -> Iterator[None]:
    """Install the handlers, and put the old ones back."""
    _asked.clear()
    old = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    faiss.PythonInterruptCallback.reset()  # long FAISS calls look for signals too
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def finishing_chunks() -> Iterator[None]:
    """Inside, a first signal waits for `stop_if_asked`."""
    _in_chunk.append(True)
    try:
        yield
    finally:
        _in_chunk.pop()


def asked() -> bool:
    """Whether a signal is waiting."""
    return bool(_asked)


def stop_if_asked() -> None:
    """Raises StopRequestedError where a signal is waiting."""
    if _asked:
        raise StopRequestedError(_asked[0])


def _on_signal(number: int, frame: FrameType | None) -> None:
    del frame
    if _asked:
        os._exit(128 + number)
    _asked.append(number)
    if not _in_chunk:
        raise StopRequestedError(number)
