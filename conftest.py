"""What tests/ and parity_tests/ share: cores and compiled programs, one fixture."""

import os
import tempfile
from collections.abc import Iterator


def _keep_to_own_cores() -> None:
    """Before libraries count cores: workers that each want all of them wait for each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1 and hasattr(os, "sched_setaffinity"):
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: workers])


def _compile_once() -> tempfile.TemporaryDirectory[str] | None:
    """Hundreds of runs compile the same few programs: a third of the suite's time without this.

    The folder is the first process's, which removes it; workers and command lines find it named.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    folder = tempfile.TemporaryDirectory(prefix="ivfast_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    return folder


_keep_to_own_cores()
COMPILED = _compile_once()

import faiss  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs are shared within a file, compiled steps by all parity tests: one worker gets all that use them."""
    for item in items:
        if item.get_closest_marker("whole_run"):
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
        elif item.get_closest_marker("parity"):
            item.add_marker(pytest.mark.xdist_group("parity"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny arrays: 25 s instead of 3 for a run on a busy machine."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])
