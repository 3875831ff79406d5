"""What each stage of the documented job takes where a GPU is at hand, and what the documented size would take.

    python -m benchmarks.gpu_job --gpu 0 --rows 1000000 --nlist 16384 --param_list 256 512 1024 2048 8192 16384 \
        --backend jax --use_amp True --amp_dtype bfloat16
    python -m benchmarks.gpu_job --gpu -1 --rows 20000 --nlist 64 --param_list 256 64    # a smoke test

Learn and base are drawn with a seed: people with ten images each, of unit norm, as many in base as in learn. One epoch
of training; after --limit_s the run is ended, and the stages that had finished by then are shown.

The documented size is 10 million learn vectors, 25 million in base, 20 epochs, the same network. A stage is taken to
grow as ivfast/train/plan.py says, from the rows that it works on: training, neighbours and files by all vectors,
k-means by the million or 256 nlist that it sees (at 21 iterations), judging by the epochs and by the pool that it
stores, assigning by base:

    seconds at the documented size = measured * plan(documented) / plan(measured), both at this machine's rates
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.peers.task import exact
from benchmarks.runs import print_table
from benchmarks.stages import Watched, watched_run
from ivfast.data.vectors import learn_path, open_vectors
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import AMP_DTYPES, BACKENDS
from ivfast.runtime.devices import on_cpu
from ivfast.runtime.parser import boolean
from ivfast.train.plan import KMEANS_ITERATIONS, Sizes, seconds_of_stages
from ivfast.train.rates import measure_rates

NAME = "people"
IMAGES = 10  # of each person
NOISE = 0.7  # length of what tells images of one person apart, beside a person of length 1
DECAY = -0.35  # of the standard deviations of people along the axes: (1 + i)^decay
N_QUERIES = 1000
BLOCK = 5000  # people drawn at once
DOCUMENTED = {"n_learn": 10_000_000, "n_base": 25_000_000, "epochs": 20}


def people(path: Path, rows: int, dim: int, seed: int, part: int) -> None:
    """Write unit rows, (rows, dim) float32, block by block."""
    rng = np.random.default_rng([seed, part])
    spread = ((1.0 + np.arange(dim)) ** DECAY).astype(np.float32)
    spread /= np.linalg.norm(spread)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    step = BLOCK * IMAGES
    for start in range(0, rows, step):
        person = rng.standard_normal((BLOCK, 1, dim), dtype=np.float32) * spread
        image = rng.standard_normal((BLOCK, IMAGES, dim), dtype=np.float32) * np.float32(NOISE / dim**0.5)
        x = (person + image).reshape(step, dim)[: rows - start]
        file[start : start + step] = x / np.linalg.norm(x, axis=1, keepdims=True)
    file.flush()


def make_data(folder: Path, rows: int, dim: int, seed: int) -> None:
    """Learn, base, and queries that are noisy vectors of base, in the documented layout."""
    people(learn_path(folder, "learn"), rows, dim, seed, 0)
    people(folder / NAME / "base.npy", rows, dim, seed, 1)
    base, rng = np.load(folder / NAME / "base.npy", mmap_mode="r"), np.random.default_rng([seed, 2])
    query = base[rng.choice(rows, N_QUERIES, replace=False)]
    query = query + rng.standard_normal(query.shape, dtype=np.float32) * np.float32(NOISE / dim**0.5)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    np.save(folder / NAME / "query.npy", query)
    np.save(folder / NAME / "gt.npy", exact(query, base, "IP"))


def run_flags(options: argparse.Namespace, data: Path) -> list[str]:
    """Of one epoch."""
    return [
        "--data_path", str(data), "--data_name", NAME, "--learn_name", "learn", "--nlist", str(options.nlist),
        "--param_list", *map(str, options.param_list), "--niter", str(options.niter), "--epochs", "1", "--warmup", "0",
        "--lr", "1e-4", "--percents", "0", "0.8", "--seed", str(options.seed), "--gpu", str(options.gpu),
        "--backend", options.backend, "--use_amp", str(options.use_amp), "--amp_dtype", options.amp_dtype,
    ]  # fmt: skip


def growth(options: argparse.Namespace, data: Path, said: str) -> dict[str, float]:
    """By stage, how many times what was measured the documented size takes. said: by the run, for its iterations"""
    config = parse(["--save_path", str(data), *run_flags(options, data)])[0]
    learn = open_vectors(learn_path(data, "learn"), "learn", config.dim)
    rates = measure_rates(config, learn)
    here = Sizes(len(learn), len(learn), N_QUERIES, config.param_list, 1, config.batch_size, on_cpu=on_cpu(config.gpu))
    small, large = (seconds_of_stages(sizes, rates) for sizes in (here, here._replace(**DOCUMENTED)))
    ratios = {stage: large[stage] / small[stage] for stage in small if small[stage]}
    if iterations := re.search(r"(\d+) iterations of at most", said):
        ratios["k-means"] *= KMEANS_ITERATIONS / int(iterations[1])
    return ratios | {"checkpoints": float(DOCUMENTED["epochs"])}


def show(watched: Watched, ratios: dict[str, float]) -> None:
    """One table. A stage that no plan knows is taken to be as long at any size."""
    rows, total = [], watched.other
    for stage in watched.stages:
        there = stage.seconds * ratios.get(stage.name, 1.0)
        total += there
        peak = f"{stage.peak_mb:.0f}" if stage.peak_mb else ""
        rows.append([stage.name, f"{stage.seconds:.1f}", peak, f"{there:,.0f}"])
    rows.append(["imports, cut short, all else", f"{watched.other:.1f}", "", f"{watched.other:,.0f}"])
    rows.append(["**total**", f"{watched.seconds:.1f}", f"{watched.peak_mb:.0f}", f"{total:,.0f}"])
    print_table(["stage", "measured, s", "peak anonymous MB", "documented size, s"], rows)
    if not watched.finished:
        print("\nThe run was ended before its time: stages are absent, and nothing is said of the documented size.")


def main(argv: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=int, default=0, help="-1 is the CPU")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of learn, and of base")
    parser.add_argument("--nlist", type=int, default=16384)
    parser.add_argument("--param_list", type=int, nargs="+", default=[256, 512, 1024, 2048, 8192, 16384])
    parser.add_argument("--niter", type=int, default=5, help="k-means iterations, on the CPU")
    parser.add_argument("--backend", choices=BACKENDS, default="jax")
    parser.add_argument("--use_amp", type=boolean, default=False, metavar="True|False")
    parser.add_argument("--amp_dtype", choices=AMP_DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit_s", type=float, default=480.0, help="seconds after which the run is ended")
    parser.add_argument("--out", type=Path, help="keep what was measured in this JSON file, and the log beside it")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        data, run = Path(scratch) / "data", Path(scratch) / "run"
        make_data(data, options.rows, options.param_list[0], options.seed)
        watched = watched_run(run, run_flags(options, data), options.limit_s)
        if not watched.finished:
            print("\n".join(watched.said.splitlines()[-60:]), flush=True)
        ratios = growth(options, data, watched.said) if watched.finished else {}
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            stages = [stage._asdict() for stage in watched.stages]
            options.out.write_text(json.dumps({**watched._asdict(), "stages": stages, "growth": ratios}, indent=1))
            shutil.copy(run / "train.log", options.out.with_suffix(".log"))
    show(watched, ratios)


if __name__ == "__main__":
    main()
