"""What Ray costs beside one process, and how many vectors a core stores a second.

    python -m benchmarks.spread_rate                          # 2 million vectors, twenty minutes
    python -m benchmarks.spread_rate --rows 200000 --epochs 1

Makes vectors in clumps, trains on a sample, and stores all of them from eight files: in this process with one thread,
and on a Ray of one core. Prints the seconds of each stage, and checks that both wrote the same lists.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import ivfast
from ivfast.runtime.files import file_hash
from ivfast.runtime.progress import Progress
from ivfast.spread.maps import spread_over
from ivfast.spread.store import Wishes, store_files

FILES = 8
WAYS = {"one process": "none", "Ray, one core": "local"}
ROWS = 65_536  # made at once


def make(folder: Path, rows: int, dim: int, sample: int) -> np.ndarray:
    """Write the files; returns (sample, dim) float32 rows of their kind."""
    rng = np.random.default_rng(1)
    clumps = rng.normal(0, 1, (max(100, rows // 200), dim)).astype(np.float32)

    def some(n: int) -> np.ndarray:
        x = clumps[rng.integers(0, len(clumps), n)] + 0.5 * rng.standard_normal((n, dim), dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    bounds = np.linspace(0, rows, FILES + 1).astype(int)
    for number, n in enumerate(np.diff(bounds).tolist()):
        parts = [some(min(ROWS, n - start)) for start in range(0, n, ROWS)]
        np.save(folder / f"part-{number}.npy", np.concatenate(parts))
    return some(sample)


def measure(folder: Path, way: str) -> None:
    """Store the files in a process of its own, which keeps the time of its stages."""
    out = folder / way.replace(" ", "_")
    shutil.rmtree(out, ignore_errors=True)
    words = [str(folder / f"part-{number}.npy") for number in range(FILES)]
    started = time.monotonic()
    with spread_over(WAYS[way], cores=1) as over:
        progress = Progress(out, brief=True)
        progress.metrics(stage="starting", seconds=round(time.monotonic() - started, 3))
        stored = store_files(folder / "fit", out, Wishes(words, 0.8), over, progress)
        progress.metrics(stage="all", seconds=round(time.monotonic() - started, 3))
    if not stored.ranked == stored.listed == stored.n:
        raise SystemExit("something was there already; choose another --folder")


def stages_of(folder: Path, way: str) -> dict[str, float]:
    """Seconds by stage."""
    path = folder / way.replace(" ", "_") / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["stage"]: line["seconds"] for line in lines}


def main(argv: list[str] | None = None) -> None:
    """Measure both ways, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="vectors to store (default 2000000)")
    parser.add_argument("--dim", type=int, default=64, help="of each (default 64)")
    parser.add_argument(
        "--sample", type=int, default=20_000, help="vectors to train on, that tell who asks (default 20000)"
    )
    parser.add_argument("--epochs", type=int, default=1, help="of training: it changes no rate (default 1)")
    parser.add_argument("--folder", type=Path, help="where all is kept (default: a temporary one)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.way:
        measure(options.folder, options.way)
        return
    with TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "fit" / "index.faiss").is_file():
            sample = make(folder, options.rows, options.dim, min(options.sample, options.rows))
            model = ivfast.fit(sample, epochs=options.epochs, save_path=folder / "fit", copies=0.8)
            model.index(sample, 0.8).save(folder / "fit")
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1"}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.spread_rate", "--folder", str(folder), "--way", way]
            subprocess.run(command, check=True, env=one_thread)
        report(folder, options)
        lists = {file_hash(folder / way.replace(" ", "_") / "index.ivfdata") for way in WAYS}
        print("the lists are the same bytes" if len(lists) == 1 else "THE LISTS DIFFER")


def report(folder: Path, options: argparse.Namespace) -> None:
    """A row a stage."""
    found = {way: stages_of(folder, way) for way in WAYS}
    nlist = len(np.load(folder / "fit" / "ivfast.npy"))
    print(
        f"{options.rows:,} vectors of {options.dim} numbers, {nlist} buckets, {options.sample:,} stored ones that ask"
    )
    print("| stage | " + " | ".join(f"{way}, s" for way in WAYS) + " |\n| --- | ---: | ---: |")
    for stage in next(iter(found.values())):
        print(f"| {stage} | " + " | ".join(f"{found[way].get(stage, 0):.1f}" for way in WAYS) + " |")
    alone, over = (found[way]["all"] for way in WAYS)
    rates = options.rows / alone, options.rows / over
    print(f"Ray costs {100 * (over / alone - 1):.1f} %; a core stores {rates[0]:,.0f} vectors a second alone, "
          f"{rates[1]:,.0f} under Ray")  # fmt: skip


if __name__ == "__main__":
    main()
