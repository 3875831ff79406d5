"""What training needs before its first step: k-means, neighbours, and the buckets' units."""

from typing import NamedTuple

import faiss
import numpy as np

from ivfast.backends import USE_MEMORY, Setup
from ivfast.cache import cached, fingerprint
from ivfast.config import Config
from ivfast.data import Space, Vectors, measure_space, moments, rows_per_block
from ivfast.demand import ReverseNeighbors, reverse_of
from ivfast.draws import generator
from ivfast.ground_truth import COUNTED
from ivfast.kinship import HEAP, OWN_NEAREST, SURELY_KIN, VALLEY
from ivfast.kmeans import ALL_POINTS, POINTS_PER_BUCKET, train_kmeans
from ivfast.neighbors import LEAST_ASKED, Neighbors, find_neighbors, nearest_of_all
from ivfast.progress import Progress
from ivfast.routers import NEAR
from ivfast.schedule import learning_rates

LEAST_RADIUS = 1 / 50  # of the median bucket's


class Prepared(NamedTuple):
    """Learn, and what was found in it. Vectors and centers are inside (see Space)."""

    learn: Vectors
    space: Space
    kmeans: np.ndarray  # (nlist, dim) float32
    neighbors: Neighbors
    buckets: "Buckets"


class Buckets(NamedTuple):
    """k-means' buckets, measured on learn."""

    share: np.ndarray  # (nlist,) float64, of learn
    radius: np.ndarray  # (nlist,) float32, root mean square distance to the center per dimension
    delta_floor: float


def prepare(config: Config, learn: Vectors, progress: Progress) -> Prepared:
    """Cluster learn and search it for neighbours, or take both from save_path/cache.

    raises: UserError where learn is too small for the settings
    """
    space = measure_space(learn, config.metric)
    cache = config.save_path / "cache"
    facts = {"learn": learn.digest, "metric": config.metric, "seed": config.seed, "faiss": faiss.__version__}

    def cluster() -> dict[str, np.ndarray]:
        progress.note(f"k-means: clustering {len(learn):,} vectors into {config.nlist} buckets")
        found = train_kmeans(learn, space, config.nlist, config.niter, config.seed)
        return {"centers": found.centers, "counts": np.array([found.n_iterations, found.n_points])}

    key = fingerprint(**facts, nlist=config.nlist, niter=config.niter)
    found, old = cached(cache, "kmeans", key, cluster)
    iterations, points = found["counts"].tolist()
    progress.note(
        f"k-means: {config.nlist} centers, {iterations} iterations of at most {config.niter} "
        f"on {points:,} vectors{', from the cache' if old else ''}"
    )
    neighbors = _neighbors(config, learn, space, facts, progress)
    return Prepared(
        learn, space, found["centers"], neighbors, measure_buckets(learn, space, found["centers"], config.seed)
    )


def _neighbors(config: Config, learn: Vectors, space: Space, facts: dict[str, object], progress: Progress) -> Neighbors:
    def search() -> dict[str, np.ndarray]:
        return find_neighbors(learn, space, config.ftopk, config.seed, progress)._asdict()

    rules = {"asked_for": LEAST_ASKED, "answers": COUNTED, "kinship": [OWN_NEAREST, SURELY_KIN, HEAP, VALLEY]}
    key = fingerprint(**facts, ftopk=config.ftopk, **rules)
    found, old = cached(config.save_path / "cache", "neighbors", key, search)
    neighbors = Neighbors(**found)
    progress.note(
        f"neighbours: {neighbors.train_nearest.shape[1]} of each of {len(neighbors.train):,} training and "
        f"{neighbors.answers.shape[1]} of "
        f"{len(neighbors.held_out):,} held-out vectors{', from the cache' if old else ''}"
    )
    if neighbors.strangers_apart:
        progress.note("neighbours: kin and strangers among them stand apart: pairs count by the nearest in common")
    return neighbors


def reverse_of_base(
    config: Config, base: Vectors, space: Space, weights: np.ndarray, progress: Progress
) -> ReverseNeighbors:
    """Who has which vector of base among its nearest there, found or taken from save_path/cache.

    weights: of `asking_weights`; so many nearest are searched for, where base has them
    """
    facts = {"base": base.digest, "metric": space.metric, "mean": space.mean.tolist(), "scale": float(space.scale)}
    found, old = cached(
        config.save_path / "cache", "base_neighbors", fingerprint(**facts, k=len(weights), faiss=faiss.__version__),
        lambda: {"nearest": nearest_of_all(base, space, len(weights), progress)},
    )  # fmt: skip
    progress.note(
        f"neighbours: {found['nearest'].shape[1]} of each of {len(base):,} vectors of base, to tell who asks for which"
        f"{', from the cache' if old else ''}"
    )
    return reverse_of(found["nearest"], weights)


def measure_buckets(learn: Vectors, space: Space, centers: np.ndarray, seed: int) -> Buckets:
    """Shares, radii and delta of the buckets over learn (above 1 M: over a sample)."""
    nlist, dim = centers.shape
    n = min(len(learn), max(ALL_POINTS, POINTS_PER_BUCKET * nlist))
    rows = (
        np.arange(n)
        if n == len(learn)
        else np.sort(generator(seed, 0, "sample", 1).choice(len(learn), n, replace=False))
    )
    near = min(NEAR, nlist)
    index = faiss.IndexFlatIP(dim) if space.metric == "IP" else faiss.IndexFlatL2(dim)
    index.add(centers)
    counts, squares, deltas = np.zeros(nlist), np.zeros(nlist), 0.0
    step = rows_per_block(dim)
    for start in range(0, n, step):
        distances, nearest = index.search(learn.take(space, rows[start : start + step]), near)
        d2 = np.maximum(2 - 2 * distances if space.metric == "IP" else distances, 0).astype(np.float64)
        counts += np.bincount(nearest[:, 0], minlength=nlist)
        squares += np.bincount(nearest[:, 0], weights=d2[:, 0], minlength=nlist)
        deltas += float(d2.mean(axis=1).sum())
    radius = np.sqrt(squares / np.maximum(counts, 1) / dim)
    spread = radius[radius > 0]  # a bucket of one vector has none
    median = float(np.median(spread)) if len(spread) else 0.0
    radius = np.where(counts > 0, np.maximum(radius, median * LEAST_RADIUS), median)
    floor = max(1e-6 * deltas / n, float(np.finfo(np.float32).tiny))
    return Buckets(counts / n, radius.astype(np.float32), floor)


def make_setup(config: Config, prepared: Prepared) -> Setup:
    """What the backend is told."""
    learn, space = prepared.learn, prepared.space
    if space.metric == "IP":
        mean, scale = moments(learn, space)
    else:
        mean, scale = np.zeros(learn.dim, np.float32), np.float32(1)
    n_steps = -(-len(prepared.neighbors.train) // config.batch_size)
    return Setup(
        config.param_list, config.metric, prepared.kmeans, prepared.buckets.radius, mean,
        np.float32(scale or 1), prepared.buckets.delta_floor,
        learning_rates(config.lr, config.epochs, config.warmup, n_steps),
        min(1.0, config.batch_size / (USE_MEMORY * config.nlist)), config.scale,
    )  # fmt: skip
