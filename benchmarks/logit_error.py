"""What rounding does to the linear path's logits, against float64, by percentiles.

    python -m benchmarks.logit_error --metrics IP L2                         # generated faces, nlist 16384
    python -m benchmarks.logit_error --learn learn.npy --metrics L2 --nlist 1024

x is 4,096 vectors, centers are k-means' (2 iterations), k is 40: the sharpest that training fits.
Under L2 vectors are centered and divided by their root mean square, as in training.
"""

import argparse
from pathlib import Path

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import torch

import ivfast_jax.model
import ivfast_jax.precision
import ivfast_torch.model
import ivfast_torch.precision
from benchmarks.runs import print_table
from ivfast.data.synthetic import make_faces
from ivfast.route.distances import center_logits

K = 40
FLOOR = 1e-6
PER_BUCKET = 16  # learn vectors
PERCENTILES = (50, 99, 99.9, 100)


def half_logits(backend: str, x: np.ndarray, centers: np.ndarray, metric: str, mode: str) -> np.ndarray:
    """k times the linear path's logits as training computes them."""
    if backend == "torch":
        policy = ivfast_torch.precision.make_policy(mode)
        rows, c, floor = (torch.tensor(v, dtype=torch.float32) for v in (x, centers, FLOOR))
        return K * ivfast_torch.model.center_logits(rows, c, floor, metric, policy).numpy()
    policy = ivfast_jax.precision.make_policy(mode)
    compiled = jax.jit(
        lambda x, c: ivfast_jax.model.center_logits(x, c, jnp.float32(FLOOR), metric, policy),
        compiler_options={"xla_allow_excess_precision": False},
    )
    return K * np.asarray(compiled(x, centers))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", type=Path, help="vectors (default: generated faces)")
    parser.add_argument("--nlist", type=int, default=16384)
    parser.add_argument("--metrics", nargs="+", default=["IP", "L2"], choices=["IP", "L2"])
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    options = parser.parse_args()
    if options.learn:
        drawn = np.load(options.learn).astype(np.float32)
    else:
        drawn = make_faces(1, n_identities=options.nlist * PER_BUCKET // 10, n_query=1).learn
    rows = []
    for metric in options.metrics:
        learn = drawn
        if metric == "L2":
            learn = learn - learn.mean(axis=0)
            learn /= np.sqrt(np.square(learn).mean())
        kmeans = faiss.Kmeans(
            learn.shape[1], options.nlist, niter=2, seed=1, spherical=metric == "IP", min_points_per_centroid=1,
            max_points_per_centroid=PER_BUCKET,
        )  # fmt: skip
        kmeans.train(learn)
        centers = np.asarray(kmeans.centroids)
        x = learn[np.random.default_rng(1).choice(len(learn), 4096, replace=False)]
        exact = K * center_logits(x.astype(np.float64), centers.astype(np.float64), metric, FLOOR)
        near = np.argsort(-exact, axis=1)[:, :4]
        for backend in options.backends:
            for mode in ("float32", "O2-float16", "O2-bfloat16"):
                z = half_logits(backend, x, centers, metric, mode)
                off = np.abs(np.take_along_axis(z - exact, near, axis=1))
                moved = (z.argmax(axis=1) != near[:, 0]).mean()
                errors = [f"{e:.2g}" for e in np.percentile(off, PERCENTILES)]
                rows.append([metric, backend, mode, *errors, f"{100 * moved:.2f} %"])
    names = [f"{p:g} %" if p < 100 else "largest" for p in PERCENTILES]
    print_table(["metric", "backend", "precision", *names, "another best bucket"], rows)


if __name__ == "__main__":
    main()
