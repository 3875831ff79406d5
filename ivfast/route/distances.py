"""Distances, logits and the best few buckets: the formulas of a router."""

import numpy as np

from ivfast.method import NEAR

GROUP = 16  # buckets: of each group only the best is looked at first


def squared_distances(x: np.ndarray, centers: np.ndarray, metric: str) -> np.ndarray:
    """d^2 of rows to centers, never negative.

    Under IP both are of unit norm: d^2 = 2 - 2 <x, c>; else |x|^2 - 2 <x, c> + |c|^2.

    x: (n, dim), centers: (nlist, dim), one float type; returns (n, nlist) of that type
    """
    d2 = x @ centers.T
    d2 *= -2  # in place from here on: at 16,384 buckets every pass over memory counts
    if metric == "IP":
        d2 += 2
    else:
        d2 += np.square(x).sum(axis=1)[:, None] + np.square(centers).sum(axis=1)
    return np.maximum(d2, 0, out=d2)


def mean_nearest(d2: np.ndarray) -> np.ndarray:
    """delta: the mean of the min(4, nlist) smallest of each row. (n, nlist) -> (n, 1)"""
    near = min(NEAR, d2.shape[1])
    d2 = np.negative(group_candidates(-d2, near)[0])
    return np.partition(d2, near - 1, axis=1)[:, :near].mean(axis=1, keepdims=True)


def group_candidates(keys: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Fewer keys that hold the `width` largest of each row.

    Sorting thousands of keys a row is slow. Buckets are put into groups of 16 (b, b + G, b + 2 G, ..), and only the
    `width` groups with the largest maxima can hold one of the largest keys.

    keys: (n, columns)
    returns: keys (n, fewer) and their columns, ascending along each row; (keys, None) where
    there are too few columns for it to pay
    """
    n, columns = keys.shape
    groups = columns // GROUP
    if groups < 4 * width:
        return keys, None
    rest = keys[:, groups * GROUP :]  # columns that fill no group always stay
    highest = keys[:, : groups * GROUP].reshape(n, GROUP, groups).max(axis=1)
    best = np.argpartition(highest, groups - width, axis=1)[:, groups - width :]
    chosen = np.sort(best, axis=1)[:, None, :] + np.arange(0, groups * GROUP, groups)[:, None]
    at = chosen.reshape(n, GROUP * width)
    ends = np.broadcast_to(np.arange(groups * GROUP, columns), (n, columns - groups * GROUP))
    return np.concatenate([np.take_along_axis(keys, at, axis=1), rest], axis=1), np.concatenate([at, ends], axis=1)


def top(keys: np.ndarray, width: int) -> np.ndarray:
    """Columns of the `width` largest of each row, largest first, ties to the smaller column.

    keys: (n, columns) float; returns (n, width) int32
    """
    if width == 1:
        return keys.argmax(axis=1)[:, None].astype(np.int32)
    few, at = group_candidates(keys, width)
    if at is None:
        return _top_of_all(keys, width)
    found = np.take_along_axis(at, _top_of_all(few, width).astype(np.int64), axis=1).astype(np.int32)
    # a group left out may hold a key equal to the least one taken: look at all of such a row
    least = np.take_along_axis(keys, found[:, -1:], axis=1)
    tied = np.flatnonzero((keys >= least).sum(axis=1) > width)
    found[tied] = _top_of_all(keys[tied], width)
    return found


def _top_of_all(keys: np.ndarray, width: int) -> np.ndarray:
    n, columns = keys.shape
    least = np.partition(keys, columns - width, axis=1)[:, columns - width, None]
    chosen = keys >= least
    many = np.flatnonzero(chosen.sum(axis=1) > width)  # ties at the border
    for row in many:
        tied = np.flatnonzero(keys[row] == least[row])
        spare = int(chosen[row].sum()) - width
        chosen[row, tied[len(tied) - spare :]] = False
    found = np.nonzero(chosen)[1].reshape(n, width)
    order = np.argsort(-np.take_along_axis(keys, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1).astype(np.int32)


def center_logits(x: np.ndarray, centers: np.ndarray, metric: str, delta_floor: float) -> np.ndarray:
    """Scale-free logits of the linear path at k = 1.

        z_b(x) = - d_b(x)^2 / delta(x)

    delta_floor: what delta is at least; returns (n, nlist) of x's type
    """
    d2 = squared_distances(x, centers, metric)
    with np.errstate(over="ignore"):  # beside centers that coincide with the row, others have no chance at all
        d2 /= -np.maximum(mean_nearest(d2), d2.dtype.type(delta_floor))
    return d2


def center_crossing(x: np.ndarray, z: np.ndarray, buckets: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """How much of the way to one bucket's center runs along the way to another's, in logits.

        crossing_ab = k <r_a, r_b>^2 / (|r_a|^2 delta)      r_b = x - c_b

    A query that misses one bucket because it lies on that bucket's far side also misses buckets in the same
    direction. So a copy there is wasted. Entry a, b is -z_b times the squared cosine between the two ways; it is 0
    where x lies on c_a. Source: the orthogonality-amplified residuals of SOAR (Sun et al., NeurIPS 2023), here
    between all buckets.

    x: (n, dim); buckets: (n, width); z: (n, width) their logits by the linear path
    returns: (n, width, width) float32
    """
    r = x[:, None, :] - centers[buckets]
    products = r @ r.transpose(0, 2, 1)
    d2 = np.einsum("naa->na", products)
    rows, far = np.arange(len(x)), d2.argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = -z[rows, far] / d2[rows, far]  # k / delta
        found = unit[:, None, None] * np.square(products) / d2[:, :, None]
    return np.where(d2[:, :, None] > 0, found, np.float32(0))


def log_softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """log softmax(z / temperature) over buckets. (n, nlist) -> the same, of z's type"""
    scaled = z / z.dtype.type(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled
