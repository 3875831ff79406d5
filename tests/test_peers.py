"""The comparison's evaluator against brute force, and that every peer learns what its paper says it learns."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import compare
from benchmarks.peers import balanced, copies, dcnet, kmeans, linear_router, neural_lsh, scann_tree, usp
from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.evaluator import Adaptive, cut, evaluate, figures, search, store, temperature_of
from benchmarks.peers.mlp import make_network, n_bytes
from benchmarks.peers.peer import PERCENTS, Candidates, Peer, nearest_with, plan_rule
from benchmarks.peers.task import Task, exact, open_task
from ivfast.data import Vectors
from ivfast.probing import Answers, imbalance, log_gains, thresholds_for
from ivfast.routers import LogitTiles, Router
from ivfast.synthetic import save_set
from tests import independent
from tests.conftest import unit_rows

NLIST = 16
PARAM_LIST = (24, 64, NLIST)


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


def task_of(folder: Path, metric: str, setting: str) -> Task:
    return open_task(folder, "topics" if metric == "IP" else "spread", metric, setting, NLIST, 1)


@pytest.fixture(scope="module", params=["IP", "L2"])
def transfer(request: pytest.FixtureRequest, folder: Path) -> Task:
    return task_of(folder, request.param, "transfer")


@pytest.fixture(scope="module", params=["IP", "L2"])
def in_sample(request: pytest.FixtureRequest, folder: Path) -> Task:
    return task_of(folder, request.param, "in-sample")


@pytest.fixture(scope="module")
def topics_task(folder: Path) -> Task:
    return task_of(folder, "IP", "transfer")


def at_90(records: list[dict], probing: str = "fixed", percent: float = 0.0, rule: str | None = None) -> float:
    return next(
        r["scanned_at"]["0.90"]
        for r in records
        if r["probing"] == probing and r["percent"] == percent and rule in (None, r["rule"])
    )


def hashed(task: Task) -> Peer:
    """Locality-sensitive hashing: buckets by random products, ranked by the same."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((task.base.dim, NLIST)).astype(np.float32)
    router = Router("hashed", NLIST, lambda x: x @ w)
    rule = plan_rule(task, router, "membership", {0.0: 1.0})._replace(percents=(0.0,))
    return Peer("hashed", router, {"own": rule}, 0.0, 0, {})


# the evaluator


def brute_force(lists: np.ndarray, gt: np.ndarray, probes: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Search one query after the other with Python sets; probes: buckets probed for each query."""
    members = [{i for i, row in enumerate(lists.tolist()) if b in row} for b in range(NLIST)]
    found, scanned = 0, []
    for answers, probed in zip(gt.tolist(), probes, strict=True):
        looked_at = set().union(*(members[b] for b in probed))
        found += len(looked_at & {a for a in answers if a >= 0})
        scanned.append(sum(len(members[b]) for b in probed) / len(lists))
    return found / (gt >= 0).sum(), np.array(scanned)


@pytest.fixture
def tables(rng: np.random.Generator, logit_table) -> tuple[LogitTiles, np.ndarray, np.ndarray]:
    """Random scores of queries, lists with copies, and answers of which some are missing."""
    queries = logit_table(rng.standard_normal((40, NLIST)))
    keys = rng.standard_normal((200, 4)).astype(np.float32)
    buckets = np.argsort(rng.random((200, NLIST)), axis=1)[:, :4].astype(np.int32)
    gt = np.argsort(rng.random((40, 200)), axis=1)[:, :5]
    gt[rng.random(gt.shape) < 0.2] = -1
    return queries, cut(Candidates(buckets, keys), 0.8), gt


def answers_of(gt: np.ndarray) -> Answers:
    return Answers(np.maximum(gt, 0), gt >= 0)


def test_fixed_search_equals_brute_force(tables) -> None:
    queries, lists, gt = tables
    curve = search(queries, store(lists, np.arange(200), NLIST), answers_of(gt))
    z = queries.all()
    for nprobe in range(1, NLIST + 1):
        probes = list(np.argsort(-z, axis=1)[:, :nprobe])
        recall, scanned = brute_force(lists, gt, probes)
        assert curve.recall[nprobe - 1] == pytest.approx(recall, abs=1e-12)
        assert curve.scanned[nprobe - 1] == pytest.approx(scanned.mean(), abs=1e-12)
        assert curve.p99[nprobe - 1] == pytest.approx(np.percentile(scanned, 99), abs=1e-12)


def test_adaptive_search_equals_brute_force(tables, rng: np.random.Generator) -> None:
    queries, lists, gt = tables
    stored = store(lists, np.arange(200), NLIST)
    held_out = rng.standard_normal((100, NLIST)).astype(np.float32)
    curve = search(queries, stored, answers_of(gt), Adaptive(held_out, 1.5))
    thresholds = thresholds_for(log_gains(held_out, 1.5, stored), np.geomspace(1, NLIST, 200))
    gains = log_gains(queries.all(), 1.5, stored)
    for i in (0, 60, 130, 199):
        recall, scanned = brute_force(lists, gt, [np.flatnonzero(row > thresholds[i]) for row in gains])
        assert curve.recall[i] == pytest.approx(recall, abs=1e-12)
        assert curve.scanned[i] == pytest.approx(scanned.mean(), abs=1e-12)


def test_budget_takes_the_largest_keys_over_all_vectors(rng: np.random.Generator) -> None:
    keys = rng.permutation(300).reshape(100, 3).astype(np.float32)
    keys[:5, 1:] = -np.inf
    buckets = np.tile(np.arange(3, dtype=np.int32), (100, 1))
    lists = cut(Candidates(buckets, keys), 0.7)
    assert (lists[:, 0] == 0).all()
    assert (lists[:, 1:] >= 0).sum() == 70
    assert keys[:, 1:][lists[:, 1:] >= 0].min() > keys[:, 1:][lists[:, 1:] < 0].max()
    assert (cut(Candidates(buckets, keys), 5.0)[:, 1:] >= 0).sum() == 190  # no copy at -inf


def test_figures_are_read_off_the_curve(tables) -> None:
    queries, lists, gt = tables
    stored = store(lists, np.arange(200), NLIST)
    curve = search(queries, stored, answers_of(gt))
    found = figures(curve, stored)
    reached = int(np.flatnonzero(curve.recall >= 0.9)[0])
    assert curve.scanned[reached - 1] <= found["scanned_at"]["0.90"] <= curve.scanned[reached]
    assert found["p99_at_0.90"] == curve.p99[reached]
    assert found["recall_at"]["0.01"] == pytest.approx(curve.recall[0] * 0.01 / curve.scanned[0])
    assert found["entries"] == (lists >= 0).sum() == 360
    assert found["imbalance"] == imbalance(stored.sizes)


def test_kmeans_scans_what_a_second_opinion_says(transfer: Task) -> None:
    peer = kmeans.make(transfer, 10, kmeans.train(transfer, 10))
    centers = kmeans.train(transfer, 10).centers
    x, q = transfer.inside(transfer.base), transfer.inside(transfer.query)
    expected = independent.nearest_share(x, q, transfer.gt, centers)
    assert at_90(evaluate(transfer, peer)) == pytest.approx(expected, rel=1e-3)  # float32 ties


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


# copies


@pytest.mark.parametrize("squared", [True, False])
def test_copies_go_where_the_papers_loss_is_least(transfer: Task, squared: bool) -> None:
    centers = kmeans.train(transfer, 5).centers
    found = copies.one_copy(transfer, centers, 1.5, squared=squared).candidates(transfer.base, 1.0)
    for i in range(0, 3000, 300):
        x = transfer.inside(transfer.base)[i].astype(np.float64)
        residuals = x - centers.astype(np.float64)
        first = int(np.square(residuals).sum(axis=1).argmin())
        r = residuals[first]
        along = residuals @ r
        penalty = along**2 / (r @ r) if squared else along
        losses = np.square(residuals).sum(axis=1) + 1.5 * penalty
        losses[first] = np.inf
        assert found.buckets[i].tolist() == [first, losses.argmin()]
        assert found.keys[i, 1] == pytest.approx(-losses.min() / (2.5 * (r @ r)), rel=1e-3)  # float32


def test_spann_leaves_out_what_lies_behind_a_bucket_taken(transfer: Task) -> None:
    centers = kmeans.train(transfer, 5).centers
    found = copies.spann(transfer, centers).candidates(transfer.base, 1.0)
    x = transfer.inside(transfer.base)
    kept = found.keys > -np.inf
    kept[:, 0] = True
    for i in range(0, 3000, 100):
        near, taken = found.buckets[i], []
        distances = np.linalg.norm(x[i] - centers[near], axis=1)
        for b, d, k in zip(near, distances, kept[i], strict=True):
            behind = any(np.linalg.norm(centers[b] - centers[t]) < d for t in taken)
            assert k == (not behind)
            taken += [b] if k else []
    assert (np.diff(np.where(kept, found.keys, np.nan)[:, :1]) <= 0).all()


def test_every_rule_keeps_to_its_budget_and_beats_chance(transfer: Task) -> None:
    start = kmeans.train(transfer, 10)
    rules, shares = copies.all_rules(transfer, start)
    assert {"ratio", "soar", "rairs", "spann", "random", "membership", "benefit"} == set(rules)
    assert set(shares["soar"]) == set(copies.LAMBDAS)
    records = evaluate(transfer, kmeans.make(transfer, 10, start, rules))
    for record in records:
        extra = record["entries"] - len(transfer.base)
        assert extra <= round(record["percent"] * len(transfer.base))
        if record["rule"] in ("ratio", "random", "membership", "benefit"):
            assert extra == round(record["percent"] * len(transfer.base))
    assert at_90(records, percent=0.8, rule="soar") < at_90(records, percent=0.8, rule="random")


def test_given_primary_stays_first_and_is_not_copied(rng: np.random.Generator) -> None:
    z = -rng.random((50, NLIST)).astype(np.float32)
    primary = rng.integers(0, NLIST, 50)
    found = nearest_with(primary, z, 5)
    assert (found.buckets[:, 0] == primary).all()
    assert (found.buckets[:, 1:] != primary[:, None]).all()
    assert (np.diff(found.keys[:, 1:], axis=1) <= 0).all()


# peers


def test_balanced_buckets_are_more_even_than_kmeans(in_sample: Task) -> None:
    start = kmeans.train(in_sample, 10)
    plain = evaluate(in_sample, kmeans.make(in_sample, 10, start))[0]
    peer = balanced.make(in_sample, start)
    even = evaluate(in_sample, peer)[0]
    assert even["imbalance"] < plain["imbalance"]
    assert even["scanned_at"]["0.90"] < at_90(evaluate(in_sample, hashed(in_sample)))
    assert peer.settings["alpha"] == choose(peer.settings["held-out shares"])


def test_linear_router_ranks_better_than_kmeans_on_held_out_text_like_data(topics_task: Task) -> None:
    start = kmeans.train(topics_task, 10)
    peer = linear_router.make(topics_task, start)
    assert peer.settings["held-out loss"] < peer.settings["at the start"]
    own = held_out_share(topics_task, start.router, peer.rules["ratio"], 0.0)
    assert held_out_share(topics_task, peer.router, peer.rules["ratio"], 0.0) < own


def test_linear_router_starts_as_kmeans(transfer: Task) -> None:
    start = kmeans.train(transfer, 10)
    peer = linear_router.make(transfer, start, epochs=0)
    z, own = (LogitTiles(r, transfer.query, transfer.space).all() for r in (peer.router, start.router))
    assert (z.argmax(axis=1) == own.argmax(axis=1)).mean() > 0.99  # spherical k-means: unit up to float32


def test_usp_loss_is_the_papers(rng: np.random.Generator) -> None:
    z = rng.standard_normal((64, NLIST))
    majority = rng.integers(0, NLIST, 64)
    p = independent.softmax(z)
    expected = -np.log(p[np.arange(64), majority]).mean() - 7 / 64 * np.sort(p, axis=0)[-4:].sum()
    found = usp.usp_loss(torch.from_numpy(z), torch.from_numpy(majority), 7.0)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_usp_learns(transfer: Task) -> None:
    untrained = usp.make(transfer, PARAM_LIST, epochs=0, etas=(30.0,))
    peer = usp.make(transfer, PARAM_LIST, epochs=80, etas=(7.0, 30.0))
    assert peer.settings["eta"] == choose(peer.settings["held-out shares"])
    found = evaluate(transfer, peer)
    assert at_90(found) < 0.7 * at_90(evaluate(transfer, untrained))
    assert found[0]["imbalance"] < 1.2
    assert peer.model_bytes == n_bytes(make_network(PARAM_LIST, 1)) == 4 * (24 * 64 + 64 * 3 + 64 * NLIST + NLIST)


def test_neural_lsh_parts_are_even_and_its_network_finds_them(in_sample: Task) -> None:
    pytest.importorskip("pymetis")
    peer = neural_lsh.make(in_sample, PARAM_LIST)
    assert peer.settings["largest part over mean"] < 1.1
    found = evaluate(in_sample, peer)
    assert found[0]["imbalance"] < 1.01
    untrained = neural_lsh.make(in_sample, PARAM_LIST, epochs=0)  # looks into parts by chance
    assert at_90(found) < 0.6 * at_90(evaluate(in_sample, untrained))


def test_neural_lsh_routes_vectors_it_never_saw(transfer: Task) -> None:
    pytest.importorskip("pymetis")
    found = evaluate(transfer, neural_lsh.make(transfer, PARAM_LIST))
    assert at_90(found) < 0.7 * at_90(evaluate(transfer, neural_lsh.make(transfer, PARAM_LIST, epochs=0)))


def test_partition_keeps_the_parts_of_a_graph_that_falls_apart() -> None:
    pytest.importorskip("pymetis")
    near = np.array([[j for j in range(8) if j != i % 8] for i in range(32)]) + 8 * (np.arange(32) // 8)[:, None]
    parts = neural_lsh.partition(near, 4, 1).reshape(4, 8)
    assert (parts == parts[:, :1]).all()
    assert len(np.unique(parts[:, 0])) == 4


def test_part_comes_first_and_the_old_primary_keeps_a_place() -> None:
    found = Candidates(np.array([[3, 5, 7], [3, 5, 7], [3, 5, 7]], np.int32), np.array([[0, -1, -2]] * 3, np.float32))
    first = neural_lsh.part_first(found, np.array([3, 7, 9]))
    assert first.buckets.tolist() == [[3, 5, 7], [7, 5, 3], [9, 5, 3]]
    assert first.keys[:, 1:].tolist() == [[-1, -2], [-1, 0], [-1, 0]]


@pytest.mark.skipif(find_spec("scann") is None, reason="scann is not installed")
@pytest.mark.parametrize(("metric", "soar"), [("IP", False), ("IP", True), ("L2", False)])
def test_scann_lists_and_order_give_its_own_recall(folder: Path, metric: str, soar: bool) -> None:
    in_sample = task_of(folder, metric, "in-sample")
    tree = scann_tree.build(in_sample, soar=soar)
    peer = scann_tree.as_peer(in_sample, tree, 0.0)
    rule = peer.rules["own"]
    lists = cut(rule.candidates(in_sample.base, 0.0), rule.percents[0])
    assert (lists >= 0).sum() == (tree.tokens >= 0).sum()
    query = in_sample.inside(in_sample.query)
    gt = exact(query, in_sample.inside(in_sample.base), in_sample.metric)
    answers = Answers(gt, np.ones(gt.shape, dtype=bool))
    queries = LogitTiles(peer.router, in_sample.query, in_sample.space)
    curve = search(queries, store(lists, np.arange(len(lists)), NLIST), answers)
    for leaves in (1, 2, 4, 8):
        # ties of the tenth neighbour, and of leaves in float32: 3,000 answers
        assert curve.recall[leaves - 1] == pytest.approx(scann_tree.own_recall(tree, query, gt, leaves), abs=1e-3)
    assert at_90(evaluate(in_sample, peer), percent=rule.percents[0]) < at_90(evaluate(in_sample, hashed(in_sample)))


# the command


def test_temperature_makes_scores_of_any_unit_probabilities(topics_task: Task) -> None:
    start = kmeans.train(topics_task, 5)
    rule = plan_rule(topics_task, start.router, "ratio")
    doubled = Router("doubled", NLIST, lambda x: 2 * start.router.logits(x))
    once = temperature_of(topics_task, start.router, rule)
    assert temperature_of(topics_task, doubled, rule) == pytest.approx(2 * once, rel=0.02)  # a grid and a parabola


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
    assert printed.count("| kmeans25 | ratio |") == 12


def test_held_out_share_looks_at_learn_alone(topics_task: Task, rng: np.random.Generator) -> None:
    start = kmeans.train(topics_task, 5)
    rule = plan_rule(topics_task, start.router, "ratio")
    share = held_out_share(topics_task, start.router, rule, 0.0)
    others = Vectors("query", Path("none"), unit_rows(rng, 10, 24))
    blind = topics_task._replace(base=others, query=others, gt=np.zeros((10, 1), np.int64))
    assert held_out_share(blind, start.router, rule, 0.0) == share
