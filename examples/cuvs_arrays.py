"""The arrays of cuVS' ivf_pq.build_precomputed from a trained run: its centers, and a codebook trained around them.

    python -m examples.cuvs_arrays --save_path out --base DATA/mine/base.npy --pq_dim 64 --out cuvs_out

On a machine with a GPU, each array read by np.load and moved by cupy.asarray, base as float32:

    params = ivf_pq.IndexParams(n_lists=nlist, metric="inner_product", pq_dim=64, pq_bits=8)  # L2: "sqeuclidean"
    index = ivf_pq.build_precomputed(params, dim, pq_centers, centers, centers_rot, rotation_matrix)
    index = ivf_pq.extend(index, base, ids)  # int64; keep the four arrays as long as the index

cuVS fills its lists itself, so a vector lies in the bucket of its nearest center, without copies.
Written by what the documentation and the source of cuVS (26.08) say, not executed or measured: docs/engines.md.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

import ivfast
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_array

PQ_BITS = 8


class Arrays(NamedTuple):
    """What build_precomputed takes, all float32, in the names of its arguments."""

    pq_centers: np.ndarray  # (pq_dim, pq_len, 2^8), the codebook of each subspace
    centers: np.ndarray  # (nlist, dim + 1 rounded up to 8): centers, their squared norms, zeros
    centers_rot: np.ndarray  # (nlist, dim)
    rotation_matrix: np.ndarray  # (dim, dim), the identity: no rotation is needed where pq_dim divides dim


def make_arrays(centers: np.ndarray, base: np.ndarray, nearest: np.ndarray, pq_dim: int) -> Arrays:
    """Train the codebook on what base lacks to its centers.

    centers: (nlist, dim) float32; base: (n, dim) float32; nearest: (n,) int64, bucket of each row
    pq_dim: bytes a vector is stored in
    raises: UserError where pq_dim does not divide dim
    """
    nlist, dim = centers.shape
    if pq_dim < 1 or dim % pq_dim:
        raise UserError(f"--pq_dim {pq_dim}: expected a divisor of {dim}, the vectors' dim; correct it")
    codebook = faiss.ProductQuantizer(dim, pq_dim, PQ_BITS)
    codebook.train(base - centers[nearest])
    books = faiss.vector_to_array(codebook.centroids).reshape(pq_dim, 2**PQ_BITS, dim // pq_dim)
    padded = np.zeros((nlist, (dim + 1 + 7) // 8 * 8), dtype=np.float32)
    padded[:, :dim], padded[:, dim] = centers, np.square(centers).sum(axis=1)
    return Arrays(np.ascontiguousarray(books.transpose(0, 2, 1)), padded, centers, np.eye(dim, dtype=np.float32))


def main(argv: list[str] | None = None) -> None:
    """Write one .npy an argument."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run")
    parser.add_argument("--base", type=Path, required=True, help="vectors to search, .npy")
    parser.add_argument("--pq_dim", type=int, required=True, help="bytes a vector; divides the vectors' dim")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arrays")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    base = np.load(options.base).astype(np.float32)
    arrays = make_arrays(model.centers, base, model.rank(base, 1).buckets[:, 0], options.pq_dim)
    for name, array in arrays._asdict().items():
        save_array(options.out / f"{name}.npy", array)


if __name__ == "__main__":
    main()
