"""ScaNN's own tree, without and with SOAR's second assignment and centers moved for inner products (AVQ).

Source: scann 1.4 (Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization",
ICML 2020; SOAR: Sun et al., NeurIPS 2023). Its index is serialized and read back: who lies where from
datapoint_to_token.npy (two tokens a vector with SOAR, -1 for none), centers from serialized_partitioner.pb.

ScaNN trains on what it indexes, so it is in-sample only. Settings are the builder's defaults (12 iterations,
all vectors as the training sample) and lambda 1.5 of its documentation. Under IP the tree is spherical, which
is not the default: on text it scanned 16.0 % for 90 % recall and the default 18.2 %, with SOAR 8.5 and 12.3 %.
AVQ moves and shortens each center so that the inner products of its vectors come out well, by the anisotropic loss,
before vectors are assigned; how much an error along the vector counts is chosen on held-out learn pairs (ScaNN's
own tests have 2.5). SOAR and AVQ are for inner products alone, and ScaNN takes both together. Leaves rank by product
under IP and by distance under L2, on centers as they are; `own_recall` asks ScaNN itself, which must agree. How many
copies there are is ScaNN's choice.
"""

import importlib
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.choosing import choose, held_out_share
from benchmarks.peers.kmeans import as_router
from benchmarks.peers.peer import Given, Peer, Way
from benchmarks.peers.task import FTOPK, Task
from ivfast.runtime.draws import generator

SOAR_LAMBDA = 1.5
AVQS = (1.0, 2.5, 5.0, 10.0, 20.0)
MEASURES = {"IP": "dot_product", "L2": "squared_l2"}


class Tree(NamedTuple):
    """A ScaNN index and what its files say."""

    searcher: Any
    order: np.ndarray  # (n,) base row of each vector, as ScaNN numbers them
    centers: np.ndarray  # (nlist, dim) float32, inside
    tokens: np.ndarray  # (n, 1 or 2) int32 by base row, -1 for none


def build(x: np.ndarray, metric: str, nlist: int, seed: int, *, soar: bool, avq: float | None = None) -> Tree:
    """Index base, shuffled by the seed, since ScaNN takes none.

    x: (n, dim) float32, inside; avq: weight of errors along a vector; None: without
    """
    scann = importlib.import_module("scann")
    partitioner = importlib.import_module("scann.partitioning.partitioner_pb2")
    order = generator(seed, 0, "order").permutation(len(x))
    builder = scann.scann_ops_pybind.builder(x[order], FTOPK, MEASURES[metric]).tree(
        num_leaves=nlist, num_leaves_to_search=1, training_sample_size=len(x), spherical=metric == "IP",
        soar_lambda=SOAR_LAMBDA if soar else None, avq=avq,
    )  # fmt: skip
    searcher = builder.score_brute_force(quantize=False).build()
    with tempfile.TemporaryDirectory() as scratch:
        searcher.serialize(scratch)
        read = np.load(Path(scratch) / "datapoint_to_token.npy").reshape(len(x), -1)
        message = partitioner.SerializedPartitioner()
        message.ParseFromString((Path(scratch) / "serialized_partitioner.pb").read_bytes())
    centers = np.array([center.dimension for center in message.kmeans.kmeans_tree.root.centers], dtype=np.float32)
    tokens = np.empty_like(read, dtype=np.int32)
    tokens[order] = read
    return Tree(searcher, order, centers, tokens)


def build_task(task: Task, *, soar: bool, avq: float | None = None) -> Tree:
    """The same of a task's base."""
    return build(task.base.x(slice(None)), task.metric, task.nlist, task.seed, soar=soar, avq=avq)


def own_recall(tree: Tree, query: np.ndarray, gt: np.ndarray, leaves: int) -> float:
    """Recall that ScaNN reaches when it is asked. query: (n_query, dim) inside; gt: exact neighbours"""
    found = tree.searcher.search_batched(query, final_num_neighbors=gt.shape[1], leaves_to_search=leaves)[0]
    found = tree.order[found.astype(np.int64)]
    return float((found[:, :, None] == gt[:, None, :]).any(axis=1).mean())


def make(task: Task, *, soar: bool) -> Peer:
    """Index base with ScaNN."""
    started = time.monotonic()
    tree = build_task(task, soar=soar)
    return as_peer(task, tree, time.monotonic() - started)


def make_avq(task: Task, *, soar: bool, avqs: tuple[float, ...] = AVQS) -> Peer:
    """Index base with ScaNN and AVQ, once for each weight, and keep the best."""
    tried, shares = {}, {}
    for avq in avqs:
        started = time.monotonic()
        peer = as_peer(task, build_task(task, soar=soar, avq=avq), time.monotonic() - started)
        way = peer.ways["own"]
        tried[avq], shares[avq] = peer, held_out_share(task, peer.router, way, way.copies[0])
    avq = choose(shares)
    peer = tried[avq]
    settings = peer.settings | {"avq": avq, "held-out shares": shares}
    return peer._replace(name="scann_avq_soar" if soar else "scann_avq", settings=settings)


def as_peer(task: Task, tree: Tree, seconds: float) -> Peer:
    """A tree's lists and copies as they are."""
    soar = tree.tokens.shape[1] > 1
    name = "scann_soar" if soar else "scann"
    trained = as_router(task, name, tree.centers, seconds)
    tokens = tree.tokens
    if soar:  # the nearer of the two is called the primary
        tokens = _nearer_first(task.base.x(slice(None)), tree.centers, tokens)
    copies = float((tokens >= 0).sum() / len(tokens) - 1)
    rule = Given(tokens, np.zeros(tokens.shape, dtype=np.float32))  # of base, which is learn
    way = Way(trained.router, lambda _, __: rule, (copies,))
    settings = {"soar_lambda": SOAR_LAMBDA if soar else None, "copies": copies}
    return Peer(name, trained.router, {"own": way}, seconds, tree.centers.nbytes, settings)


def _nearer_first(x: np.ndarray, centers: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    distances = np.stack([np.square(x - centers[column]).sum(axis=1) for column in tokens.T], axis=1)
    order = np.argsort(np.where(tokens >= 0, distances, np.inf), axis=1)
    return np.take_along_axis(tokens, order, axis=1)
