"""KeyNet learns to ask for the key in the query's place, from learn pairs and from a log."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import query_log
from benchmarks.peers import keynet, kmeans
from benchmarks.peers.choosing import held_out_share
from benchmarks.peers.task import Task
from ivfast.data.synthetic import save_set
from ivfast.route.tiles import LogitTiles
from ivfast.start.logged import split_log
from tests import by_hand
from tests.conftest import unit_rows


def test_loss_is_the_papers(rng: np.random.Generator) -> None:
    found, query, key = rng.standard_normal((3, 20, 6))
    expected = ((found - key) ** 2).mean()
    three = torch.from_numpy(found), torch.from_numpy(query), torch.from_numpy(key)
    told = [float(keynet.key_loss(*three, metric)) for metric in ("IP", "L2")]
    products = (query * found).sum(axis=1) - (query * key).sum(axis=1)
    np.testing.assert_allclose(told, [expected + 0.01 * (products**2).mean(), expected], rtol=1e-12)


def test_starts_as_kmeans(transfer: Task) -> None:
    start = kmeans.train(transfer, 10)
    peer = keynet.make(transfer, start, (32,), epochs=0)
    z, own = (LogitTiles(router, transfer.query).all() for router in (peer.router, start.router))
    np.testing.assert_allclose(z, own, rtol=1e-3, atol=1e-3)  # under IP made of unit norm again
    assert peer.settings["epoch"] == 0


def test_epoch_is_the_one_that_scans_least_on_held_out_pairs(topics_task: Task) -> None:
    start = kmeans.train(topics_task, 10)
    peer = keynet.make(topics_task, start, (64, 64), epochs=15)
    assert peer.settings["epoch"] > 0
    assert peer.settings["held-out share"] < peer.settings["at the start"]
    share = held_out_share(topics_task, peer.router, peer.ways["ratio"], 0.0)
    assert share == peer.settings["held-out share"]


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_learns_a_map_from_given_pairs(rng: np.random.Generator, metric: str) -> None:
    key = unit_rows(rng, 3000, 8)
    query = np.roll(key, 3, axis=1)

    def share_of(rewrite: keynet.Rewrite) -> float:
        return float(np.square(rewrite(query[2500:]) - key[2500:]).sum(axis=1).mean())

    net = keynet.train_keynet(keynet.Pairs(query[:2500], key[:2500]), metric, (64,), 1, share_of, epochs=30)
    assert net.settings["held-out share"] < 0.3 * net.settings["at the start"]
    assert share_of(net.rewrite) == net.settings["held-out share"]
    if metric == "IP":
        np.testing.assert_allclose(np.linalg.norm(net.rewrite(query[:9]), axis=1), 1, atol=1e-5)


def test_noise_keeps_the_queries_first(rng: np.random.Generator) -> None:
    queries = unit_rows(rng, 50, 100)
    noisy = keynet.with_noise(queries, "IP", 1)
    assert noisy.shape == (550, 100)
    assert (noisy[:50] == queries).all()
    np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), 1, atol=1e-5)
    away = keynet.with_noise(queries, "L2", 1)[50:] - np.tile(queries, (10, 1))
    assert away.std() == pytest.approx(0.02, rel=0.05)


def test_peers_of_a_log_get_its_nearest_and_are_told_over_kmeans(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, query, log, centers = (unit_rows(rng, n, 12) for n in (1000, 200, 400, 16))
    gt = np.argsort(-query @ base.T, axis=1)[:, :10]
    save_set(tmp_path, "kind", base, base, query, gt)
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "kmeans.npy", centers)
    monkeypatch.setattr(query_log, "NLIST", 16)
    trains, held = split_log(400, 1)

    def given(pairs: keynet.Pairs, metric: str, hidden: tuple, seed: int, share_of: Callable) -> keynet.KeyNet:
        assert (pairs.query[: len(trains)] == log[trains]).all()
        np.testing.assert_array_equal(pairs.key, base[(pairs.query @ base.T).argmax(axis=1)])
        answers = np.argsort(-log[held] @ base.T, axis=1)[:, :10]
        expected = by_hand.nearest_share(base, log[held], answers, centers)
        assert share_of(lambda x: x) == pytest.approx(expected, rel=1e-3)  # float32 ties
        return keynet.train_keynet(pairs, metric, hidden, seed, share_of, epochs=0)

    monkeypatch.setattr(query_log, "train_keynet", given)
    linear, key = query_log.peers_of_log(tmp_path, "kind", tmp_path / "out", log)
    assert [linear[0], key[0]] == ["linear router", "KeyNet"]
    share = by_hand.nearest_share(base, query, gt, centers)
    assert key[1] == f"| {100 * share:.2f} % | 1.000 | | |"
    assert linear[1].startswith(f"| {100 * share:.2f} % | ")
