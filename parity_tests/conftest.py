"""What all parity tests share: the table that is printed at the end, 64 bits for JAX, one thread."""

from collections.abc import Iterator

import faiss
import jax
import pytest
import torch

from parity_tests.comparator import Table

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """Where every comparison leaves its row."""
    return request.config.stash.setdefault(TABLE, Table())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny arrays: 70 s instead of 16 on a busy machine, for two runs."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 in JAX, for one test alone."""
    with jax.enable_x64(new_val=True):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, where there is one."""
    table = config.stash.get(TABLE, None)
    if table is not None and table.rows:
        terminalreporter.section("parity")
        for line in table.lines():
            terminalreporter.write_line(line)
