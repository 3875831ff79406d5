"""The second opinion: the tool's formulas once more, from their words, in float64 NumPy and plain loops.

It imports nothing of what it judges.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

Lists = list[list[int]]  # buckets of each vector, the primary first
Offers = list[list[tuple[float, int]]]  # of each vector: keys and buckets, the primary first
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


def deep_path(x: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a network adds to its centers' logits: Dense, then LayerNorm, GELU and Dense again and again.

    x: (n, dim) inside; arrays: those of dcnet.safetensors, see docs/formats.md
    """
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    h = (x.astype(np.float64) - arrays["input.mean"]) / arrays["input.scale"]
    h = h @ arrays["net.layers_0.weight"] + arrays["net.layers_0.bias"]
    last = max(int(name.split("_")[1].split(".")[0]) for name in arrays if name.startswith("net.layers_"))
    for i in range(last):
        h = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + 1e-5)
        h = h * arrays[f"net.norms_{i}.scale"] + arrays[f"net.norms_{i}.bias"]
        h = h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2
        h = h @ arrays[f"net.layers_{i + 1}.weight"] + arrays[f"net.layers_{i + 1}.bias"]
    return h


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


def crossings(x: np.ndarray, centers: np.ndarray, k_over_delta: np.ndarray, temperature: float) -> np.ndarray:
    """What bucket b loses of log p where bucket a is taken, (n, nlist, nlist) by vector, a and b.

        k <r_a, r_b>^2 / (2 T |r_a|^2 delta), r_b = x - c_b, 0 where r_a is 0

    k_over_delta: (n,)
    """
    r = x[:, None].astype(np.float64) - centers.astype(np.float64)
    products = r @ r.transpose(0, 2, 1)
    own = np.einsum("naa->na", products)[:, :, None]
    along = np.divide(products**2, own, out=np.zeros_like(products), where=own > 0)
    return k_over_delta[:, None, None] * along / (2 * temperature)


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


class Asked(NamedTuple):
    """Who asks for vectors, and where they look."""

    askers: list[list[tuple[float, int]]]  # of each vector: how much an asker counts, and its number
    looks: np.ndarray  # (askers, nlist) chance that one probes a bucket, where copies are chosen
    looks_only: np.ndarray  # the same, where a vector's only bucket is
    own: np.ndarray  # (askers,) best bucket of each
    mean_weight: float  # of all askers of a vector


def asked(z: np.ndarray, nearest: np.ndarray, asking: np.ndarray, nprobe: int) -> Asked:
    """Of vectors that are all stored and all ask. nearest: (n, k) of each; asking: (k,) weights"""
    weights = asking.tolist()
    of_each = [[(1.0, i), *((weights[place], y) for y, place in own)] for i, own in enumerate(askers(nearest))]
    looks, looks_only = (chances(z, nprobe, softness) for softness in (2, 1))
    return Asked(of_each, looks, looks_only, z.argmax(axis=1), 1 + float(asking.sum()))


@dataclass(frozen=True, eq=False)
class Scene:
    """Vectors to store, and all that a rule may know of them."""

    z: np.ndarray  # (n, nlist) logits
    width: int
    copies: float
    storing_t: float
    m: np.ndarray  # (nlist,)
    crossing: np.ndarray | None = None  # (n, nlist, nlist), see crossings; None where nothing is known of it
    asked: Asked | None = None
    power: float = 1.0  # of W, by which copies count; 1 - power / 2 of a crossing counts
    wait: float = 0.0  # by which the keys of second and further copies are lowered

    @cached_property
    def ratios(self) -> np.ndarray:
        """Log d_1 / d_b, (n, nlist)."""
        return log_keys(self.z, "ratio")

    @cached_property
    def log_p(self) -> np.ndarray:
        """(n, nlist)"""
        return log_keys(self.z, "membership", self.storing_t)

    @cached_property
    def gains(self) -> np.ndarray:
        """Log p_b - log m_b, (n, nlist)."""
        return log_keys(self.z, "benefit", self.storing_t, self.m)


# What each bucket that a vector may go into next is worth to it beside those taken before; {}: it goes into no other.
Reference = Callable[[Scene, int, list[int]], dict[int, float]]


def ratio(scene: Scene, i: int, taken: list[int]) -> dict[int, float]:
    """Log d_1 / d_b of the nearest centers: 0 where both are 0, -inf where d_1 alone is."""
    del taken
    return {b: scene.ratios[i, b] for b in ranked(scene.z[i])[: scene.width]}


def membership(scene: Scene, i: int, taken: list[int]) -> dict[int, float]:
    """Log p_b."""
    del taken
    return {b: scene.log_p[i, b] for b in ranked(scene.log_p[i])[: scene.width]}


def benefit(scene: Scene, i: int, taken: list[int]) -> dict[int, float]:
    """Log p_b - log m_b, and who asks for the vector, for its only bucket or for its copies."""
    gain = scene.gains[i]
    best = ranked(gain)[: scene.width]
    if not scene.copies and scene.asked:
        return {b: wished(scene.asked, i, b) + 0.6 * gain[b] for b in best}
    if not scene.copies or scene.crossing is None:
        return {b: gain[b] for b in best}
    if not taken:
        return {best[0]: gain[best[0]]}
    own = {b: gain[b] - (2 - scene.power) * scene.crossing[i, taken, b].sum() for b in best}
    late = scene.wait if len(taken) > 1 else 0.0
    if scene.asked is None:
        return {b: key - late for b, key in own.items()}
    more = (scene.power - 1) * math.log(sum(w for w, _ in scene.asked.askers[i])) - late
    return {b: (key + missed(scene.asked, i, b, taken)) / 2 + more for b, key in own.items()}


def wished(asked: Asked, i: int, b: int) -> float:
    """10 sum_y w_y c_b(y) / mean sum of w - mean c_b / mean over vectors of mean c of their best bucket"""
    mean = asked.looks_only.mean(axis=0)
    gain = sum(w * asked.looks_only[y, b] for w, y in asked.askers[i])
    return 10 * gain / asked.mean_weight - mean[b] / mean[asked.own].mean()


def missed(asked: Asked, i: int, b: int, taken: list[int]) -> float:
    """Log W + log(0.001 + sum_y w_y max(0, c_b(y) - max of c_a(y) over taken)) - log mean c_b"""
    looks = asked.looks
    left = sum(w * max(0.0, looks[y, b] - max(looks[y, a] for a in taken)) for w, y in asked.askers[i])
    mean = max(looks[:, b].mean(), 0.1 / looks.shape[1])
    return math.log(sum(w for w, _ in asked.askers[i])) + math.log(left + 1e-3) - math.log(mean)


def in_order(reference: Reference, scene: Scene, i: int) -> list[tuple[float, int]]:
    """Key and bucket of a vector's buckets, each the best beside those before it; ties go to the smaller bucket."""
    found: list[tuple[float, int]] = []
    while len(found) < scene.width:
        taken = [b for _, b in found]
        left = [(key, b) for b, key in reference(scene, i, taken).items() if b not in taken]
        if not left:
            break
        found.append(max(left, key=lambda pair: (pair[0], -pair[1])))
    return found


def offers(reference: Reference, scene: Scene) -> Offers:
    """What all vectors of a scene may be stored in."""
    return [in_order(reference, scene, i) for i in range(len(scene.z))]


def store(offers: Offers, budget: int, sample: list[int] | None = None) -> Lists:
    """Buckets of each vector: its primary, then its share of the `budget` best copies that the sample is offered.

    Others get the copies that are no worse than the last of those. sample: vectors that stand for all; None: all
    """
    sample = list(range(len(offers))) if sample is None else sample
    offered = sorted((-key, i, b) for i in sample for key, b in offers[i][1:])
    last = offered[:budget][-1] if budget and offered else (-math.inf, -1, -1)
    last = last if budget <= len(offered) else (math.inf, math.inf, math.inf)
    stored = []
    for i, row in enumerate(offers):
        copies = sorted((-key, i, b) for key, b in row[1:] if (-key, i, b) <= last)
        stored.append([row[0][1], *(b for _, _, b in copies)])
    return stored


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
    """Scanned where a recall is reached, linear between points; the first's that finds any where it is above.

    points: (recall, scanned) in the order of cost
    """
    before = None
    for recall, scanned in points:
        if recall >= level:
            if before is None or before[0] == 0:
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
