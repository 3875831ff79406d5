"""Who is near whom in a large set: one graph, nearly all of it right, by NN-descent or on an accelerator exactly.

NN-descent (Dong, Charikar and Li, WWW 2011) looks among the neighbours of neighbours. The graph is a fact of the points
alone, so that learn's serves base where they are the same.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from ivfast.data.exact import DeviceSearch, nearest_among, nearest_of, without_self
from ivfast.data.mapped import map_points, x_path
from ivfast.data.vectors import Points, Vectors, rows_per_block
from ivfast.runtime.cache import cached, fingerprint
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.progress import Progress
from ivfast.start import descent_process

SPARE = 2  # nearest beyond those asked for: some are held out, which one vector in twenty is at most
MOST_EXACT = 3_000_000  # points that an accelerator searches exactly: an H100 takes 7 s for half a million
MOST_ROWS = 2**31 - 1  # numbers of neighbours are int32
SAMPLE = 1000  # rows on which recall is measured
AS_NEAR = 1e-5  # squared distances, of about unit size, within which two float32 products agree
ROWS = 65_536  # looked at at once


class Means(NamedTuple):
    """What a search through a large set may use."""

    folder: Path | None = None  # where graph and x are kept; None: x in a temporary folder, the graph not at all
    search: DeviceSearch | None = None  # an accelerator's exact search

    def exact(self, n: int) -> DeviceSearch | None:
        """What searches n points exactly; None where NN-descent is the faster one, since its time is not squared."""
        return self.search if n <= MOST_EXACT else None

    def rules(self, n: int) -> dict[str, object]:
        """What a graph of n points depends on beside them."""
        if self.exact(n) is not None:
            return {"exact": True}
        threads, seed = descent_process.N_THREADS, descent_process.SEED
        return {"pynndescent": version("pynndescent"), "threads": threads, "seed": seed}


ALONE = Means()


def check_descent(vectors: Vectors, means: Means = ALONE) -> None:
    """Refuse now what a graph of these vectors would miss later.

    raises: UserError where NN-descent would search for it and is not installed, or numbers of rows outgrow 32 bits
    """
    n = len(vectors)
    if n > MOST_ROWS:
        raise UserError(
            f"{vectors.name}: {vectors.path} has {n:,} vectors, expected {MOST_ROWS:,} at most, since their neighbours "
            "are kept as 32-bit numbers; use a part of them"
        )
    if means.exact(n) is None and find_spec("pynndescent") is None:
        on_gpu = f", search them on a GPU (up to {MOST_EXACT:,})" if means.search is None and n <= MOST_EXACT else ""
        raise UserError(
            f"{vectors.name}: {vectors.path} has {n:,} vectors; pynndescent, which finds the neighbours of so many, is "
            f"not installed: pip install 'ivfast[large]'{on_gpu}, or use fewer vectors"
        )


def graph_of(points: Points, k: int, progress: Progress, means: Means = ALONE) -> np.ndarray:
    """The nearest of every point among the others, (n, k + 2) int32, nearest first; all, where they are fewer.

    raises: UserError as check_descent
    """
    check_descent(points.vectors, means)
    k = min(k + SPARE, len(points) - 1)

    def find() -> dict[str, np.ndarray]:
        with _mapped(points, means.folder, progress) as (mapped, path):
            if search := means.exact(len(points)):
                nearest = _searched(mapped, k, search, progress)
            else:
                nearest = _descended(mapped, k, path, progress)
            return {"nearest": nearest, "recall": np.array(_measured_recall(mapped, nearest, progress))}

    if means.folder is None:
        found, old = find(), False
    else:
        facts = points.space.facts | means.rules(len(points))
        key = fingerprint(points=points.vectors.digest, n=len(points), k=k, **facts)
        found, old = cached(means.folder, "graph", key, find)
    progress.note(
        f"neighbours: {'exact search' if means.exact(len(points)) else 'NN-descent'} on {len(points):,} vectors, "
        f"measured recall {float(found['recall']):.3f}{', from the cache' if old else ''}"
    )
    return found["nearest"]


@contextmanager
def _mapped(points: Points, folder: Path | None, progress: Progress) -> Iterator[tuple[Points, Path]]:
    """Points whose x is read from a file, and that file."""
    if folder is not None:
        yield map_points(points, folder, progress), x_path(points, folder)
        return
    with TemporaryDirectory() as temporary:
        yield map_points(points, Path(temporary), progress), x_path(points, Path(temporary))


def _descended(points: Points, k: int, path: Path, progress: Progress) -> np.ndarray:
    """By NN-descent; rows of which it found fewer than k are searched for exactly. path: x of the points"""
    graph = path.with_name(f".graph.{os.getpid()}.npy")
    stage = path.with_name(f"stage.{fingerprint(x=path.name, k=k, **ALONE.rules(0))}.npy")
    everyone = np.arange(len(points))
    try:
        _run([path, graph, stage], k + 1, len(points), progress)
        found = pick(points, everyone, np.load(graph, mmap_mode="r"), everyone, k, progress)
    finally:
        graph.unlink(missing_ok=True)
    stage.unlink(missing_ok=True)
    return found


def _run(files: list[Path], n_neighbors: int, n: int, progress: Progress) -> None:
    """Run `descent_process` and show its iterations; it ends with whatever ends this call.

    files: x, graph and stage; n: rows of x
    raises: RunError where it fails
    """
    script = descent_process.__file__
    command = [sys.executable, "-P", "-u", script, *map(str, files), str(n_neighbors)]
    most = max(5, round(np.log2(n)))  # as pynndescent has it; it stops where next to nothing changes
    process = subprocess.Popen(  # noqa: S603, our own file
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    said = ""
    try:
        assert process.stdout is not None
        with process.stdout as lines, progress.bar("NN-descent", most, "iterations at most") as bar:
            for line in lines:
                said = line.strip() or said
                if re.fullmatch(r"[0-9]+ +/ +[0-9]+", line.strip()):
                    bar.advance(1)
        process.wait()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RunError(
            f"NN-descent over {n:,} vectors failed with exit code {process.returncode} ({said}); run it again"
        )


def _searched(points: Points, k: int, search: DeviceSearch, progress: Progress) -> np.ndarray:
    """Exactly, on an accelerator."""
    found = np.empty((len(points), k), dtype=np.int32)
    step = min(ROWS, rows_per_block(points.dim))
    with progress.bar("neighbours", len(points)) as bar:
        for start in range(0, len(points), step):
            x = points.x(slice(start, start + step))
            blocks = (points.x(slice(at, at + step)) for at in range(0, len(points), step))
            near = search(x, blocks, k + 1, points.metric)[1]
            found[start : start + step] = without_self(near, np.arange(start, start + len(x)))
            bar.advance(len(x))
    return found


def pick(
    points: Points, rows: np.ndarray, near: np.ndarray, among: np.ndarray, k: int, progress: Progress
) -> np.ndarray:
    """Of lists of near points the first k each that lie in `among`; where fewer do, an exact search's.

    rows: (n,) int64, whose lists these are; near: (n, k or more) int32 numbers, nearest first, -1: none
    among: (m,) int64, more than k
    returns: (n, k) int32, never the row itself
    """
    allowed = np.zeros(len(points) + 1, dtype=bool)  # the last stands for -1
    allowed[among] = True
    found = np.empty((len(rows), k), dtype=np.int32)
    short = [np.empty(0, dtype=np.int64)]
    with progress.bar("sorting neighbours", len(rows)) as bar:
        for start in range(0, len(rows), ROWS):
            block = np.asarray(near[start : start + ROWS])
            good = allowed[block] & (block != rows[start : start + ROWS, None])
            first = np.argsort(~good, axis=1, kind="stable")[:, :k]
            found[start : start + ROWS] = np.take_along_axis(block, first, axis=1)
            short.append(start + np.flatnonzero(good.sum(axis=1) < k))
            bar.advance(len(block))
    few = np.concatenate(short)
    if len(few):
        found[few] = nearest_of(rows[few], points, among, k, "neighbours of the rest", progress)
    return found


def _measured_recall(points: Points, nearest: np.ndarray, progress: Progress) -> float:
    """The share of neighbours on a sample that are as near as those of an exact search: copies are as good."""
    n, k = nearest.shape
    rows = np.arange(0, n, max(1, n // SAMPLE))[:SAMPLE]
    x = points.x(rows)
    with progress.bar("measuring recall", n) as bar:
        worst = nearest_among(x, points, np.arange(n), k + 1, bar)[0][:, k, None]  # itself comes first
    theirs = points.x(nearest[rows].ravel()).reshape(len(rows), k, -1)
    if points.metric == "IP":
        return float((np.einsum("nd,nkd->nk", x, theirs) >= worst - AS_NEAR).mean())
    d2 = np.square(x[:, None] - theirs).sum(axis=2)
    return float((d2 <= worst * (1 + AS_NEAR) + AS_NEAR).mean())
