"""The data of one comparison: a set, a setting and a seed, the same for every method."""

import time
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from benchmarks.peers.made import KINDS, make_kind
from ivfast.choose.held_out import HeldOut, make_held_out
from ivfast.data.synthetic import make_faces, save_set
from ivfast.data.vectors import Points, measure_space, open_vectors
from ivfast.demo import make_patches
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import LearnSet, Neighbors, find_neighbors, nearest_of_all
from ivfast.store.reverse import ReverseNeighbors, reverse_of

SETTINGS = ("transfer", "in-sample")
FACES = {"faces": {}, "faces_noisy": {"nuisance": 0.8, "noise": 0.7}}  # joint lengths beside an identity of 1
# sets that need no files, and their metrics
MADE = {"faces": "IP", "faces_noisy": "IP", "patches": "L2"} | dict.fromkeys(KINDS, "L2")
DATA_SEED = 1  # of made sets: seeds of a comparison draw methods, not data
FTOPK = 10
WIDTH = 10  # buckets a vector can be in at most


class Task(NamedTuple):
    """What every method is given."""

    name: str
    folder: Path  # of the set, in the documented layout
    in_sample: bool  # learn is base itself
    nlist: int
    seed: int
    learn: Points
    base: Points
    query: Points
    gt: np.ndarray  # (n_query, width) int
    neighbors: Neighbors  # of learn in learn
    held: HeldOut  # learn vectors on which settings and temperatures are chosen
    reverse: ReverseNeighbors  # of base in base, for benefit
    neighbor_seconds: float  # of learn

    @property
    def metric(self) -> str:
        """IP or L2."""
        return self.learn.metric

    @property
    def learn_name(self) -> str:
        """As --learn_name has it."""
        return f"{self.name}/base" if self.in_sample else f"learn_{self.name}"


def check_sets(parser: ArgumentParser, names: Iterable[str], data_path: Path | None) -> None:
    """End a benchmark whose sets are not all made and that got no folder of them."""
    if data_path is None and (absent := [name for name in names if name not in MADE]):
        parser.error(f"--data_path is needed for {', '.join(absent)}")


def write_set(folder: Path, name: str, metric: str, data_path: Path | None, rows: int | None) -> Path:
    """Make a set, or a smaller copy of one; returns the folder that holds it.

    rows: of learn and of base at most; a smaller set's gt are exact neighbours (of faces: identities)
    """
    if name in FACES:
        n_identities = 6000 if rows is None else rows // 10
        n_query = min(1000, n_identities)
        save_set(folder, name, *make_faces(DATA_SEED, n_identities, n_query=n_query, **FACES[name]))
        return folder
    if name == "patches":
        learn, base, query, gt = make_patches()
    elif name in KINDS:
        learn, base, query = make_kind(name, DATA_SEED)
        gt = exact(query, base, "L2")
    else:
        if data_path is None or rows is None:
            return data_path or folder
        learn, base, query, gt = (
            np.load(data_path / f"{part}.npy")
            for part in (f"learn_{name}", f"{name}/base", f"{name}/query", f"{name}/gt")
        )
    if rows is not None:
        learn, base = learn[:rows], base[:rows]
        gt = exact(query.astype(np.float32), base.astype(np.float32), metric)
    save_set(folder, name, learn, base, query, gt)
    return folder


def exact(query: np.ndarray, base: np.ndarray, metric: str) -> np.ndarray:
    """The ten nearest of each query, (n_query, 10) int64. query, base: float32"""
    kind = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    return faiss.knn(np.ascontiguousarray(query), np.ascontiguousarray(base), FTOPK, metric=kind)[1]


def open_task(folder: Path, name: str, metric: str, setting: str, nlist: int, seed: int) -> Task:
    """Read a set in the documented layout and search learn for neighbours."""
    stored = open_vectors(folder / name / "base.npy", "base", None)
    asked = open_vectors(folder / name / "query.npy", "query", stored.dim)
    in_sample = setting == "in-sample"
    learned = stored if in_sample else open_vectors(folder / f"learn_{name}.npy", "learn", stored.dim)
    space = measure_space(learned, metric)
    base = Points(stored, space)
    learn = base if in_sample else Points(learned, space)  # one object, so that askers of base are those of learn
    started = time.monotonic()
    neighbors = find_neighbors(learn, FTOPK, seed, silent())
    seconds = time.monotonic() - started
    held = make_held_out(LearnSet(learn, neighbors), nlist, min(WIDTH, nlist), seed)
    return Task(
        name=name,
        folder=folder,
        in_sample=in_sample,
        nlist=nlist,
        seed=seed,
        learn=learn,
        base=base,
        query=Points(asked, space),
        gt=np.load(folder / name / "gt.npy"),
        neighbors=neighbors,
        held=held,
        reverse=reverse_of(nearest_of_all(base, len(held.asking), silent()), held.asking),
        neighbor_seconds=seconds,
    )
