"""Rules that choose copies do what their papers say."""

import numpy as np
import pytest

from benchmarks.peers import copies, kmeans
from benchmarks.peers.evaluator import evaluate
from benchmarks.peers.peer import nearest_with
from benchmarks.peers.task import Task
from tests import by_hand
from tests.peers.reading import NLIST, at_90


@pytest.mark.parametrize("squared", [True, False])
def test_copies_go_where_the_papers_loss_is_least(transfer: Task, squared: bool) -> None:
    centers = kmeans.train(transfer, 5).centers
    found = copies.one_copy(transfer, centers, 1.5, squared=squared).candidates(transfer.base, 1.0)
    for i in range(0, 3000, 300):
        x = transfer.inside(transfer.base)[i].astype(np.float64)
        residuals = x - centers.astype(np.float64)
        d2 = by_hand.distances(x[None], centers)[0]
        first = int(d2.argmin())
        r = residuals[first]
        along = residuals @ r
        penalty = along**2 / (r @ r) if squared else along
        losses = d2 + 1.5 * penalty
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
    assert {"ratio", "soar", "rairs", "spann", "random", "membership", "unasked", "benefit"} == set(rules)
    assert set(shares["soar"]) == set(copies.LAMBDAS)
    records = evaluate(transfer, kmeans.make(transfer, 10, start, rules))
    for record in records:
        extra = record["entries"] - len(transfer.base)
        assert extra <= round(record["percent"] * len(transfer.base))
        if record["rule"] in ("ratio", "random", "membership", "unasked", "benefit"):
            assert extra == round(record["percent"] * len(transfer.base))
    assert at_90(records, percent=0.8, rule="soar") < at_90(records, percent=0.8, rule="random")


def test_given_primary_stays_first_and_is_not_copied(rng: np.random.Generator) -> None:
    z = -rng.random((50, NLIST)).astype(np.float32)
    primary = rng.integers(0, NLIST, 50)
    found = nearest_with(primary, z, 5)
    assert (found.buckets[:, 0] == primary).all()
    assert (found.buckets[:, 1:] != primary[:, None]).all()
    assert (np.diff(found.keys[:, 1:], axis=1) <= 0).all()
