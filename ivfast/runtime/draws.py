"""Every random number of a run, from one seed; and what is taken evenly instead of drawn."""

import numpy as np

STREAMS = ("kmeans", "held_out", "order", "pair", "drop", "network", "sample", "bootstrap", "calibration")


def generator(seed: int, epoch: int, stream: str, part: int = 0) -> np.random.Generator:
    """A counter-based generator of its own for each (seed, epoch, stream, part).

    NumPy Philox, keyed by seed, epoch and stream; `part` (a step of the epoch, say) is the high
    word of the counter, so what is drawn never depends on block or chunk sizes.
    """
    key = np.array([seed, epoch * len(STREAMS) + STREAMS.index(stream)], dtype=np.uint64)
    counter = np.array([0, 0, 0, part], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def spread(n: int, most: int) -> np.ndarray:
    """At most so many of n numbers, evenly over all of them: of a sorted file the first ones would stand for little.

    returns: ascending int64, all of 0 .. n - 1 where n <= most
    """
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)
