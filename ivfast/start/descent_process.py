"""NN-descent in a process of its own: compiled code that keeps Python's lock would hear no signal for minutes.

    python -P -u descent_process.py X.npy GRAPH.npy STAGE.npy NEIGHBORS

Reads (n, dim) float32, writes (n, NEIGHBORS) int32: nearest first, each row itself among them, -1 where none was found.
It tells its iterations as `i / of`, a line each. Above five million rows the first iterations' graph is kept in
STAGE.npy, from where another call goes on: the bits do not depend on whether one was stopped.
"""

import ctypes
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any

import numpy as np

# Another number of threads, or another seed, gives another graph, so neither is a property of the machine.
N_THREADS = 8  # two cores take no longer with eight threads than with two
SEED = 1
STAGED = 5_000_000  # rows from which on a graph may take over ten minutes, on two cores
FIRST = 4  # iterations before the stage is written. Going on costs one or two more than an unbroken descent has


def write_graph(x_path: str, graph_path: str, stage_path: str, n_neighbors: int, staged: int = STAGED) -> None:
    """Search x for its graph and write it. staged: rows from which on there are two stages"""
    try:
        x = np.load(x_path, mmap_mode="r")
    except OSError:  # a file system without memory maps
        x = np.load(x_path)
    if len(x) < staged:
        np.save(graph_path, _descend(x, n_neighbors))
        return
    if not os.path.isfile(stage_path):
        np.save(graph_path, _descend(x, n_neighbors, n_iters=FIRST))
        os.replace(graph_path, stage_path)
    # all but each row itself, which the heaps of pynndescent do not hold
    np.save(graph_path, _descend(x, n_neighbors, init_graph=np.load(stage_path)[:, 1:]))


def _descend(x: np.ndarray, n_neighbors: int, **stage: Any) -> np.ndarray:
    """The graph of x, (n, n_neighbors) int32. stage: n_iters or init_graph"""
    os.environ["NUMBA_NUM_THREADS"] = str(N_THREADS)  # else one core is given one thread
    from pynndescent import NNDescent  # three seconds

    index = NNDescent(
        x, metric="euclidean", n_neighbors=n_neighbors, random_state=SEED, n_jobs=N_THREADS, low_memory=True,
        verbose=True, **stage,
    )  # fmt: skip
    found = index.neighbor_graph
    assert found is not None
    return found[0].astype(np.int32, copy=False)


if __name__ == "__main__":
    with suppress(AttributeError, OSError):  # Linux: ends with who started it, even where that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    warnings.simplefilter("ignore")
    write_graph(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
