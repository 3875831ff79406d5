"""The exact search of an accelerator, on the CPU: against float64 and FAISS, in several tiles and blocks."""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest

import ivfast_jax
import ivfast_jax.nearest
import ivfast_torch
import ivfast_torch.nearest
from ivfast.network.backend import load_search
from tests import by_hand
from tests.test_neighbors import METRICS, draw

BACKENDS: list[Any] = [ivfast_jax, ivfast_torch]
both = pytest.mark.parametrize("backend", BACKENDS, ids=["jax", "torch"])


def blocks_of(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


@both
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("size", "k"), [(2000, 23), (300, 1), (130, 23)])  # 130: more neighbours than groups
def test_search_finds_what_float64_and_faiss_find(
    backend: Any, metric: str, size: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.nearest, "TILE", 100)  # the last of 50
    rows = draw(metric, 2000, dim=24)
    x = draw(metric, 250, dim=24)
    close, found = backend.find_nearest(x, blocks_of(rows, size), k, metric, -1)
    assert found.dtype == np.int32
    assert found.shape == (250, k)
    assert all(len(set(row)) == len(row) for row in found.tolist())
    d2 = by_hand.distances(x.astype(np.float64), rows.astype(np.float64))
    own = np.take_along_axis(d2, found, axis=1)
    np.testing.assert_allclose(own, np.sort(d2, axis=1)[:, :k], rtol=2e-6, atol=2e-6)  # float32 products
    of_x = np.square(x.astype(np.float64)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(of_x - close if metric == "L2" else 2 - 2 * close, own, rtol=2e-6, atol=4e-6)
    measure = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    assert (found == faiss.knn(x, rows, k, metric=measure)[1]).mean() > 0.999


@both
def test_rows_of_padding_are_never_found(backend: Any) -> None:
    """Padding is zeros: nearer than any row, were it counted."""
    rows = -np.abs(draw("IP", 140))
    x = np.abs(draw("IP", 9))
    for metric in METRICS:
        found = backend.find_nearest(x, blocks_of(rows, 100), 139, metric, -1)[1]
        assert (np.sort(found, axis=1)[:, 0] >= 0).all()
        assert found.max() < 140
        assert all(len(set(row)) == 139 for row in found.tolist())


@both
def test_copies_are_told_apart(backend: Any) -> None:
    rows = np.repeat(draw("L2", 5), 60, axis=0)
    found = backend.find_nearest(rows, blocks_of(rows, 128), 60, "L2", -1)[1]
    np.testing.assert_array_equal(np.sort(found, axis=1), (np.arange(300) // 60 * 60)[:, None] + np.arange(60))


def test_there_is_no_search_on_the_cpu_and_a_device_of_that_number_elsewhere() -> None:
    assert load_search("jax", -1) is None
    given: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivfast_torch, "find_device", lambda gpu: given.append(gpu) or "cpu")
        search = load_search("torch", 1)
        assert search is not None
        rows = draw("L2", 50)
        found = search(rows, iter([rows]), 1, "L2")[1]
    assert given == [1, 1]
    np.testing.assert_array_equal(found[:, 0], np.arange(50))
