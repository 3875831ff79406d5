"""Time of a training step by precision and backend, as ratios taken in one run.

    python -m benchmarks.step_time --param_list 256 512 1024 2048 --steps 8
    python -m benchmarks.step_time --steps 1 --repeats 1 --precisions float32 O2-bfloat16   # the default param_list
    python -m benchmarks.step_time --steps 20 --gpu 0         # on a GPU
    python -m benchmarks.step_time --param_list 256 16384 --precisions float32 --blocks   # all buckets, and in blocks

Printed beside each other: the machine's own rate for a large product in each type and framework,
and each step's time, rate and ratio to JAX in float32. A step is both sides of 2,048 pairs,
forward and backward: 6 x 4,096 x (weights of both paths) operations. Compile time is apart.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.runs import print_table
from ivfast.method import CELLS
from ivfast.network.backend import Chunk, Goal, Setup, blocks_of, load_backend, starting_weights

DEFAULT_WIDTHS = [256, 512, 1024, 2048, 8192, 16384]
PRECISIONS = ("float32", "O1-float16", "O2-float16", "O1-bfloat16", "O2-bfloat16")
BATCH = 2048
SLOW = {("torch", "float16", "cpu")}  # 400 times slower than float32: not worth waiting for


def median_seconds(call: Callable[[], Any], n: int) -> float:
    """Median of n timed calls."""
    times = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def jax_rate(a: np.ndarray, name: str, device: Any) -> float:
    """Operations a second of a @ a in one type, with a float32 result."""
    x = jax.device_put(jnp.asarray(a, dtype=name), device)
    multiply = jax.jit(lambda x: jax.lax.dot(x, x, precision="highest", preferred_element_type=jnp.float32))

    def call() -> None:
        multiply(x).block_until_ready()

    call()
    return 2 * len(a) ** 3 / median_seconds(call, 5)


def torch_rate(a: np.ndarray, name: str, device: str) -> float:
    """Operations a second of a @ a in one type, with a result of that type."""
    x = torch.tensor(a, dtype=getattr(torch, name), device=device)

    def call() -> None:
        torch.mm(x, x)
        if x.is_cuda:
            torch.cuda.synchronize()

    call()
    return 2 * len(a) ** 3 / median_seconds(call, 5)


def product_rates(size: int, gpu: int) -> dict[tuple[str, str], float]:
    """Operations a second of one size^3 product, by framework and type."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((size, size), dtype=np.float32)
    rates = {}
    device = jax.devices("cpu")[0] if gpu < 0 else jax.devices("gpu")[gpu]
    torch_device = "cpu" if gpu < 0 else f"cuda:{gpu}"
    for name in ("float32", "float16", "bfloat16"):
        rates["jax", name] = jax_rate(a, name, device)
        if ("torch", name, torch_device) not in SLOW:
            rates["torch", name] = torch_rate(a, name, torch_device)
    return rates


def make_setup(param_list: tuple[int, ...], *, blocks: bool = False) -> Setup:
    """Random centers of unit norm. blocks: whether steps go in blocks, where nlist is large enough"""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((param_list[-1], param_list[0])).astype(np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    dim, nlist = param_list[0], param_list[-1]
    return Setup(
        param_list, "IP", start, np.full(nlist, 0.05, np.float32), np.zeros(dim, np.float32), np.float32(0.06),
        1e-6, np.full(1000, 1e-4), 0.01, 1024.0, blocks_of(nlist, BATCH) if blocks else None,
    )  # fmt: skip


def step_seconds(backend_name: str, precision: str, setup: Setup, steps: int, repeats: int, gpu: int) -> list[float]:
    """Seconds of the first chunk (with compilation) and of one step after it."""
    param_list = setup.param_list
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, BATCH, param_list[0])).astype(np.float32)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    cells = np.sort(rng.integers(0, param_list[-1], (steps, BATCH, 2, CELLS), dtype=np.int32), axis=1)
    chunk = Chunk(x, x[:, ::-1].copy(), np.ones((steps, BATCH), dtype=bool), cells if setup.blocks else None)
    backend = load_backend(backend_name, setup, gpu, precision)
    state = backend.init_state(starting_weights(param_list, 1), np.full(param_list[-1], 1 / param_list[-1]))
    times = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        state, metrics = backend.train_chunk(state, chunk, Goal(12.0, min(32.0, param_list[-1]), 10.0, 0.3))
        float(metrics.loss_centers)
        times.append(time.perf_counter() - started)
    return [times[0], min(times[1:]) / steps]


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--param_list", type=int, nargs="+", default=DEFAULT_WIDTHS)
    parser.add_argument("--steps", type=int, default=8, help="steps a chunk")
    parser.add_argument("--repeats", type=int, default=2, help="chunks timed, of which the fastest counts")
    parser.add_argument("--size", type=int, default=2048, help="rows of the product whose rate is shown")
    parser.add_argument("--gpu", type=int, default=-1)
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--blocks", action="store_true", help="time steps in blocks beside those of all buckets")
    options = parser.parse_args()
    rates = product_rates(options.size, options.gpu)
    rows = [[framework, name, f"{rate / 1e9:.0f}"] for (framework, name), rate in rates.items()]
    print_table(["framework", f"product of {options.size}^3 in", "GFLOP/s"], rows)
    param_list = tuple(options.param_list)
    weights = sum(a * b for a, b in pairwise(param_list)) + param_list[0] * param_list[-1]
    work = 6 * 2 * BATCH * weights
    setups = [make_setup(param_list)] + [make_setup(param_list, blocks=True)] * options.blocks
    rows, base = [], None
    for backend, precision, setup in product(options.backends, options.precisions, setups):
        first, seconds = step_seconds(backend, precision, setup, options.steps, options.repeats, options.gpu)
        base = base or seconds
        half = precision.partition("-")[2] or precision
        rate = rates.get((backend, half))  # torch on the CPU has none in float16
        share = "" if rate is None else f"{100 * work / seconds / rate:.0f} %"
        done = ["", ""] if setup.blocks else [f"{work / seconds / 1e9:.0f}", share]  # of all buckets
        name = f"{precision}, blocks" if setup.blocks else precision
        rows.append([backend, name, f"{first:.1f}", f"{1e3 * seconds:.0f}", *done, f"{base / seconds:.2f}"])
    print()
    head = [
        "backend",
        "precision",
        "first chunk, s",
        "step, ms",
        "GFLOP/s",
        "of its product rate",
        "speed over the first",
    ]
    print_table(head, rows)


if __name__ == "__main__":
    main()
