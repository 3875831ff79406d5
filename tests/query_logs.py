"""A small set whose queries are of another kind than what is stored, with a log of them."""

from pathlib import Path

import numpy as np

DIM, N = 16, 4000


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_set(folder: Path) -> Path:
    """Clumps; queries lie off what they ask for, farther than it is long, in a direction that depends on it.

    A log of such queries, and one of 200 random directions.
    """
    rng = np.random.default_rng(1)
    base = rng.standard_normal((300, DIM))[rng.integers(300, size=N)] + 0.6 * rng.standard_normal((N, DIM))
    turn = rng.standard_normal((DIM, DIM)) / np.sqrt(DIM)

    def asking(n: int) -> np.ndarray:
        about = base[rng.integers(N, size=n)] + 0.2 * rng.standard_normal((n, DIM))
        return unit(unit(about) + 1.5 * unit(np.tanh(2 * about @ turn)))

    query, log = asking(400), asking(1500)
    base = unit(base)
    (folder / "s").mkdir()
    gt = np.argsort(-query.astype(np.float64) @ base.T.astype(np.float64), axis=1)[:, :10]
    arrays = {"s/base": base, "s/query": query, "s/gt": gt, "log": log, "noise": unit(rng.standard_normal((200, DIM)))}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder
