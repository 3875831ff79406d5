"""Two small sets as tasks of the comparison."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.task import Task, exact
from ivfast.data.synthetic import save_set
from tests.peers.reading import task_of


def topics(rng: np.random.Generator, n: int, mixing: np.ndarray) -> np.ndarray:
    """Text-like unit rows: each leans to a few of 40 topics, noise on top."""
    weights = rng.dirichlet(np.full(len(mixing), 0.08), n)
    x = weights @ mixing + 0.25 * rng.standard_normal((n, mixing.shape[1])) / mixing.shape[1] ** 0.5
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets `topics` (IP) and `spread` (L2), each with base and learn of its own."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("peers")
    mixing = rng.standard_normal((40, 24)) / 24**0.5
    learn, base, query = (topics(rng, n, mixing) for n in (4000, 3000, 300))
    save_set(folder, "topics", learn, base, query, exact(query, base, "IP"))
    stretch = np.geomspace(1, 0.1, 24)
    learn, base, query = ((topics(rng, n, mixing) * stretch * 50).astype(np.float32) for n in (4000, 3000, 300))
    save_set(folder, "spread", learn, base, query, exact(query, base, "L2"))
    return folder


@pytest.fixture(scope="module", params=["IP", "L2"])
def transfer(request: pytest.FixtureRequest, folder: Path) -> Task:
    return task_of(folder, request.param, "transfer")


@pytest.fixture(scope="module", params=["IP", "L2"])
def in_sample(request: pytest.FixtureRequest, folder: Path) -> Task:
    return task_of(folder, request.param, "in-sample")


@pytest.fixture(scope="module")
def topics_task(folder: Path) -> Task:
    return task_of(folder, "IP", "transfer")
