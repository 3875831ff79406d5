"""What codes of an index stand against: the mean of each bucket, while the trained centers say which are probed."""

from typing import Any

import faiss
import numpy as np

COUNT = 2  # vectors that a center counts as in its bucket's mean, so that a few strangers don't decide it
TRIED_ON = 16_384  # rows, one half to fit trial codes to, the other to measure them on
TRIAL_ROUNDS = 6  # of k-means, of trial codes


def fit_codes(index: Any, rows: np.ndarray, seed: int) -> None:
    """Fit the codes of an index that holds its centers and nothing else.

    Codes hold what a vector differs by from its bucket. A trained center lies where it parts neighbours best, not in
    the middle of its bucket, so that vectors differ less from the bucket's mean. Product quantisation can hold the
    vectors themselves as well, and does where that loses less: of rows whose parts fall into few kinds by themselves.

    index: an IndexIVF; rows: (n, dim) float32, n 1 or more
    """
    if not isinstance(index, faiss.IndexIVFFlat):
        centers = centers_in(index)
        nearest = faiss.knn(rows, centers, 1, metric=index.metric_type)[1][:, 0]
        means = bucket_means(rows, nearest, centers)
        if isinstance(index, faiss.IndexIVFPQ):
            index.pq.cp.seed = seed
            index.pq.cp.min_points_per_centroid = 1  # FAISS would warn of few once for each part of a vector
            index.by_residual = not plain_is_closer(index.pq, rows, rows - means[nearest], seed)
        if index.by_residual:
            stand_on(index, means)
    index.train(rows)


def bucket_means(rows: np.ndarray, buckets: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The mean of each bucket, to which its center belongs as two vectors do.

    rows: (n, dim) float32; buckets: (n,) of each row; centers: (nlist, dim); returns (nlist, dim) float32
    """
    total = COUNT * centers.astype(np.float64)
    np.add.at(total, buckets, rows)
    return (total / (COUNT + np.bincount(buckets, minlength=len(centers)))[:, None]).astype(np.float32)


def plain_is_closer(pq: Any, rows: np.ndarray, residuals: np.ndarray, seed: int) -> bool:
    """Whether product codes of rows lose less than those of residuals, by codes that are fitted in haste.

    pq: a ProductQuantizer, whose sizes are taken; rows, residuals: (n, dim) float32
    """
    tried = np.random.default_rng(seed).permutation(len(rows))[:TRIED_ON]
    half = len(tried) // 2
    fitted, measured = (tried[:half], tried[half:]) if half >= 2 * pq.ksub else (tried, tried)
    lost = []
    for x in (rows, residuals):
        trial: Any = faiss.ProductQuantizer(pq.d, pq.M, pq.nbits)
        trial.cp.niter, trial.cp.seed, trial.cp.min_points_per_centroid = TRIAL_ROUNDS, seed, 1
        trial.train(np.ascontiguousarray(x[fitted]))
        wanted = np.ascontiguousarray(x[measured])
        lost.append(float(np.square(trial.decode(trial.compute_codes(wanted)) - wanted, dtype=np.float64).sum()))
    return lost[0] < lost[1]


def stand_on(index: Any, means: np.ndarray) -> None:
    """Let codes stand against means, and leave the centers to say which buckets are probed.

    FAISS' IndexRefine finds as many buckets as are probed by its first index, the centers. What it says of each, its
    vector and its distance to a query, it takes from its second.
    """
    centers: Any = faiss.downcast_index(index.quantizer)
    beside: Any = (faiss.IndexFlatIP if index.metric_type == faiss.METRIC_INNER_PRODUCT else faiss.IndexFlatL2)(index.d)
    beside.add(means)
    both: Any = faiss.IndexRefine(centers, beside)
    both.k_factor = 1
    both.own_fields = both.own_refine_index = True  # freed with the index, not with what Python holds
    beside.this.disown()
    both.this.disown()
    index.quantizer = both


def flats_of(index: faiss.IndexIVF) -> list[Any]:
    """What holds the centers of an index, and behind it what holds the means, if codes stand against these."""
    quantizer: Any = faiss.downcast_index(index.quantizer)
    if not isinstance(quantizer, faiss.IndexRefine):
        return [quantizer]
    return [faiss.downcast_index(one) for one in (quantizer.base_index, quantizer.refine_index)]


def centers_in(index: faiss.IndexIVF) -> np.ndarray:
    """The centers by which an index probes, (nlist, dim) float32."""
    return flats_of(index)[0].reconstruct_n(0, index.nlist)


def distances_by_codes(
    index: faiss.IndexIVF, rows: np.ndarray, buckets: np.ndarray, distances: np.ndarray
) -> np.ndarray:
    """Of queries to what the codes of buckets stand against, as `search_preassigned` takes them.

    rows: (n, dim) float32; buckets: (n, m) int64, -1: none, but for the first; distances: to the centers, (n, m)
    returns: (n, m) float32
    """
    *_, last = flats = flats_of(index)
    if len(flats) == 1:
        return distances
    found = np.empty(buckets.shape, dtype=np.float32)
    last.compute_distance_subset(
        len(rows), faiss.swig_ptr(rows), buckets.shape[1], faiss.swig_ptr(found), faiss.swig_ptr(buckets)
    )
    # of no bucket FAISS says infinite; its fast scanning rounds by the range of all that a query is handed
    return np.where(buckets < 0, found[:, :1], found)
