"""Ties at the last place that counts, beside brute force in float64 on vectors with planted duplicates."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from ivfast.data import ties
from ivfast.data.ties import find_ties
from ivfast.data.vectors import EvaluationSet, Vectors
from ivfast.evaluate.results import RouterSetting, evaluate_router
from ivfast.runtime.progress import Progress, silent
from run_dcnet import main
from tests import by_hand
from tests.conftest import TinySet, plain_space, unit_rows
from tests.test_evaluation import NLIST, NPROBES, WIDTH, Case, Way, adaptive_probes, store_by_hand


class Planted(NamedTuple):
    """Vectors, and their distances in float64, smaller is nearer."""

    metric: str
    base: np.ndarray
    query: np.ndarray
    distances: np.ndarray  # (n_query, n_base)
    order: np.ndarray  # of each query, nearest first


def plant(metric: str, n_query: int = 25, offset: float = 0.0) -> Planted:
    """Under L2 small whole numbers, which tie often; under IP a third of base are copies of rows."""
    rng = np.random.default_rng(5)
    if metric == "L2":
        base, query = (rng.integers(0, 4, (n, 5)).astype(np.float32) + np.float32(offset) for n in (700, n_query))
    else:
        base, query = unit_rows(rng, 700, 5), unit_rows(rng, n_query, 5)
        base[450:] = base[rng.integers(0, 450, 250)]
    wide, asked = base.astype(np.float64), query.astype(np.float64)
    squared, product = np.square(asked[:, None] - wide).sum(axis=2), (asked[:, None] * wide).sum(axis=2)
    distances = squared if metric == "L2" else -product
    return Planted(metric, base, query, distances, np.argsort(distances, axis=1, kind="stable"))


def find(case: Planted, gt: np.ndarray, progress: Progress | None = None, **options: int) -> list[set[int]]:
    base, query = (Vectors(name, Path(name), getattr(case, name)) for name in ("base", "query"))
    data = EvaluationSet("case", Path("gt.npy"), base, query, gt)
    found = find_ties(data, case.metric, progress or silent(), **options)
    assert found.dtype == np.int64
    assert len(found) == len(case.query)
    rows = [row[row >= 0].tolist() for row in found]
    assert all(len(row) == len(set(row)) for row in rows)
    return [set(row) for row in rows]


def expected(case: Planted, gt: np.ndarray) -> list[set[int]]:
    """All rows as near as the farthest of the answers that count, and not among them."""
    found = []
    for row, distances in zip(gt[:, :10], case.distances, strict=True):
        last = max((distances[answer] for answer in row if answer >= 0), default=np.nan)
        found.append(set(np.flatnonzero(np.abs(distances - last) < 1e-12).tolist()) - set(row.tolist()))
    return found


@pytest.mark.parametrize("width", [3, 10, 12, 40, 300])
@pytest.mark.parametrize(("metric", "offset"), [("L2", 0.0), ("L2", 1000.0), ("IP", 0.0)])
def test_ties_are_those_of_brute_force_however_much_gt_tells(
    metric: str, offset: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ties, "ROWS", 64)
    monkeypatch.setattr(ties, "QUERIES", 7)
    monkeypatch.setattr(ties, "PAIRS", 5)
    case = plant(metric, offset=offset)
    gt = case.order[:, :width]
    wanted = expected(case, gt)
    assert any(wanted)
    assert find(case, gt) == wanted


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_answers_that_are_absent_or_out_of_order_are_no_trouble(metric: str) -> None:
    case = plant(metric)
    gt = case.order[:, :11].copy()
    gt[::3, 4:] = -1
    gt[1] = -1
    gt[2, :10] = gt[2, :10][::-1]
    assert find(case, gt) == expected(case, gt)


def test_one_query_and_no_ties() -> None:
    case = plant("L2", n_query=1)
    assert find(case, case.order[:, :10]) == expected(case, case.order[:, :10])
    alone = case._replace(base=case.base + np.arange(700, dtype=np.float32)[:, None])
    distances = np.square(alone.query[:, None] - alone.base.astype(np.float64)).sum(axis=2)
    assert find(alone, np.argsort(distances, axis=1)[:, :10]) == [set()]


def test_a_base_that_is_too_large_to_search_leaves_what_gt_tells(tmp_path: Path) -> None:
    case, notes = plant("L2"), Progress(tmp_path, Console(quiet=True))
    gt = case.order[:, :14]
    found = find(case, gt, notes, most_searched=699)
    for ours, every, row in zip(found, expected(case, gt), gt, strict=True):
        assert ours == every & set(row.tolist())
    assert "base is not searched for more (700 vectors, up to 699 are)" in (tmp_path / "train.log").read_text()


def test_of_a_vector_stored_a_million_times_a_thousand_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ties, "MOST_TIES", 30)
    case = plant("L2")
    case.base[100:] = case.base[0]
    distances = np.square(case.query[:, None].astype(np.float64) - case.base).sum(axis=2)
    gt = np.repeat(np.arange(100, 110)[None], len(case.query), axis=0)
    found = find(case._replace(distances=distances), gt)
    assert {len(rows) for rows in found} == {30}


WAY = Way("benefit", 0.8)


def by_plain_counting(case: Case, tied: np.ndarray, stored: by_hand.Lists, probes: by_hand.Lists) -> list[int]:
    """Answers of each query that the ten best of what was probed hold: its own or tied ones, ten of them at most."""
    found = []
    for row, more, probed in zip(case.gt[:, :10].tolist(), tied.tolist(), probes, strict=True):
        seen = {vector for vector, buckets in enumerate(stored) if set(buckets) & set(probed)}
        own = [answer for answer in row if answer >= 0]
        found.append(min(len(own), sum(v in seen for v in own) + sum(v in seen for v in more if v >= 0)))
    return found


def test_a_search_finds_ties_in_place_of_answers_and_no_more_than_there_are() -> None:
    case = Case(300, 60)
    for row in case.gt:  # no answer twice: a vector is found once
        row[:10] = np.random.default_rng(row.sum()).permutation(300)[:10]
    case.gt[3, 5:] = -1
    case.gt[4] = -1
    tied = np.full((60, 7), -1)
    tied[::2] = [np.setdiff1d(np.arange(300), row)[[0, 50, 90, 130, 200, 250, 280]] for row in case.gt[::2]]
    tied[4] = -1
    right = (case.gt[:, :10] >= 0).sum(axis=1)
    stored = store_by_hand(case.base, WAY)

    def evaluate(setting: RouterSetting, tied: np.ndarray | None) -> list:
        base, query = (Vectors(name, Path(name), rows) for name, rows in (("base", case.base), ("query", case.query)))
        data = EvaluationSet("case", Path("gt.npy"), base, query, case.gt)
        return evaluate_router(setting, data, plain_space(NLIST), WIDTH, NPROBES, 10_000, silent(), tied=tied)

    plain, with_ties = (evaluate(case.setting([WAY]), one) for one in (None, tied))
    none = evaluate(case.setting([WAY]), np.full((60, 0), -1))
    for one, other, same in zip(plain, with_ties, none, strict=True):
        if one.probing == "fixed":
            probes = [by_hand.best_probes(case.query, n) for n in NPROBES]
        else:
            probes = [adaptive_probes(case, stored, n) for n in NPROBES]
        counted = np.array([by_plain_counting(case, tied, stored, each) for each in probes]).T
        assert other.recall == pytest.approx((counted.sum(axis=0) / right.sum()).tolist())
        assert other.recall_without_ties == one.recall == same.recall
        assert one.recall_without_ties == ()
        assert other.scanned == one.scanned
        assert other.recall[0] > one.recall[0]
        assert other.recall_k == 10
        off = counted - right[:, None] * counted.sum(axis=0) / right.sum()
        error = np.sqrt(59 / 58 * np.square(off).sum(axis=0)) / right.sum()  # one query has no answer
        assert other.recall_error == pytest.approx(error.tolist())


def test_flag_counts_ties_in_an_evaluation_and_tells_both(tmp_path: Path, tiny_set: TinySet) -> None:
    """Each vector of base is stored twice, gt names five pairs: by gt alone a search can find no more than these."""
    base, query = np.concatenate([tiny_set.base[:150]] * 2), tiny_set.query[:30]
    near = np.argsort(-query.astype(np.float64) @ base[:150].astype(np.float64).T, axis=1, kind="stable")
    folder = tiny_set.data_path / "tiny"
    gt = np.stack([near[:, :6], near[:, :6] + 150], axis=2).reshape(30, 12)[:, [*range(9), 10]]  # the last has a twin
    for name, array in (("base", base), ("query", query), ("gt", gt)):
        np.save(folder / f"{name}.npy", array)
    np.save(tmp_path / "centers.npy", tiny_set.learn[:16])
    records = {}
    for flag in ("False", "True"):
        words = ["--save_path", str(tmp_path / flag), "--data_path", str(tiny_set.data_path), "--data_name", "tiny"]
        words += ["--eval", "True", "--ai_center", str(tmp_path / "centers.npy"), "--percents", "0", "--gpu", "-1"]
        assert main([*words, "--ties", flag]) == 0
        records[flag] = json.loads((tmp_path / flag / "evaluation.json").read_text())
        log = (tmp_path / flag / "train.log").read_text()
        assert "recall@10 is that of 30 queries: its standard error is up to" in log
        assert ("ties count as right: recall@10 is" in log) == (flag == "True")
    (plain,), (tied,) = (records[flag]["results"] for flag in ("False", "True"))
    assert records["True"]["settings"]["ties"] is True
    assert tied["recall_without_ties"] == plain["recall"]
    assert plain["recall_without_ties"] == []
    assert all(a >= b for a, b in zip(tied["recall"], plain["recall"], strict=True))
    assert max(tied["recall"][i] - plain["recall"][i] for i in range(5)) > 0.001
    assert tied["recall"][-1] == plain["recall"][-1] == 1
    assert all(error is not None for error in tied["recall_error"])
    assert (
        "where whoever is as near as the last of them counts as right"
        in (tmp_path / "True" / "report.html").read_text()
    )
