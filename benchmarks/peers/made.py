"""Sets of kinds that the others are not, drawn anew by a seed: learn and base from one source, L2."""

from collections.abc import Callable

import numpy as np

N, N_QUERY = 40_000, 2_000  # of learn and of base; of queries

Draw = Callable[[np.random.Generator, int], np.ndarray]


def zipf(rng: np.random.Generator, n: int) -> np.ndarray:
    """1,500 clusters, sizes as 1 / rank, radii log-normal, a few directions wider in each. (n, 96) float32"""
    n_clusters, dim, wide = 1500, 96, 6
    middles = 5 + 3 * rng.standard_normal((n_clusters, dim))
    radius = np.exp(rng.normal(-0.3, 0.6, n_clusters))
    axes = rng.standard_normal((n_clusters, dim, wide))
    share = 1 / np.arange(1, n_clusters + 1)
    cluster = rng.choice(n_clusters, n, p=share / share.sum())
    x = np.empty((n, dim), dtype=np.float32)
    for rows in np.array_split(np.arange(n), -(-n // 2000)):
        at = cluster[rows]
        moved = np.einsum("ndk,nk->nd", axes[at], 0.5 * rng.standard_normal((len(rows), wide)))
        x[rows] = middles[at] + radius[at, None] * (moved + 0.4 * rng.standard_normal((len(rows), dim)))
    return x


def isotropic(rng: np.random.Generator, n: int) -> np.ndarray:
    """Normal in 16 dimensions: nothing to learn. (n, 16) float32"""
    return rng.standard_normal((n, 16)).astype(np.float32)


def curved(rng: np.random.Generator, n: int) -> np.ndarray:
    """A smooth random map of 8 latent numbers, a little noise: no clusters. (n, 64) float32"""
    inner, outer = 1.2 * rng.standard_normal((8, 128)), rng.standard_normal((128, 64)) / 11
    latent = rng.standard_normal((n, 8))
    return (np.tanh(latent @ inner) @ outer + 0.05 * rng.standard_normal((n, 64))).astype(np.float32)


KINDS: dict[str, Draw] = {"zipf": zipf, "isotropic": isotropic, "curved": curved}


def make_kind(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learn, base and queries, drawn together and parted."""
    x = KINDS[name](np.random.default_rng(seed), 2 * N + N_QUERY)
    return x[:N], x[N : 2 * N], x[2 * N :]
