"""Rules that choose copies do what their papers say."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import copies, kmeans
from benchmarks.peers.evaluator import evaluate, stored_by
from benchmarks.peers.peer import nearest_with
from benchmarks.peers.task import Task
from ivfast.route.routers import Router
from ivfast.route.tiles import LogitTiles
from ivfast.store.rules.rule import Rule
from tests import by_hand
from tests.peers.reading import NLIST, at_90, hashed, task_of


def ranked(rule: Rule, router: Router, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Buckets and keys of all of base."""
    found = [rule.rank(tile, task.held.width) for tile in LogitTiles(router, task.base).tiles()]
    buckets, keys = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return buckets, keys


@pytest.mark.parametrize("squared", [True, False])
def test_copies_go_where_the_papers_loss_is_least(transfer: Task, squared: bool) -> None:
    centers = kmeans.train(transfer, 5).centers
    start = kmeans.train(transfer, 5).router
    buckets, keys = ranked(copies.OneCopy(centers, transfer.metric, 1.5, squared), start, transfer)
    for i in range(0, 3000, 300):
        x = transfer.base.x(slice(None))[i].astype(np.float64)
        residuals = x - centers.astype(np.float64)
        d2 = by_hand.distances(x[None], centers)[0]
        first = int(d2.argmin())
        r = residuals[first]
        along = residuals @ r
        penalty = along**2 / (r @ r) if squared else along
        losses = d2 + 1.5 * penalty
        losses[first] = np.inf
        assert buckets[i].tolist() == [first, losses.argmin()]
        assert keys[i, 1] == pytest.approx(-losses.min() / (2.5 * (r @ r)), rel=1e-3)  # float32
    tile = next(LogitTiles(start, transfer.base).tiles())
    assert copies.OneCopy(centers, transfer.metric, 1.5, squared).rank(tile, 1)[0].shape == (len(tile.z), 1)


def test_rairs_by_its_own_rule_copies_only_where_the_nearest_bucket_again_is_worse(folder: Path) -> None:
    task = task_of(folder, "L2", "transfer")
    start = kmeans.train(task, 5)
    centers, lam = start.centers.astype(np.float64), 0.5  # of the authors' test, as their ten candidates
    x = task.base.x(slice(None)).astype(np.float64)
    expected = []
    for row in x:
        residuals = row - centers
        near = np.argsort(np.square(residuals).sum(axis=1))[:10]
        losses = [residuals[c] @ residuals[c] + lam * residuals[c] @ residuals[near[0]] for c in near]
        best = int(np.argmin(losses))
        expected.append([near[0], near[best] if best else -1])
    peer = copies.make_rairs_own(task, start)
    way = peer.ways["own"]
    lists = stored_by(task, way, task.base, way.copies[0], np.arange(len(x)))
    assert (lists.buckets[:, :2] == expected).mean() > 0.999  # float32 ties
    assert 0 < way.copies[0] < 1  # some stay single
    assert lists.entries == len(x) + round(way.copies[0] * len(x)) == (lists.buckets >= 0).sum()
    assert at_90(evaluate(task, peer), percent=way.copies[0], rule="own") < at_90(evaluate(task, hashed(task)))


def test_spann_leaves_out_what_lies_behind_a_bucket_taken(transfer: Task) -> None:
    centers = kmeans.train(transfer, 5).centers
    buckets, keys = ranked(copies.Spann(centers, transfer.metric), kmeans.train(transfer, 5).router, transfer)
    x = transfer.base.x(slice(None))
    for i in range(0, 3000, 100):
        distances = np.linalg.norm(x[i] - centers, axis=1)
        taken: list[int] = []
        for b in np.argsort(distances)[:8].tolist():
            if not any(np.linalg.norm(centers[b] - centers[t]) < distances[b] for t in taken):
                taken.append(b)
        assert buckets[i][buckets[i] >= 0].tolist() == taken
        expected = np.log(distances[taken[0]] / distances[taken])
        np.testing.assert_allclose(keys[i][buckets[i] >= 0], expected, atol=1e-4)  # float32


def test_every_rule_keeps_to_its_budget_and_beats_chance(transfer: Task) -> None:
    start = kmeans.train(transfer, 10)
    ways, shares = copies.all_ways(transfer, start)
    assert {"ratio", "soar", "rairs", "spann", "random", "membership", "unasked", "benefit"} == set(ways)
    assert set(shares["soar"]) == set(copies.LAMBDAS)
    records = evaluate(transfer, kmeans.make(transfer, 10, start, ways))
    for record in records:
        extra = record["entries"] - len(transfer.base)
        assert extra <= round(record["percent"] * len(transfer.base))
        if record["rule"] in ("ratio", "random", "membership", "unasked", "benefit"):
            assert extra == round(record["percent"] * len(transfer.base))
    assert at_90(records, percent=0.8, rule="soar") < at_90(records, percent=0.8, rule="random")


def test_given_primary_stays_first_and_is_not_copied(rng: np.random.Generator) -> None:
    z = -rng.random((50, NLIST)).astype(np.float32)
    primary = rng.integers(0, NLIST, 50)
    buckets, keys = nearest_with(primary, z, 5)
    assert (buckets[:, 0] == primary).all()
    assert (buckets[:, 1:] != primary[:, None]).all()
    assert (np.diff(keys[:, 1:], axis=1) <= 0).all()
