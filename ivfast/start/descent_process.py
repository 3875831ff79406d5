"""NN-descent in a process of its own: compiled code that keeps Python's lock would hear no signal for minutes.

    python -P -u descent_process.py X.npy GRAPH.npy NEIGHBORS

Reads (n, dim) float32, writes (n, NEIGHBORS) int32: nearest first, each row itself among them, -1 where none was found.
It tells its iterations as `i / of`, a line each.
"""

import ctypes
import os
import signal
import sys
import warnings
from contextlib import suppress

import numpy as np

# Another number of threads, or another seed, gives another graph, so neither is a property of the machine.
N_THREADS = 8  # two cores take no longer with eight threads than with two
SEED = 1


def write_graph(x_path: str, graph_path: str, n_neighbors: int) -> None:
    """Search x for its graph and write it."""
    os.environ["NUMBA_NUM_THREADS"] = str(N_THREADS)  # else one core is given one thread
    from pynndescent import NNDescent  # three seconds

    index = NNDescent(
        np.load(x_path, mmap_mode="r"), metric="euclidean", n_neighbors=n_neighbors, random_state=SEED,
        n_jobs=N_THREADS, low_memory=True, verbose=True,
    )  # fmt: skip
    found = index.neighbor_graph
    assert found is not None
    np.save(graph_path, found[0].astype(np.int32, copy=False))


if __name__ == "__main__":
    with suppress(AttributeError, OSError):  # Linux: ends with who started it, even where that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    warnings.simplefilter("ignore")
    write_graph(sys.argv[1], sys.argv[2], int(sys.argv[3]))
