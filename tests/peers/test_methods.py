"""Every peer learns what its paper says it learns."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import compare
from benchmarks.peers import balanced, kmeans, linear_router, neural_lsh, scann_tree, usp
from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.evaluator import evaluate, search, stored_by
from benchmarks.peers.mlp import make_network, n_bytes
from benchmarks.peers.peer import way_of
from benchmarks.peers.task import Task, exact
from benchmarks.runs import PERCENTS
from ivfast.route.search import Answers
from ivfast.route.tiles import LogitTiles
from tests import by_hand
from tests.peers.reading import NLIST, PARAM_LIST, at_90, hashed, task_of


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
    own = held_out_share(topics_task, start.router, peer.ways["ratio"], 0.0)
    assert held_out_share(topics_task, peer.router, peer.ways["ratio"], 0.0) < own


def test_linear_router_starts_as_kmeans(transfer: Task) -> None:
    start = kmeans.train(transfer, 10)
    peer = linear_router.make(transfer, start, epochs=0)
    z, own = (LogitTiles(r, transfer.query).all() for r in (peer.router, start.router))
    assert (z.argmax(axis=1) == own.argmax(axis=1)).mean() > 0.99  # spherical k-means: unit up to float32


def test_usp_loss_is_the_papers(rng: np.random.Generator) -> None:
    z = rng.standard_normal((64, NLIST))
    majority = rng.integers(0, NLIST, 64)
    p = by_hand.softmax(z)
    expected = -np.log(p[np.arange(64), majority]).mean() - 7 / 64 * np.sort(p, axis=0)[-4:].sum()
    found = usp.usp_loss(torch.from_numpy(z), torch.from_numpy(majority), 7.0)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_usp_learns(transfer: Task) -> None:
    untrained = usp.make(transfer, PARAM_LIST, epochs=0, etas=(30.0,))
    peer = usp.make(transfer, PARAM_LIST, epochs=40, etas=(7.0, 30.0))
    assert peer.settings["eta"] == choose(peer.settings["held-out shares"])
    found = evaluate(transfer, peer)
    assert at_90(found) < 0.7 * at_90(evaluate(transfer, untrained))
    # by memberships as they are: T_s chosen for what is scanned may leave buckets less even
    plain = peer._replace(ways={"unasked": way_of(transfer, peer.router, "unasked", dict.fromkeys(PERCENTS, 1.0))})
    assert evaluate(transfer, plain)[0]["imbalance"] < 1.2
    assert peer.model_bytes == n_bytes(make_network(PARAM_LIST, 1)) == 4 * (24 * 64 + 64 * 3 + 64 * NLIST + NLIST)


def test_neural_lsh_parts_are_even_and_its_network_finds_them(in_sample: Task) -> None:
    peer = neural_lsh.make(in_sample, PARAM_LIST)
    assert peer.settings["largest part over mean"] < 1.1
    found = evaluate(in_sample, peer)
    assert found[0]["imbalance"] < 1.01
    untrained = neural_lsh.make(in_sample, PARAM_LIST, epochs=0)  # looks into parts by chance
    assert at_90(found) < 0.6 * at_90(evaluate(in_sample, untrained))


def test_neural_lsh_routes_vectors_it_never_saw(transfer: Task) -> None:
    found = evaluate(transfer, neural_lsh.make(transfer, PARAM_LIST))
    assert at_90(found) < 0.7 * at_90(evaluate(transfer, neural_lsh.make(transfer, PARAM_LIST, epochs=0)))


def test_partition_keeps_the_parts_of_a_graph_that_falls_apart() -> None:
    near = np.array([[j for j in range(8) if j != i % 8] for i in range(32)]) + 8 * (np.arange(32) // 8)[:, None]
    parts = neural_lsh.partition(near, 4, 1).reshape(4, 8)
    assert (parts == parts[:, :1]).all()
    assert len(np.unique(parts[:, 0])) == 4


def test_part_comes_first_and_the_old_primary_keeps_a_place() -> None:
    buckets, keys = np.array([[3, 5, 7], [3, 5, 7], [3, 5, 7]], np.int32), np.array([[0, -1, -2]] * 3, np.float32)
    buckets, keys = neural_lsh.part_first(buckets, keys, np.array([3, 7, 9]))
    assert buckets.tolist() == [[3, 5, 7], [7, 5, 3], [9, 5, 3]]
    assert keys[:, 1:].tolist() == [[-1, -2], [-1, 0], [-1, 0]]


@pytest.mark.parametrize(
    ("metric", "soar", "avq"),
    [("IP", False, None), ("IP", True, None), ("L2", False, None), ("IP", False, 2.5), ("IP", True, 2.5)],
)
def test_scann_lists_and_order_give_its_own_recall(folder: Path, metric: str, soar: bool, avq: float | None) -> None:
    in_sample = task_of(folder, metric, "in-sample")
    tree = scann_tree.build_task(in_sample, soar=soar, avq=avq)
    peer = scann_tree.as_peer(in_sample, tree, 0.0)
    way = peer.ways["own"]
    lists = stored_by(in_sample, way, in_sample.base, way.copies[0], np.arange(len(in_sample.base)))
    assert lists.entries == (tree.tokens >= 0).sum()
    query = in_sample.query.x(slice(None))
    gt = exact(query, in_sample.base.x(slice(None)), in_sample.metric)
    answers = Answers(gt, np.ones(gt.shape, dtype=bool))
    queries = LogitTiles(peer.router, in_sample.query)
    curve = search(queries, lists, answers)
    for leaves in (1, 2, 4, 8):
        # ties of the tenth neighbour, and of leaves in float32: 3,000 answers
        assert curve.recall[leaves - 1] == pytest.approx(scann_tree.own_recall(tree, query, gt, leaves), abs=1e-3)
    assert at_90(evaluate(in_sample, peer), percent=way.copies[0]) < at_90(evaluate(in_sample, hashed(in_sample)))


@pytest.mark.parametrize("soar", [False, True])
def test_scann_avq_is_chosen_on_held_out_pairs_and_moves_centers(folder: Path, soar: bool) -> None:
    in_sample = task_of(folder, "IP", "in-sample")
    peer = scann_tree.make_avq(in_sample, soar=soar, avqs=(1.0, 5.0))
    assert peer.name == ("scann_avq_soar" if soar else "scann_avq")
    assert peer.settings["avq"] == choose(peer.settings["held-out shares"])
    assert (peer.ways["own"].copies[0] > 0) is soar
    moved = scann_tree.build_task(in_sample, soar=soar, avq=peer.settings["avq"]).centers
    assert np.linalg.norm(moved, axis=1).max() < 0.99  # shortened; spherical centers without AVQ are of unit norm
    usual = scann_tree.build_task(in_sample, soar=soar).centers
    np.testing.assert_allclose(np.linalg.norm(usual, axis=1), 1, atol=1e-5)


def test_methods_are_left_out_where_they_cannot_be_compared(folder: Path) -> None:
    options = compare.parse(["--data_path", str(folder), "--set", "topics"])
    left = {}
    for metric, setting in product(("IP", "L2"), ("in-sample", "transfer")):
        task = task_of(folder, metric, setting)
        left[metric, setting] = {name for name in compare.METHODS if compare.unfit(name, task, options)}
    scann = {"scann", "scann_soar", "scann_avq", "scann_avq_soar"}
    assert left["IP", "in-sample"] == {"rairs_own"}
    assert left["L2", "in-sample"] == scann - {"scann"}
    assert left["IP", "transfer"] == scann | {"rairs_own"}
    assert left["L2", "transfer"] == scann
