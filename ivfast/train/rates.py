"""How fast this machine is at what a run does most, measured in a few seconds before it starts."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.vectors import Vectors, rows_per_block
from ivfast.method import CELLS
from ivfast.network.backend import (
    Backend,
    Chunk,
    Goal,
    Setup,
    blocks_of,
    load_backend,
    starting_weights,
    weight_shapes,
)
from ivfast.network.precision import precision_name
from ivfast.route.routers import TILE
from ivfast.runtime.config import Config
from ivfast.runtime.devices import on_cpu
from ivfast.runtime.progress import silent
from ivfast.train.plan import Rates

STEPS = 2  # training steps that are timed, behind as many for compilation
MOST_OPERATIONS = 2e11  # of a step that is timed whole on a CPU
PART_OF_A_STEP = (32, 96)  # pairs of a step that is not
READ_BYTES = 64 << 20  # of learn that are read and checked
REPEATS = 3


def measure_rates(config: Config, learn: Vectors) -> Rates:
    """Time a product, two training steps on random vectors, and the check of learn's first rows.

    raises: UserError where the backend cannot be loaded, or a row that is read cannot be used
    """
    first_seconds, step_seconds = time_steps(config)
    read = read_rate(learn, config.metric, Cleaning(config.normalize, config.drop_bad_rows))
    return Rates(product_rate(config.dim, config.nlist), step_seconds, first_seconds, read)


def product_rate(dim: int, nlist: int) -> float:
    """float32 operations a second of a tile of rows with all centers, or as many vectors as FAISS takes at once."""
    nlist = max(nlist, TILE)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TILE, dim), dtype=np.float32)
    centers = rng.standard_normal((nlist, dim), dtype=np.float32)
    n = max(1, round(2e9 / (2 * TILE * dim * nlist)))  # small products are repeated, so that the clock can tell
    return 2 * TILE * dim * nlist * n / _fastest(lambda: [x @ centers.T for _ in range(n)])


def read_rate(learn: Vectors, metric: str, cleaning: Cleaning) -> float:
    """Bytes a second of float32 rows, read and checked as a run does it."""
    first = replace(learn, rows=learn.rows[: rows_per_block(learn.dim, READ_BYTES)])
    # once: a second time they would come from memory
    return 4 * first.rows.size / _fastest(lambda: scan(first, metric, silent(), cleaning), repeats=1)


def time_steps(config: Config) -> tuple[float, float]:
    """Seconds that the first steps take beside those of later ones, and of one step of batch_size pairs.

    Where a whole step would take too long, two small ones tell what weights take, and what pairs.
    """
    n_weights = sum(math.prod(shape) for shape in weight_shapes(config.param_list).values())
    backend = load_backend(config.backend, _random_setup(config), config.gpu, precision_name(config))
    if not on_cpu(config.gpu) or 12 * n_weights * config.batch_size <= MOST_OPERATIONS:
        return _time_steps(backend, config, config.batch_size, STEPS)
    (first, small), (_, large) = (_time_steps(backend, config, pairs, 1) for pairs in PART_OF_A_STEP)
    a_pair = max(0.0, large - small) / (PART_OF_A_STEP[1] - PART_OF_A_STEP[0])
    return first, small + a_pair * (config.batch_size - PART_OF_A_STEP[0])


def _time_steps(backend: Backend, config: Config, pairs: int, steps: int) -> tuple[float, float]:
    """The same, from chunks of so many steps and pairs."""
    use = np.full(config.nlist, 1 / config.nlist)
    state = backend.init_state(starting_weights(config.param_list, config.seed), use)
    chunk, goal = _random_chunk(config, steps, pairs), Goal(12.0, min(8.0, config.nlist), 10.0, 0.3)
    started = time.perf_counter()
    state = _train(backend, state, chunk, goal)
    compiled = time.perf_counter()
    _train(backend, state, chunk, goal)
    seconds = time.perf_counter() - compiled
    return max(0.0, compiled - started - seconds), seconds / steps


def _train(backend: Backend, state: Any, chunk: Chunk, goal: Goal) -> Any:
    """The state after a chunk, once the device has it."""
    state, metrics = backend.train_chunk(state, chunk, goal)
    float(metrics.loss_centers)
    return state


def _random_setup(config: Config) -> Setup:
    """Centers of unit norm, drawn."""
    start = np.random.default_rng(1).standard_normal((config.nlist, config.dim), dtype=np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    return Setup(
        blocks=blocks_of(config.nlist, config.batch_size),
        param_list=config.param_list,
        metric=config.metric,
        start=start,
        radius=np.full(config.nlist, 0.05, np.float32),
        mean=np.zeros(config.dim, np.float32),
        scale=np.float32(config.dim**-0.5),
        delta_floor=1e-6,
        learning_rates=np.full(2 * STEPS, 1e-4),
        use_rate=0.01,
        loss_scale=config.scale,
    )


def _random_chunk(config: Config, steps: int, pairs: int) -> Chunk:
    """Pairs of unit norm, drawn, in blocks of drawn cells where there are many buckets."""
    rng, blocks = np.random.default_rng(2), blocks_of(config.nlist, config.batch_size)
    pairs += -pairs % (blocks.pairs if blocks else 1)
    x = rng.standard_normal((steps, pairs, config.dim), dtype=np.float32)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    cells = rng.integers(0, config.nlist, (steps, pairs, 2, CELLS), dtype=np.int32) if blocks else None
    return Chunk(x, x[:, ::-1].copy(), np.ones((steps, pairs), dtype=bool), cells)


def _fastest(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
