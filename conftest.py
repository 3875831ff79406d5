"""One fixture of tests/ and parity_tests/."""

from collections.abc import Iterator

import faiss
import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny arrays: 25 s instead of 3 for a run on a busy machine."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])
