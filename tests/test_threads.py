"""Work by threads is what it would be without them."""

import threading
import time

import pytest

from ivfast.runtime.threads import in_order


def test_results_come_in_the_order_of_the_items():
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))  # the first of three is the last to be done
        return item * item

    assert list(in_order(work, range(100))) == [item * item for item in range(100)]
    assert list(in_order(work, [])) == []


def test_all_cores_count_where_the_system_does_not_say_which_are_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS
    assert list(in_order(lambda item: item + 1, range(50))) == list(range(1, 51))


def test_items_are_not_taken_far_ahead_of_the_caller():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    results = in_order(lambda item: item, items())
    next(results)
    assert len(taken) <= 16
    results.close()


def test_an_error_reaches_the_caller_and_no_thread_is_left():
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    before = threading.active_count()
    found = []
    with pytest.raises(ValueError, match="five"):
        found.extend(in_order(work, range(50)))
    assert threading.active_count() == before

    def items():
        yield 1
        raise OSError("cut short")

    with pytest.raises(OSError, match="cut short"):
        list(in_order(work, items()))
