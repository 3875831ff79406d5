"""What all parity tests share: the table that is printed at the end, 64 bits for JAX, one thread."""

from collections.abc import Iterator

import jax
import pytest

from parity_tests.comparator import Table

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """Where every comparison leaves its row."""
    return request.config.stash.setdefault(TABLE, Table())


@pytest.fixture(autouse=True)
def threads(one_thread: None) -> None:
    """Two runs take 16 s instead of 70 on a busy machine."""


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
