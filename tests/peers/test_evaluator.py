"""The comparison's evaluator against brute force, and its command."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, curves
from benchmarks.peers import dcnet, kmeans
from benchmarks.peers.choosing import held_out_share
from benchmarks.peers.evaluator import Adaptive, evaluate, figures, search, temperature_of
from benchmarks.peers.peer import PERCENTS, Given, way_of
from benchmarks.peers.task import Task
from benchmarks.tables import main as print_tables
from ivfast.data.vectors import Points, Vectors
from ivfast.route.routers import Router
from ivfast.route.search import Answers, Lists, imbalance, log_gains, thresholds_for
from ivfast.route.tiles import LogitTiles
from ivfast.store.place import Plan, place
from tests import by_hand
from tests.conftest import unit_rows
from tests.peers.reading import NLIST, at_90


@pytest.fixture
def tables(rng: np.random.Generator, logit_table) -> tuple[LogitTiles, Lists, np.ndarray]:
    """Random scores of queries, lists with copies, and answers of which some are missing."""
    queries = logit_table(rng.standard_normal((40, NLIST)))
    keys = rng.standard_normal((200, 4)).astype(np.float32)
    buckets = np.argsort(rng.random((200, NLIST)), axis=1)[:, :4].astype(np.int32)
    gt = np.argsort(rng.random((40, 200)), axis=1)[:, :5]
    gt[rng.random(gt.shape) < 0.2] = -1
    stored = place(logit_table(np.zeros((200, NLIST))), [Plan("", 0.8, Given(buckets, keys))], 4)[0]
    return queries, stored, gt


def answers_of(gt: np.ndarray) -> Answers:
    return Answers(np.maximum(gt, 0), gt >= 0)


def test_fixed_search_equals_brute_force(tables) -> None:
    queries, lists, gt = tables
    curve = search(queries, lists, answers_of(gt))
    z = queries.all()
    for nprobe in range(1, NLIST + 1):
        recall, scanned = by_hand.search(by_hand.lists_of(lists.buckets), gt, by_hand.best_probes(z, nprobe))
        assert curve.recall[nprobe - 1] == pytest.approx(recall, abs=1e-12)
        assert curve.scanned[nprobe - 1] == pytest.approx(np.mean(scanned), abs=1e-12)
        assert curve.p99[nprobe - 1] == pytest.approx(np.percentile(scanned, 99), abs=1e-12)


def test_adaptive_search_equals_brute_force(tables, rng: np.random.Generator) -> None:
    queries, lists, gt = tables
    held_out = rng.standard_normal((100, NLIST)).astype(np.float32)
    curve = search(queries, lists, answers_of(gt), Adaptive(held_out, 1.5))
    thresholds = thresholds_for(log_gains(held_out, 1.5, lists), np.geomspace(1, NLIST, 200))
    gains = log_gains(queries.all(), 1.5, lists)
    for i in (0, 60, 130, 199):
        probes = by_hand.adaptive_probes(gains, thresholds[i])
        recall, scanned = by_hand.search(by_hand.lists_of(lists.buckets), gt, probes)
        assert curve.recall[i] == pytest.approx(recall, abs=1e-12)
        assert curve.scanned[i] == pytest.approx(np.mean(scanned), abs=1e-12)


def test_answers_count_by_their_worth(tables, rng: np.random.Generator) -> None:
    queries, lists, gt = tables
    worth = rng.random(gt.shape) * (gt >= 0)
    curve = search(queries, lists, answers_of(gt), weights=worth)
    for nprobe in (1, 3, 7):
        found = 0.0
        for z, answers, counted in zip(queries.all(), gt.tolist(), worth, strict=True):
            probed = set(np.argsort(-z)[:nprobe].tolist())
            found += sum(
                w for a, w in zip(answers, counted, strict=True) if a >= 0 and probed & set(lists.buckets[a].tolist())
            )
        assert curve.recall[nprobe - 1] == pytest.approx(found / worth.sum())


def test_figures_are_read_off_the_curve(tables) -> None:
    queries, lists, gt = tables
    curve = search(queries, lists, answers_of(gt))
    found = figures(curve, lists)
    reached = int(np.flatnonzero(curve.recall >= 0.9)[0])
    assert curve.scanned[reached - 1] <= found["scanned_at"]["0.90"] <= curve.scanned[reached]
    assert found["p99_at_0.90"] == curve.p99[reached]
    assert found["recall_at"]["0.01"] == pytest.approx(curve.recall[0] * 0.01 / curve.scanned[0])
    assert found["entries"] == (lists.buckets >= 0).sum() == 360
    assert found["imbalance"] == imbalance(lists.sizes)


def test_kmeans_scans_what_a_second_opinion_says(transfer: Task) -> None:
    peer = kmeans.make(transfer, 10, kmeans.train(transfer, 10))
    centers = kmeans.train(transfer, 10).centers
    x, q = transfer.base.x(slice(None)), transfer.query.x(slice(None))
    expected = by_hand.nearest_share(x, q, transfer.gt, centers)
    assert at_90(evaluate(transfer, peer)) == pytest.approx(expected, rel=1e-3)  # float32 ties


@pytest.mark.whole_run
def test_evaluator_agrees_with_the_tools_own_evaluation(topics_task: Task, tmp_path: Path) -> None:
    extra = ("--epochs", "2", "--batch_size", "500", "--niter", "10")
    seconds = dcnet.train(topics_task, (24, NLIST), tmp_path, extra)
    records = evaluate(topics_task, dcnet.make_centers(topics_task, tmp_path, seconds, copies=False))
    own = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    compared = 0
    for line in own:
        for record in records:
            if line["router"] == "centers" and all(line[k] == record[k] for k in ("rule", "percent", "probing")):
                assert record["scanned_at"]["0.90"] == pytest.approx(line["scanned_at"]["0.90"], rel=1e-6)
                assert record["entries"] == line["entries"]
                compared += 1
    assert compared == 2 * 2 * len(PERCENTS)


def test_temperature_makes_scores_of_any_unit_probabilities(topics_task: Task) -> None:
    start = kmeans.train(topics_task, 5)
    rule = way_of(topics_task, start.router, "ratio")
    doubled = Router("doubled", NLIST, lambda x: 2 * start.router.logits(x))
    once = temperature_of(topics_task, start.router, rule)
    assert temperature_of(topics_task, doubled, rule) == pytest.approx(2 * once, rel=0.02)  # a grid and a parabola


def test_in_sample_the_askers_of_learn_are_those_of_base(in_sample: Task) -> None:
    """Else T would be fitted to where benefit stores vectors for which nobody asks."""
    start = kmeans.train(in_sample, 5)
    way = way_of(in_sample, start.router, "benefit", dict.fromkeys(PERCENTS, 1.0))
    assert temperature_of(in_sample, start.router, way) > 0
    assert in_sample.learn is in_sample.base


def test_command_appends_records_and_prints_spread(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    flags = f"--data_path {folder} --set topics --nlist {NLIST} --out {out} --methods kmeans25 --seeds"
    compare.main([*flags.split(), "1", "2"])
    compare.main([*flags.split(), "3"])
    records = json.loads(out.read_text())
    assert [r["seed"] for r in records] == [1] * 6 + [2] * 6 + [3] * 6
    assert records[0]["bytes"] == 3000 * (4 * 24 + 8) + NLIST * 24 * 4
    printed = capsys.readouterr().out
    assert " ± " in printed
    assert printed.count("| kmeans25 | ratio |") == 6


def test_held_out_share_looks_at_learn_alone(topics_task: Task, rng: np.random.Generator) -> None:
    start = kmeans.train(topics_task, 5)
    rule = way_of(topics_task, start.router, "ratio")
    share = held_out_share(topics_task, start.router, rule, 0.0)
    others = Points(Vectors("query", Path("none"), unit_rows(rng, 10, 24)), topics_task.learn.space)
    blind = topics_task._replace(base=others, query=others, gt=np.zeros((10, 1), np.int64))
    assert held_out_share(blind, start.router, rule, 0.0) == share


def test_held_out_share_is_the_mean_of_neighbours_alike_and_by_kinship(topics_task: Task) -> None:
    start = kmeans.train(topics_task, 5)
    rule = way_of(topics_task, start.router, "ratio")
    n, n_answers = topics_task.held.answer_weights.shape

    def share(worth: list[float]) -> float:
        """Where answers count so much, nearest first."""
        held = topics_task.held._replace(answer_weights=np.tile(np.array(worth) / np.sum(worth), (n, 1)))
        return held_out_share(topics_task._replace(held=held), start.router, rule, 0.0)

    even, falling, first = [1.0] * n_answers, [float(n_answers - i) for i in range(n_answers)], [1.0, *[0.0] * 9]
    assert share(first) < share(falling) < share(even)  # the nearest are found first


def test_tables_hold_means_and_half_the_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def record(seed: int, probing: str, shares: list[float | None], recall: float) -> dict:
        about = {"set": "a", "setting": "transfer", "method": "kmeans25", "rule": "ratio", "percent": 0.8, "seed": seed}
        numbers = {"rows": 100, "entries": 180, "imbalance": 1.5, "p99_at_0.90": 0.25, "bytes": 5e6, "seconds": 10.0}
        at = dict(zip(("0.80", "0.90", "0.95", "0.99"), shares, strict=True))
        recall_at = {"0.005": recall, "0.01": 0.5, "0.02": 0.6, "0.05": 0.7}
        return about | numbers | {"probing": probing, "scanned_at": at, "recall_at": recall_at}

    one, two = tmp_path / "one.json", tmp_path / "two.json"
    first = [record(1, "fixed", [0.1, 0.2, 0.3, 0.4], 0.4), record(1, "adaptive", [0.1, 0.15, 0.2, 0.3], 0.9)]
    one.write_text(json.dumps(first))
    second = [record(2, "fixed", [0.1, 0.4, 0.5, None], 0.2), record(2, "adaptive", [0.1, 0.25, 0.2, 0.3], 0.9)]
    two.write_text(json.dumps(second))
    print_tables([str(one), str(two)])
    printed = capsys.readouterr().out
    assert "## a, transfer" in printed
    assert "| 0.80 ± 0.00 | 10.00 ± 0.00 | 30.00 ± 10.00 | 40.00 ± 10.00 | never |" in printed
    assert "| 20.00 ± 5.00 | 20.00 ± 0.00 | 0.300 ± 0.100 | 0.500 ± 0.000 |" in printed
    assert printed.rstrip().endswith("| 1.50 ± 0.00 | 25.0 ± 0.0 | 10 ± 0 | 5.0 |")
    print_tables([str(one)])
    assert "| 0.80 | 10.00 | 20.00 | 30.00 | 40.00 | 15.00 | 20.00 | 0.400 |" in capsys.readouterr().out


def test_curves_are_the_means_of_the_percent_that_scans_least() -> None:
    def record(percent: float, seed: int, shares: list[float | None], probing: str = "fixed") -> dict:
        at = dict(zip(("0.80", "0.90", "0.95", "0.99"), shares, strict=True))
        about = {"set": "a", "setting": "transfer", "method": "kmeans25", "rule": "ratio", "seed": seed}
        return about | {"percent": percent, "probing": probing, "scanned_at": at}

    records = [
        record(0.0, 1, [0.1, 0.2, 0.3, 0.4]),
        record(0.0, 2, [0.1, 0.4, 0.5, None]),
        record(0.8, 1, [0.1, 0.1, 0.2, 0.2]),
        record(0.8, 2, [0.1, None, None, None]),  # 90 % never reached
        record(0.0, 1, [0.01] * 4, "adaptive"),
        record(0.0, 1, [0.01] * 4) | {"rule": "random"},
    ]
    found = curves.panels(records)
    assert list(found) == [("a", "transfer")]
    assert list(found["a", "transfer"]) == [("kmeans25", "ratio")]
    np.testing.assert_allclose(found["a", "transfer"]["kmeans25", "ratio"], [0.1, 0.3, 0.4, np.nan])
