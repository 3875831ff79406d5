"""Work on one item after another by several threads, with the results in the items' order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ivfast.runtime.quota import granted

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8  # more of them wait for the one that makes the items


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """What work says of each item. NumPy leaves Python's lock while it computes, so threads are enough.

    Items are taken from where the caller goes on, two a thread ahead; an error of work or of items reaches the caller.
    """
    n_threads = max(1, min(MOST_THREADS, granted()))
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
