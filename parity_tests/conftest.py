"""What all parity tests share: the table that is printed at the end, 64 bits for JAX, one thread."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest

from parity_tests.comparator import Table, aligned

TABLE = pytest.StashKey[Table]()
WORDS = pytest.StashKey[list[list[str]]]()  # of tables of workers


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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its lines over."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and TABLE in session.config.stash:
        output["parity"] = session.config.stash[TABLE].words()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's lines."""
    words = getattr(node, "workeroutput", {}).get("parity", [])
    node.config.stash.setdefault(WORDS, []).extend(words)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, where there is one."""
    words = config.stash.get(WORDS, [])
    if TABLE in config.stash:
        words = config.stash[TABLE].words()
    if words:
        terminalreporter.section("parity")
        for line in aligned(words):
            terminalreporter.write_line(line)
