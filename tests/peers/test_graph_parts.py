"""Parts of the graph of neighbours, ranked by the nearest of several representatives."""

import numpy as np
import pytest

from benchmarks import representatives
from benchmarks.peers import graph_parts, kmeans
from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.evaluator import evaluate, stored_by
from benchmarks.peers.task import Task
from ivfast.route.search import scanned_at
from ivfast.route.tiles import LogitTiles
from tests import by_hand
from tests.peers.reading import NLIST, at_90, hashed


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_a_part_ranks_by_its_nearest_representative(rng: np.random.Generator, metric: str) -> None:
    x = rng.standard_normal((400, 12)).astype(np.float32)
    if metric == "IP":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    parts = rng.integers(0, 6, 400)
    parts[parts == 3] = 5  # nobody is in part 3
    found = graph_parts.represent(x, parts, 6, 4, metric, 1)
    assert np.bincount(found.part, minlength=6).tolist() == [4, 4, 4, 0, 4, 4]
    scores = found.scores(x[:50])
    for row, told in zip(x[:50].astype(np.float64), scores, strict=True):
        for part in (0, 1, 2, 4, 5):
            d2 = [np.square(row - c).sum() for c in found.centers[found.part == part].astype(np.float64)]
            assert told[part] == pytest.approx(-min(d2), abs=1e-4)  # float32
        assert told[3] <= told.min()


def test_one_representative_is_the_middle_of_its_part(rng: np.random.Generator) -> None:
    x, parts = rng.standard_normal((90, 5)).astype(np.float32), np.repeat([0, 1, 2], 30)
    found = graph_parts.represent(x, parts, 3, 1, "L2", 1)
    np.testing.assert_allclose(found.centers, x.reshape(3, 30, 5).mean(axis=1), atol=1e-5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    middle = unit.reshape(3, 30, 5).mean(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    np.testing.assert_allclose(graph_parts.represent(unit, parts, 3, 1, "IP", 1).centers, middle, atol=1e-5)


def test_base_lies_in_its_parts_and_several_representatives_find_them(in_sample: Task) -> None:
    peer = graph_parts.make(in_sample, (1, 8))
    assert peer.settings["largest part over mean"] < 1.1
    assert peer.settings["representatives"] == choose(peer.settings["held-out shares"])
    found = evaluate(in_sample, peer)
    assert found[0]["imbalance"] < 1.01
    assert at_90(found) < 0.7 * at_90(evaluate(in_sample, hashed(in_sample)))
    shares = peer.settings["held-out shares"]
    assert shares[8] < shares[1]
    assert peer.model_bytes == 4 * 24 * peer.settings["in all"]


def test_vectors_that_were_not_partitioned_go_to_the_part_of_their_nearest_representative(transfer: Task) -> None:
    peer = graph_parts.make(transfer, (4,))
    lists = stored_by(transfer, peer.ways["membership"], transfer.base, 0.0, np.arange(len(transfer.base)))
    best = np.concatenate([z.argmax(axis=1) for _, z in LogitTiles(peer.router, transfer.base)])
    assert (lists.buckets[:, 0] == best).all()
    assert peer.settings["in all"] == 4 * NLIST
    assert at_90(evaluate(transfer, peer)) < 0.7 * at_90(evaluate(transfer, hashed(transfer)))


def test_buckets_rank_by_several_representatives_at_equal_storage(in_sample: Task) -> None:
    start = kmeans.train(in_sample, 10)
    plain = kmeans.make(in_sample, 10, start)
    lines = representatives.rows_of(in_sample, "k-means", plain, plain.ways["ratio"], 0.0, [1, len(in_sample.base)])
    assert [line[2] for line in lines] == ["0", "1", str(len(in_sample.base))]
    x, query = (points.x(slice(None)).astype(np.float64) for points in (in_sample.base, in_sample.query))
    expected = by_hand.nearest_share(x, query, in_sample.gt, start.centers)
    assert float(lines[0][4]) == pytest.approx(100 * expected, abs=0.03)  # printed to 0.01; float32 ties
    bucket = by_hand.distances(x, start.centers).argmin(axis=1)
    near = by_hand.distances(query, x)
    z = np.stack([-near[:, bucket == b].min(axis=1) for b in range(NLIST)], axis=1)  # all vectors represent
    lists = by_hand.lists_of(bucket[:, None])
    found = [by_hand.search(lists, in_sample.gt[:, :10], by_hand.best_probes(z, n)) for n in range(1, NLIST + 1)]
    recall, scanned = (np.array([np.mean(pair[i]) for pair in found]) for i in (0, 1))
    assert float(lines[2][4]) == pytest.approx(100 * scanned_at(recall, scanned, 0.9), abs=0.1)
    train = in_sample.neighbors.train
    told = []
    for rows in (train, np.arange(len(x))):
        found = graph_parts.represent(x[rows].astype(np.float32), bucket[rows], NLIST, len(x), in_sample.metric, 1)
        router = graph_parts.route(in_sample, found, bucket)
        told.append(f"{100 * held_out_share(in_sample, router, plain.ways['ratio'], 0.0):.2f}")
    assert lines[2][3] == told[0] != told[1]  # held-out vectors do not represent their own bucket
