"""What may be wrong with data, against plain NumPy over all rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ivfast.data import criticism
from ivfast.data.criticism import criticise
from ivfast.data.vectors import Vectors
from tests.conftest import TinySet

AsVectors = Callable[[np.ndarray], Vectors]


def exact_gt(base: np.ndarray, query: np.ndarray, width: int = 10) -> np.ndarray:
    distances = np.square(query[:, None].astype(np.float64) - base).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :width]


def facts(as_vectors: AsVectors, base: np.ndarray, query: np.ndarray, gt: np.ndarray | None = None) -> dict[str, Any]:
    return criticise(as_vectors(base), as_vectors(query), exact_gt(base, query) if gt is None else gt)


def test_clean_data_has_no_faults(tiny_set: TinySet, as_vectors: AsVectors) -> None:
    found = facts(as_vectors, tiny_set.base, tiny_set.query, tiny_set.gt)
    base = found["base"]
    assert (base["rows"], base["dim"], base["looked_at"], base["twins"]) == (300, 8, 300, 0)
    assert base["constant_columns"]["count"] == base["far"]["count"] == found["query"]["rows_of_base"] == 0
    assert found["gt"]["answers_a_query"] == {"least": 10, "mean": 10.0}
    assert found["queries_beside_base"]["nearer_than_first_answer"] == 0
    assert base["norms"]["least"] == pytest.approx(1, abs=1e-6)


def test_numbers_are_those_of_all_rows_at_any_block(rng: np.random.Generator, as_vectors: AsVectors) -> None:
    base = (3 + rng.standard_normal((400, 6)) * [1, 1, 1, 1, 1, 9]).astype(np.float32)
    query = base[:50] + np.float32(0.5)
    found = facts(as_vectors, base, query)
    wide = base.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    from_middle = np.linalg.norm(wide - np.median(wide, axis=0), axis=1)
    for name, values in (("norms", norms), ("from_the_middle", from_middle)):
        expected = [values.min(), np.percentile(values, 1), np.median(values), np.percentile(values, 99), values.max()]
        np.testing.assert_allclose(list(found["base"][name].values()), expected, rtol=1e-12)
    variance = wide.var(axis=0)
    widest = found["base"]["widest_column"]
    assert widest["column"] == 5
    assert widest["share_of_variance"] == pytest.approx(variance[5] / variance.sum())
    between = np.linalg.norm(wide[:, None] - wide, axis=2)
    np.fill_diagonal(between, np.inf)
    own = np.linspace(0, 399, 100).astype(int)
    beside = found["queries_beside_base"]
    assert beside["nearest_of_base"] == pytest.approx(np.median(between.min(axis=1)[own]))
    asked = np.linalg.norm(query[:, None].astype(np.float64) - wide, axis=2).min(axis=1)
    assert beside["nearest_of_queries"] == pytest.approx(np.median(asked))
    small = criticise(as_vectors(base), as_vectors(query), exact_gt(base, query), block_bytes=256)
    assert small["base"]["twins"] == found["base"]["twins"]
    assert small["queries_beside_base"] == pytest.approx(beside)


def test_twins_constant_columns_far_rows_and_queries_of_base_are_counted(
    tiny_set: TinySet, as_vectors: AsVectors
) -> None:
    base = tiny_set.base.copy()
    base[10:14] = base[3]  # four twins of row 3
    base[20, 0] = -0.0
    base[21] = base[20]
    base[21, 0] = 0.0  # one more: a run cannot tell -0 from 0
    base[:, 5] = 2
    base[77] *= 40
    base[77, 5] = 2
    query = np.concatenate([tiny_set.query[:30], base[[5, 6, 6]]])
    found = facts(as_vectors, base, query)
    assert found["base"]["twins"] == 5
    assert found["base"]["constant_columns"] == {"count": 1, "first": [5]}
    assert found["base"]["far"] == {"times": 5.0, "count": 1, "first": [77]}
    assert found["query"]["rows_of_base"] == 2  # of different rows
    assert found["query"]["twins"] == 1


def test_gt_that_lacks_answers_or_names_others_is_seen(tiny_set: TinySet, as_vectors: AsVectors) -> None:
    gt = tiny_set.gt.copy()
    gt[:4] = -1
    gt[4:10, 6:] = -1
    gt[10:30] = gt[10:30, ::-1]  # the farthest of twelve first
    found = facts(as_vectors, tiny_set.base, tiny_set.query, gt)
    assert found["gt"]["without_answers"] == 4
    assert found["gt"]["answers_a_query"] == {"least": 0, "mean": (6 * 6 + 50 * 10) / 60}
    rows, times = np.unique(gt[:, :10][gt[:, :10] >= 0], return_counts=True)
    assert found["gt"]["rows_that_are_answers"] == len(rows)
    assert found["gt"]["most_named"]["times"] == times.max()
    beside = found["queries_beside_base"]
    assert (beside["looked_at"], beside["answered"], beside["nearer_than_first_answer"]) == (60, 56, 20)


def test_of_many_rows_some_are_looked_at_evenly(
    tiny_set: TinySet, as_vectors: AsVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criticism, "MOST_ROWS", 60)
    found = facts(as_vectors, tiny_set.base, tiny_set.query[:20])
    assert (found["base"]["rows"], found["base"]["looked_at"]) == (300, 60)
    rows = tiny_set.base[np.linspace(0, 299, 60).astype(int)].astype(np.float64)
    assert found["base"]["norms"]["p50"] == pytest.approx(np.median(np.linalg.norm(rows, axis=1)))


def test_all_rows_alike_end_in_no_error(as_vectors: AsVectors) -> None:
    base, query = np.ones((20, 3), np.float32), np.ones((2, 3), np.float32)
    found = facts(as_vectors, base, query, np.zeros((2, 1), np.int64))
    assert found["base"]["twins"] == 19
    assert found["base"]["far"]["count"] == 0
    assert found["base"]["widest_column"]["share_of_variance"] is None
    assert found["queries_beside_base"]["nearest_of_base"] is None
