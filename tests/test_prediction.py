"""What is told before there is a base: against plain loops, and against what a run then reaches."""

import json
from pathlib import Path

import numpy as np
import pytest

from ivfast.choose.facts import held_out_answers
from ivfast.choose.held_out import held_out_tiles, make_held_out
from ivfast.choose.prediction import BINS, calibration_error, predict, reliability
from ivfast.route.routers import Router
from ivfast.runtime.draws import generator
from ivfast.start.neighbors import LearnSet, make_neighbors
from ivfast.store.place import make_plans
from ivfast.store.rules.rule import Terms
from run_dcnet import main
from tests import by_hand
from tests.conftest import points_of
from tests.runs import flags, make_data

NLIST, FTOPK, N = 12, 4, 300


def test_prediction_is_where_held_out_vectors_reach_each_level() -> None:
    """At percent 0: whole learn is the sample, so a loop over vectors tells all."""
    rng = np.random.default_rng(4)
    z = (3 * rng.standard_normal((N, NLIST))).astype(np.float32)
    held_out = np.arange(0, N, 7)
    answers = np.array([rng.choice(np.setdiff1d(np.arange(N), [row]), FTOPK, replace=False) for row in held_out])
    neighbors = make_neighbors(np.arange(1), np.zeros((1, FTOPK), int), held_out, answers, FTOPK)
    held = make_held_out(LearnSet(points_of(z), neighbors), NLIST, 3, 1)
    m = by_hand.softmax(z).mean(axis=0)
    tiles = held_out_tiles(held, Router("table", NLIST, lambda x: x))
    (found,) = predict(held, tiles, make_plans(["benefit"], [Terms(0.0, 1.0, m)]))

    bucket = (by_hand.softmax(z) / m).argmax(axis=1)
    sizes = np.bincount(bucket, minlength=NLIST)
    recall, scanned = np.zeros(NLIST), np.zeros(NLIST)
    for row, right in zip(held_out, answers, strict=True):
        order = np.argsort(-z[row]).tolist()
        for nprobe in range(1, NLIST + 1):
            recall[nprobe - 1] += np.isin(bucket[right], order[:nprobe]).sum() / answers.size
            scanned[nprobe - 1] += sizes[order[:nprobe]].sum() / N / len(held_out)
    assert list(found) == ["0.80", "0.90", "0.95", "0.99"]
    for level, told in found.items():
        assert np.interp(told.nprobe, np.arange(1, NLIST + 1), recall) == pytest.approx(float(level))
        assert np.interp(told.nprobe, np.arange(1, NLIST + 1), scanned) == pytest.approx(told.scanned)


def test_calibration_error_by_hand() -> None:
    rng = generator(1, 0, "sample")
    z, targets = 2 * rng.standard_normal((40, 5)), rng.integers(5, size=(40, FTOPK))
    p = by_hand.softmax(z, 1.3)
    told, true = np.zeros(BINS), np.zeros(BINS)
    for row in range(40):
        for b in range(5):
            i = min(int(p[row, b] * BINS), BINS - 1)
            told[i] += p[row, b] ** 2
            true[i] += p[row, b] * (targets[row] == b).mean()
    assert calibration_error(reliability(z, targets, 1.3)) == pytest.approx(np.abs(told - true).sum() / 40)


def test_calibration_error_does_not_depend_on_blocks() -> None:
    rng = generator(1, 0, "sample")
    z, targets = 2 * rng.standard_normal((41, 5)), rng.integers(5, size=(41, FTOPK))
    whole = calibration_error(reliability(z, targets, 1.3))
    assert calibration_error(reliability(z, targets, 1.3, block_entries=10)) == pytest.approx(whole)


def test_held_out_answers_are_taken_from_all_of_the_file() -> None:
    """Of a sorted file the first held-out vectors would say little of the rest."""
    z = np.eye(NLIST, dtype=np.float32)[np.arange(N) * NLIST // N]  # sorted by bucket
    held_out = np.arange(0, N, 7)
    neighbors = make_neighbors(np.arange(1), np.zeros((1, 1), int), held_out, held_out[:, None] + 1, 1)
    held = make_held_out(LearnSet(points_of(z), neighbors), NLIST, 3, 1)
    found, targets = held_out_answers(held, Router("table", NLIST, lambda x: x), most=3)
    assert found.argmax(axis=1).tolist() == [0, 5, 11]
    np.testing.assert_array_equal(targets[:, 0], z[np.minimum(held_out[[0, 21, 42]] + 1, N - 1)].argmax(axis=1))


def test_calibration_error_is_0_for_chances_and_large_for_overconfidence() -> None:
    z = np.log(np.tile([0.75, 0.25], (100, 1)))
    targets = np.tile([0, 0, 0, 1], (100, 1))
    assert calibration_error(reliability(z, targets, 1.0)) == pytest.approx(0, abs=1e-12)
    assert calibration_error(reliability(z, targets, 0.1)) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.whole_run
def test_a_run_tells_what_it_then_reaches(tmp_path: Path) -> None:
    """In-sample, where nothing but the queries is new."""
    data = make_data(tmp_path / "data")
    assert main(flags(data, tmp_path / "out", "--learn_name", "faces/base")) == 0
    lines = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    told = [line for line in lines if line["predicted"]]
    assert {line["probing"] for line in told} == {"fixed"}
    assert {(line["router"], line["rule"]) for line in told} >= {("kmeans", "ratio"), ("centers", "benefit")}
    for line in told:
        kept = line["predicted"]["0.90"]
        recall, scanned = (np.interp(kept["nprobe"], line["nprobe"], line[k]) for k in ("recall", "scanned"))
        if kept["nprobe"] <= max(line["nprobe"]):
            assert recall == pytest.approx(kept["reached"], abs=0.01)
            assert scanned == pytest.approx(kept["took"], rel=0.05)
        assert abs(kept["reached"] - 0.9) < 0.06, line  # a few hundred vectors
