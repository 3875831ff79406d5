"""Work on one item after another by several threads, with the results in the items' order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8  # more of them wait for the one that makes the items


def _cores() -> int:
    """Those that this process may use, where the system tells (Linux); else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """What work says of each item. NumPy leaves Python's lock while it computes, so threads are enough.

    Items are taken from where the caller goes on, two a thread ahead; an error of work or of items reaches the caller.
    """
    n_threads = max(1, min(MOST_THREADS, _cores()))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
