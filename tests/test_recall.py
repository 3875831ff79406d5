"""A recall that is aimed at: what training, copies and choice make of it."""

import json
from pathlib import Path

import numpy as np
import pytest

import ivfast
from ivfast.choose.goal import HeldOutLogits, fit_goal
from ivfast.choose.held_out import make_held_out
from ivfast.choose.judgement import Curves, scanned_share
from ivfast.commands import main
from ivfast.data.synthetic import save_set
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import LearnSet, find_neighbors, nearest_of_all
from ivfast.store.demand import COPY_SOFTNESS, LEAST_ASKER_GAIN, Demand, find_probes
from ivfast.store.reverse import reverse_of
from ivfast.store.rules.copies import asked_power, cover
from tests.conftest import points_of
from tests.test_demand import Case


def test_how_much_a_vector_is_asked_for_counts_less_the_more_is_to_be_found() -> None:
    assert [asked_power(recall) for recall in (0.8, 0.9, 0.95, 0.99)] == [1.0, 1.0, 0.5, 0.1]


@pytest.mark.parametrize("power", [1.0, 0.5, 0.1])
def test_copies_count_by_a_power_of_who_asks(power: float) -> None:
    """The first copy's key, of every vector, by plain Python in float64: (own + asked - log W) / 2 + power log W."""
    case = Case("L2")
    reverse = reverse_of(nearest_of_all(case.points, 5, silent()), case.asking)
    probes = find_probes(case.tiles, 3)
    tile = next(iter(case.tiles.tiles()))
    n, width = 200, 4
    buckets = np.argsort(-tile.z[:n], axis=1, kind="stable")[:, :width].astype(np.int32)
    keys = np.take_along_axis(tile.z[:n], buckets, axis=1)
    none = np.zeros((n, width, width), np.float32)
    found, worth = cover(buckets, keys, none, Demand(reverse, probes).askers(0, n), power)
    for v in range(n):
        pairs = slice(reverse.first[v], reverse.first[v + 1])
        askers, weights = reverse.asker[pairs], reverse.weights[reverse.place[pairs]].astype(np.float64)
        chances = np.zeros((len(askers), width))
        for i, asker in enumerate(askers.tolist()):
            looks = dict(zip(probes.buckets[asker].tolist(), probes.above[asker].tolist(), strict=True))
            chances[i] = [1 / (1 + np.exp(-looks.get(b, -np.inf) / COPY_SOFTNESS)) for b in buckets[v].tolist()]
        gains = weights @ np.maximum(chances - chances[:, :1], 0)
        total = np.log(weights.sum())
        asked = np.log(gains + LEAST_ASKER_GAIN) - probes.log_use[buckets[v]]
        expected = (keys[v] + asked - total) / 2 + power * total
        first = max(range(1, width), key=lambda j: (expected[j], -buckets[v, j]))
        assert worth[v, 1] == pytest.approx(expected[first], abs=1e-4)
        assert found[v, 1] == buckets[v, first]


@pytest.mark.parametrize("asked", [True, False])
def test_a_second_copy_waits_for_the_first_copies_of_others(asked: bool) -> None:
    """Keys alone are lowered, of all copies after a vector's first; the buckets stay in order."""
    case = Case("L2")
    reverse = reverse_of(nearest_of_all(case.points, 5, silent()), case.asking)
    tile = next(iter(case.tiles.tiles()))
    n, width = 200, 5
    buckets = np.argsort(-tile.z[:n], axis=1, kind="stable")[:, :width].astype(np.int32)
    keys = np.take_along_axis(tile.z[:n], buckets, axis=1)
    none = np.zeros((n, width, width), np.float32)
    askers = Demand(reverse, find_probes(case.tiles, 3)).askers(0, n) if asked else None
    usual, waiting = (cover(buckets, keys, none, askers, 0.1, wait) for wait in (0.0, 2.0))
    np.testing.assert_array_equal(usual[0], waiting[0])
    np.testing.assert_array_equal(usual[1][:, :2], waiting[1][:, :2])
    np.testing.assert_allclose(waiting[1][:, 2:], usual[1][:, 2:] - 2, atol=1e-5)  # float32


def test_the_goal_is_the_nprobe_of_that_recall() -> None:
    """100 pairs whose other sides' nearest buckets are at places 1, 2, .. 100 of their own order."""
    z = np.tile(-np.arange(100.0), (100, 1))
    pairs = HeldOutLogits(z, np.where(np.eye(100, dtype=bool), 0.0, -5.0))
    for recall in (0.8, 0.95, 0.99):
        goal = fit_goal(pairs, np.full(100, 0.01), recall=recall)
        assert goal.nprobe == pytest.approx(100 * recall, abs=0.5)
        assert goal.k == fit_goal(pairs, np.full(100, 0.01)).k


def test_shares_are_compared_at_that_recall() -> None:
    recall = np.tile(np.array([0.5, 0.9, 1.0]), (4, 1))
    found = np.tile(np.array([5, 9, 10]), (4, 1))
    for level, share in ((0.9, 0.2), (0.95, 0.25), (0.99, 0.29)):
        curves = Curves(found, recall, np.tile(np.array([0.1, 0.2, 0.3]), (4, 1)), 10, level)
        assert scanned_share(curves) == pytest.approx(share)
    points = points_of(np.random.default_rng(1).standard_normal((400, 4)).astype(np.float32))
    learn = LearnSet(points, find_neighbors(points, 5, 1, silent()))
    assert make_held_out(learn, 8, 4, 1, recall=0.95).recall == 0.95


FLAGS = (
    "--metric", "L2", "--nlist", "16", "--param_list", "8", "16", "--epochs", "2", "--warmup", "1", "--lr", "2e-3",
    "--percents", "0", "0.8", "--gpu", "-1", "--backend", "torch",
)  # fmt: skip


@pytest.mark.parametrize("recall", ["0.97", "99", "0", "nan"])
def test_other_recalls_are_refused(recall: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--save_path", str(tmp_path / "out"), "--data_path", str(tmp_path), "--data_name", "a")
    assert main([*where, "--learn_name", "a", *FLAGS, "--recall", recall]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(": expected 0.80, 0.90, 0.95, 0.99; choose one")


@pytest.mark.whole_run
def test_a_run_aims_at_its_recall_from_training_to_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    middles = 3 * rng.standard_normal((60, 8))
    x = (middles[rng.integers(60, size=3200)] + rng.standard_normal((3200, 8))).astype(np.float32)
    base, query = x[:3000], x[3000:]
    gt = np.argsort(np.square(query[:, None].astype(np.float64) - base).sum(axis=2), axis=1)[:, :10]
    save_set(tmp_path, "a", base, base, query, gt)
    where = ("--save_path", str(tmp_path / "out"), "--data_path", str(tmp_path), "--data_name", "a")
    assert main([*where, "--learn_name", "a/base", *FLAGS, "--recall", "0.99"]) == 0
    said = capsys.readouterr().err
    assert "99 % recall is expected at nprobe" in said
    assert "for 99 % recall a search scans" in said.lower()
    rows = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    model = ivfast.load(tmp_path / "out", "torch")
    assert model._model.recall == 0.99
    centers = ("--eval", "True", "--ai_center", str(tmp_path / "out" / "ivfast.npy"))
    again = ("--save_path", str(tmp_path / "eval"), "--data_path", str(tmp_path), "--data_name", "a")
    rest = ("--percents", "0", "0.8", "--gpu", "-1", "--learn_name", "a/base")
    assert main([*again, *rest, *centers]) == 0
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text())["results"] == rows
    capsys.readouterr()
    assert main([*again, *rest, *centers, "--recall", "0.95"]) == 2
    assert "the centers were trained for 0.99; leave it out" in capsys.readouterr().err
