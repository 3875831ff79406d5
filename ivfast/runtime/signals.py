"""Signals that ask a run to end: what must not be cut off is finished and saved first; a second one leaves at once."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import faiss

from ivfast.runtime.errors import StopRequestedError

HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none, nor USR1
STOPPING = [  # Slurm's --signal is often USR1
    found for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if (found := getattr(signal, name, None)) is not None
]

UNHEARD = "not in the main thread: signals are not heard here, they stay with the program that started this"

AGAIN = 0.05  # seconds after which a signal comes again that came at a bad moment

_pending: list[int] = []  # signals that came so far


class _Waits(threading.local):
    """Whether a first signal waits, by nested blocks of a thread: signals come to the main one alone."""

    def __init__(self) -> None:
        self.blocks: list[bool] = []


_waits = _Waits()


@contextmanager
def handled() -> Iterator[bool]:
    """Install the handlers, and put the old ones back. What nohup has switched off stays off.

    Gives whether signals are heard: Python lets the main thread of its main interpreter alone set handlers. Elsewhere
    (a thread of Streamlit or Ray Serve) signals stay with the program that started it.
    """
    numbers = [n for n in STOPPING if n != HANG_UP or signal.getsignal(n) != signal.SIG_IGN]
    old = _install([n for n in numbers if signal.getsignal(n) is not None])  # one of C could not be put back
    if old is None:
        yield False
        return
    _pending.clear()
    _waits.blocks.clear()
    faiss.PythonInterruptCallback.reset()  # long FAISS calls look for signals too
    try:
        yield True
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        _pending.clear()  # another run of this process begins unasked
        _waits.blocks.clear()


def _install(numbers: list[signal.Signals]) -> dict[int, Any] | None:
    """Our handler for these signals; returns the old ones, None where Python does not let this thread set any."""
    try:
        return {number: signal.signal(number, _on_signal) for number in numbers}
    except ValueError:
        return None


@contextmanager
def waiting() -> Iterator[None]:
    """Inside, a first signal waits for `stop_if_pending`."""
    _waits.blocks.append(True)
    try:
        yield
    finally:
        _waits.blocks.pop()


@contextmanager
def not_waiting() -> Iterator[None]:
    """Inside `waiting`, for what takes long: a first signal, also one that waits already, raises StopRequestedError."""
    _waits.blocks.append(False)
    try:
        stop_if_pending()
        yield
    finally:
        _waits.blocks.pop()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside, a signal ends this process at once, as one without handlers: for waits that Python's are not called in.

    Handlers of a caller's program stay: whoever calls from Python waits to the end.
    """
    ours = [number for number in STOPPING if signal.getsignal(number) is _on_signal]
    stop_if_pending()
    for number in ours:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _on_signal)


def pending() -> bool:
    """Whether a signal is waiting."""
    return bool(_pending)


def stop_if_pending() -> None:
    """Raises StopRequestedError where a signal is waiting."""
    if _pending:
        raise StopRequestedError(_pending[0])


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _would_be_swallowed(frame):
        threading.Timer(AGAIN, signal.raise_signal, [number]).start()
        return
    if number == HANG_UP:
        _leave_lost_terminal()
    if _pending and number == HANG_UP:
        return  # a terminal that closes hangs up more than once
    if _pending:
        os._exit(128 + number)
    _pending.append(number)
    if not (_waits.blocks and _waits.blocks[-1]):
        raise StopRequestedError(number)


def _would_be_swallowed(frame: FrameType | None) -> bool:
    """Whether Python is just throwing something away: what is raised there it prints and forgets."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_xla_gc_callback"):
            return True
        frame = frame.f_back
    return False


def _leave_lost_terminal() -> None:
    """Where the terminal is gone, writing to it would fail before the state is saved."""
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if poll.poll(0):  # hung up, or in error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            if nowhere != descriptor:
                os.close(nowhere)
