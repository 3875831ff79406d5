"""What fits a base where nobody says it: metric, number of buckets, backend."""

import math

import numpy as np

from ivfast.data.space import UNIT_TOLERANCE
from ivfast.network.backend import INSTALL, installed_backends
from ivfast.network.usable import usable_backend
from ivfast.runtime.draws import spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

SAMPLE = 10_000  # rows whose norms tell the metric
PER_BUCKET, LEAST_PER_BUCKET = 200, 39  # vectors: better so many, no fewer than that
PER_ROOT = 4  # buckets for each root of the number of vectors
FEW = 16  # buckets that a small base has if it can


def choose_nlist(n: int) -> int:
    """Buckets for n vectors: about 4 sqrt(n), but no more than leave each of them 200.

    A search compares a query with all centers and with the vectors in the probed lists: 4 sqrt(n) keeps both parts
    alike. Below 200 vectors a bucket its center is learned from too few. Small bases have 16 buckets if each then holds
    39, FAISS' own limit.
    """
    wanted = min(PER_ROOT * math.sqrt(n), n / PER_BUCKET)
    least = min(FEW, n // LEAST_PER_BUCKET)
    found = max(least, round(wanted), 1)
    return found if found < 100 else found // 8 * 8


def choose_metric(base: np.ndarray) -> str:
    """IP where rows are of unit norm, else L2. base: (n, dim) floats, of which 10,000 rows are looked at"""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.asarray(base[spread(len(base), SAMPLE)], dtype=np.float64)
        norms = np.sqrt(np.square(rows).sum(axis=1))
    return "IP" if (np.abs(norms - 1) <= UNIT_TOLERANCE).all() else "L2"


def choose_backend(progress: Progress) -> str:
    """The framework that is installed, JAX where both are; the other, with a warning, where that one is broken.

    raises: UserError where there is none
    """
    installed = installed_backends()
    if not installed:
        ways = " or ".join(INSTALL.values())
        raise UserError(f"no backend: neither JAX with Flax and optax nor PyTorch is installed; {ways}")
    backend, why = usable_backend(installed[0])
    if why:
        progress.note(f"warning: {why}; --backend {backend} is used")
    return backend
