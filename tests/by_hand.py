"""The second opinion: the tool's formulas once more, from their words, in float64 NumPy and plain loops.

It imports nothing of what it judges.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

Lists = list[list[int]]  # buckets of each vector, the primary first
Probes = Iterable[Iterable[int]]  # buckets probed for each query


# distances and memberships


def distances(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, nlist)."""
    x, centers = x.astype(np.float64), centers.astype(np.float64)
    d2 = (x * x).sum(1)[:, None] - 2 * x @ centers.T + (centers * centers).sum(1)
    return np.maximum(d2, 0)


def distances_of_others(x: np.ndarray, of: np.ndarray | None = None, among: np.ndarray | None = None) -> np.ndarray:
    """Squared distances of rows `of` to rows `among` (None: all), a row's own infinite."""
    of, among = (np.arange(len(x)) if rows is None else np.asarray(rows) for rows in (of, among))
    d2 = distances(x[of], x[among])
    d2[of[:, None] == among] = np.inf
    return d2


def delta(d2: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Mean of the four smallest (of fewer buckets all), (n, 1)."""
    nearest = np.partition(d2, min(4, d2.shape[1]) - 1, axis=1)[:, :4]
    return np.maximum(nearest.mean(axis=1, keepdims=True), floor)


def logits(x: np.ndarray, centers: np.ndarray, k: float, floor: float = 0.0) -> np.ndarray:
    """Z = -k d^2 / delta."""
    d2 = distances(x, centers)
    return -k * d2 / delta(d2, floor)


def log_softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log p of each row."""
    scaled = z.astype(np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Rows sum to 1."""
    return np.exp(log_softmax(z, temperature))


def meet(z: np.ndarray, z_pair: np.ndarray, m: np.ndarray) -> float:
    """- mean log sum_b p_b p'_b / (nlist max(m_b, 1e-9))"""
    joint = log_softmax(z) + log_softmax(z_pair) - np.log(len(m) * np.maximum(m, 1e-9))
    high = joint.max(axis=1, keepdims=True)
    return -float((high[:, 0] + np.log(np.exp(joint - high).sum(axis=1))).mean())


# storing


def log_keys(z: np.ndarray, rule: str, temperature: float = 1.0, m: np.ndarray | None = None) -> np.ndarray:
    """What a rule ranks buckets by, larger is better: log d_1 / d_j, log p_b, log p_b / max(m_b, 1e-9)."""
    if rule == "ratio":
        d2 = -z.astype(np.float64)
        first = d2.min(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(d2 == first, 0.0, np.log(first / d2) / 2)  # beside distance 0 nothing is worth anything
    keys = log_softmax(z, temperature)
    if rule == "benefit":
        assert m is not None
        keys = keys - np.log(np.maximum(m, 1e-9))
    return keys


def ranked(keys: np.ndarray) -> list[int]:
    """Buckets of one vector, best first, ties to the smaller."""
    row = keys.tolist()
    return sorted(range(len(row)), key=lambda b: (-row[b], b))


def store(keys: np.ndarray, width: int, budget: int) -> Lists:
    """Of each vector its best bucket, then its share of the `budget` best extras in one sorted list of all."""
    stored, extras = [], []
    for vector, row in enumerate(keys):
        best = ranked(row)[:width]
        stored.append(best[:1])
        extras += [(-row[b], vector, b) for b in best[1:]]
    for _, vector, bucket in sorted(extras)[:budget]:
        stored[vector].append(bucket)
    return stored


def crossings(x: np.ndarray, centers: np.ndarray, k_over_delta: float, temperature: float) -> np.ndarray:
    """What bucket b loses of log p where bucket a is taken, (nlist, nlist) by a and b.

        k <r_a, r_b>^2 / (2 T |r_a|^2 delta), 0 where r_a is 0

    x: (dim,) one vector
    """
    r = x.astype(np.float64) - centers.astype(np.float64)
    products = r @ r.T
    own = np.diag(products)[:, None]
    along = np.divide(products**2, own, out=np.zeros_like(products), where=own > 0)
    return k_over_delta * along / (2 * temperature)


def one_after_another(buckets: list[int], worth: Callable[[int, list[int]], float]) -> tuple[list[int], list[float]]:
    """The first bucket, then each time the one that is worth most beside those before it, ties to the smaller.

    worth: bucket, those before it -> what it is worth
    returns: buckets, and what each was worth
    """
    taken, worths = buckets[:1], [worth(buckets[0], [])]
    while len(taken) < len(buckets):
        left = {b: worth(b, taken) for b in sorted(set(buckets) - set(taken))}
        best = max(left, key=lambda b: left[b])
        worths.append(left[best])
        taken.append(best)
    return taken, worths


def askers(nearest: np.ndarray) -> list[list[tuple[int, int]]]:
    """Who has each vector among its nearest, and at which place. nearest: (n, k) rows"""
    found: list[list[tuple[int, int]]] = [[] for _ in nearest]
    for asker, near in enumerate(nearest.tolist()):
        for place, row in enumerate(near):
            found[row].append((asker, place))
    return found


def chances(z: np.ndarray, nprobe: int, softness: float = 2) -> np.ndarray:
    """C_b, that bucket b is probed where the border lies between the nprobe-th best and the next."""
    z = z.astype(np.float64)
    falling = -np.sort(-z, axis=1)
    border = (falling[:, nprobe - 1] + falling[:, nprobe]) / 2
    return 1 / (1 + np.exp((border[:, None] - z) / softness))


# searching


def lists_of(buckets: np.ndarray) -> Lists:
    """Rows of bucket numbers without the -1 that stand for none."""
    return [row[row >= 0].tolist() for row in buckets]


def sizes_of(stored: Lists, nlist: int) -> np.ndarray:
    """Entries of each bucket."""
    return np.bincount([bucket for buckets in stored for bucket in buckets], minlength=nlist)


def imbalance(sizes: np.ndarray) -> float:
    """Nlist sum_b size_b^2 / (sum_b size_b)^2."""
    wide = sizes.astype(np.float64)
    return len(wide) * float((wide**2).sum()) / float(wide.sum()) ** 2


def best_probes(z: np.ndarray, nprobe: int) -> Lists:
    """The best buckets of each query, ties to the smaller."""
    return [ranked(row)[:nprobe] for row in z]


def log_gains(z: np.ndarray, temperature: float, sizes: np.ndarray, n: int) -> np.ndarray:
    """Log softmax(z / T)_b / (size_b / n); infinite for each row's best filled bucket, minus that for empty ones."""
    with np.errstate(divide="ignore"):
        gains = np.where(sizes > 0, log_softmax(z, temperature) - np.log(sizes / n), -np.inf)
    best = np.where(sizes > 0, z, -np.inf).argmax(axis=1)
    gains[np.arange(len(z)), best] = np.inf
    return gains


def threshold(held_out_gains: np.ndarray, mean_probes: float) -> float:
    """Above which held-out rows probe so many buckets on average."""
    falling = np.sort(held_out_gains[np.isfinite(held_out_gains)])[::-1]
    extra = round((mean_probes - 1) * len(held_out_gains))
    return float(falling[extra]) if extra < len(falling) else -math.inf


def adaptive_probes(gains: np.ndarray, above: float) -> Lists:
    """Buckets of each row whose gain is above."""
    return [np.flatnonzero(row > above).tolist() for row in gains]


def search(stored: Lists, gt: np.ndarray, probes: Probes) -> tuple[float, list[float]]:
    """Look into the probed buckets, one query after the other.

    gt: (n_query, width) right answers, -1 for none
    returns: recall over all answers, and the share of vectors that each query scans
    """
    members: dict[int, list[int]] = {}
    for vector, buckets in enumerate(stored):
        for bucket in buckets:
            members.setdefault(bucket, []).append(vector)
    hits, answers, scanned = 0, 0, []
    for row, probed in zip(gt.tolist(), probes, strict=True):
        entries = [vector for bucket in probed for vector in members.get(bucket, [])]
        reached = set(entries)
        right = [answer for answer in row if answer >= 0]
        answers += len(right)
        hits += sum(answer in reached for answer in right)
        scanned.append(len(entries) / len(stored))
    return hits / answers, scanned


def scanned_at(points: Iterable[tuple[float, float]], level: float) -> float:
    """Scanned where a recall is reached, linear between points; the first point's where it is above already.

    points: (recall, scanned) in the order of cost
    """
    before = None
    for recall, scanned in points:
        if recall >= level:
            if before is None:
                return scanned
            return before[1] + (level - before[0]) / (recall - before[0]) * (scanned - before[1])
        before = (recall, scanned)
    return math.nan


def share_for_90(order: np.ndarray, primary: np.ndarray, gt: np.ndarray, nlist: int) -> float:
    """Share of base scanned for 90 % of gt, every vector stored once, the same nprobe for all.

    order: (n_query, nlist) buckets, best first; primary: (n,) bucket of each base vector
    """
    sizes = np.bincount(primary, minlength=nlist)
    scanned = np.cumsum(sizes[order], axis=1).mean(axis=0) / len(primary)
    found = np.take_along_axis(np.argsort(order, axis=1), primary[gt], axis=1)
    recall = [float((found <= i).mean()) for i in range(nlist)]
    return scanned_at(zip(recall, scanned.tolist(), strict=True), 0.9)


def nearest_share(base: np.ndarray, query: np.ndarray, gt: np.ndarray, centers: np.ndarray) -> float:
    """What a plain IVF engine scans."""
    order = np.argsort(distances(query, centers), axis=1, kind="stable")
    return share_for_90(order, distances(base, centers).argmin(1), gt, len(centers))


def benefit_share(
    base: np.ndarray, query: np.ndarray, gt: np.ndarray, learn: np.ndarray, centers: np.ndarray, k: float
) -> float:
    """Stored by the largest p / m, m the mean p over learn."""
    m = softmax(logits(learn, centers, k)).mean(axis=0)
    primary = (softmax(logits(base, centers, k)) / m).argmax(1)
    order = np.argsort(distances(query, centers), axis=1, kind="stable")
    return share_for_90(order, primary, gt, len(centers))
