"""Rules of copies that look at the nearest buckets alone store what those store that look at all."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from benchmarks.peers import copies, kmeans, near_copies
from benchmarks.peers.large_task import Million
from benchmarks.peers.task import Task
from ivfast.data.vectors import Points
from ivfast.route.tiles import LogitTiles
from ivfast.store.place import Plan, place
from ivfast.store.rules.rule import Rule
from tests.peers.reading import NLIST, task_of


@pytest.fixture(scope="module")
def topics(folder: Path) -> Task:
    return task_of(folder, "IP", "in-sample")


def both(task: Task, name: str) -> tuple[Rule, np.ndarray, np.ndarray]:
    """A rule that looks at all buckets, and what its twin finds of base: buckets and keys."""
    centers = kmeans.train(task, 5).centers
    near = near_copies.Near(task.base.x(slice(None)), centers)
    if name == "spann":
        return copies.Spann(centers, "IP"), *near.spann()
    squared = name == "soar"
    return copies.OneCopy(centers, "IP", 1.5, squared), *near.one_copy(1.5, squared=squared)


@pytest.mark.parametrize("name", ["soar", "rairs", "spann"])
def test_the_nearest_buckets_are_enough(topics: Task, name: str) -> None:
    rule, buckets, keys = both(topics, name)
    tiles = LogitTiles(kmeans.train(topics, 5).router, topics.base)
    expected = place(tiles, [Plan(name, 0.8, rule)], topics.held.width)[0]
    stored = near_copies.cut(buckets, keys, 0.8)
    assert abs(int((stored >= 0).sum()) - expected.entries) <= 2  # ties at the border
    same = [set(a[a >= 0]) == set(b[b >= 0]) for a, b in zip(stored, expected.buckets, strict=True)]
    assert np.mean(same) > 0.99  # float32: a few losses are equal to the last digits


def test_without_a_budget_each_vector_has_its_nearest_bucket(topics: Task) -> None:
    _, buckets, keys = both(topics, "soar")
    assert near_copies.cut(buckets, keys, 0.0).shape == (len(topics.base), 1)
    assert (near_copies.cut(buckets, keys, 5.0) >= 0).all(), "more budget than copies on offer"


def test_recall_of_a_large_task_is_that_of_a_search(topics: Task) -> None:
    million = Million(topics.folder / topics.name)
    centers = kmeans.train(topics, 5).centers
    buckets = near_copies.Near(million.base, centers).buckets[:, :1]
    curve = million.curve(centers, buckets)
    x, query = million.base, million.query.x(slice(None))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(x.shape[1]), x.shape[1], NLIST, faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(centers)
    index.is_trained = True
    index.add(np.ascontiguousarray(x))
    for nprobe in (1, 4, NLIST):
        index.nprobe = nprobe
        found = index.search(query, million.gt.shape[1])[1]
        recall = (found[:, :, None] == million.gt[:, None, :]).any(axis=1).mean()
        assert curve.recall[nprobe - 1] == pytest.approx(recall, abs=1e-3)


def test_held_out_rows_do_not_answer_themselves(topics: Task) -> None:
    million = Million(topics.folder / topics.name)
    points, found = million.held_out
    assert isinstance(points, Points)
    assert (found[:, 1:] != found[:, :1]).all()
    x = million.base[found[:, 0]].astype(np.float64) @ million.base.T.astype(np.float64)
    x[np.arange(len(x)), found[:, 0]] = -np.inf
    assert (x.argmax(axis=1) == found[:, 1]).mean() > 0.999
