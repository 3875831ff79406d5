"""Whether a run that is killed and continued ends with the bytes of a run never disturbed.

    python -m benchmarks.kills                                                    # 80 kills
    python -m benchmarks.kills --backends jax --precisions float32 --kills 4

Each SIGKILL meets a new run on the CPU, which is then continued with --resume True. Three of four
aim at the stage hit least so far: they wait for its sign, then for a random part of the time that
the undisturbed run spent in it; the fourth falls anywhere. Counted is where a kill landed, by what
lay on disk; a run that ended first is drawn again. Where --resume True is refused since there is no
checkpoint yet, the refusal's advice is followed: the same command without it.

Compared to the byte: ivfast.npy, kmeans.npy, dcnet.safetensors, evaluation.csv, and evaluation.json
but for two of its settings that say where and how it ran: save_path and resume.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.runs import ROOT, print_table
from ivfast.data.synthetic import make_faces, save_set

EPOCHS = 6
FLAGS = (
    "--data_name faces --learn_name learn_faces --nlist 64 --param_list 48 256 512 64 --niter 25 --warmup 1 "
    f"--epochs {EPOCHS} --batch_size 256 --lr 2e-3 --percents 0 0.8 --use_drop True --gpu -1 "
    "--checkpoint_minutes 0.002"  # several within an epoch
)
PRECISIONS = {"float32": (), "bfloat16": ("--use_amp", "True", "--amp_dtype", "bfloat16")}
SIGNS = {  # of the stage that a run is in: the first that lies in its folder
    "dcnet.safetensors": "evaluation",
    "checkpoints/.epoch_*": "saving",  # a checkpoint is written beside, then renamed
    f"checkpoints/epoch_{EPOCHS:05d}_*": "export",
    "cache/neighbors.*": "training",
    "cache/kmeans.*": "neighbours",
}
AIMS = ("k-means", "neighbours", "training", "saving", "export", "evaluation")
STAGES = ("start", *AIMS)
FILES = ("ivfast.npy", "kmeans.npy", "dcnet.safetensors", "evaluation.csv", "evaluation.json")
LOOK = 0.0005  # seconds between two looks: a checkpoint is written in 3 ms
# threads that spin while they wait: beside other work, torch took over 60 s for what took 12 s without
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "passive"}


def stage_of(out: Path) -> str:
    """Where a run stands, by what lies in its folder."""
    for sign, stage in SIGNS.items():
        if any(out.glob(sign)):
            return stage
    log = out / "train.log"
    return "k-means" if log.is_file() and "k-means: clustering" in log.read_text() else "start"


def newest(out: Path) -> str:
    """The newest checkpoint's name, empty where there is none."""
    return max((path.stem for path in out.glob("checkpoints/epoch_*")), default="")


def outputs(out: Path) -> dict[str, bytes]:
    """What must be equal, by file."""
    found = {name: (out / name).read_bytes() for name in FILES}
    record = json.loads(found["evaluation.json"])
    for name in ("save_path", "resume"):
        del record["settings"][name]
    return found | {"evaluation.json": json.dumps(record).encode()}


def begin(flags: list[str], out: Path) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    command = [sys.executable, str(ROOT / "run_dcnet.py"), *flags, "--save_path", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def run_unbroken(flags: list[str], out: Path) -> dict[str, float]:
    """Let a run be. Returns seconds from each stage's first sign to its last, of saving the median of one; "": all."""
    started, seen = time.monotonic(), [(0.0, "start")]
    process = begin(flags, out)
    while process.poll() is None:
        if (stage := stage_of(out)) != seen[-1][1]:
            seen.append((time.monotonic() - started, stage))
        time.sleep(LOOK)
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(said)
    seen.append((time.monotonic() - started, ""))
    lengths = {"": seen[-1][0]}
    for stage in AIMS:
        visits = [(first, last) for (first, name), (last, _) in pairwise(seen) if name == stage]
        if not visits:
            raise SystemExit(f"{stage} was too quick to be seen")
        lengths[stage] = visits[-1][1] - visits[0][0]
        if stage == "saving":
            lengths[stage] = float(np.median([last - first for first, last in visits]))
    return lengths


def run_killed(flags: list[str], out: Path, aim: str, lengths: dict[str, float], rng: np.random.Generator) -> bool:
    """Kill a run in the stage aimed at ("": anywhere). Returns False where it ended first."""
    process = begin(flags, out)
    for sign in ("training", "saving") if aim == "saving" else (aim,):  # any of the savings
        while sign and process.poll() is None and stage_of(out) != sign:
            time.sleep(LOOK)
        time.sleep(rng.uniform(0, lengths[sign]))
    process.kill()
    said = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(said)
    return process.returncode != 0


def continued(flags: list[str], out: Path) -> tuple[str, bool]:
    """Continue a killed run. Returns what it said where it failed, and whether --resume was refused."""
    first = not newest(out)
    process = begin([*flags, "--resume", "True"], out)
    said = process.communicate()[1]
    refused = first and process.returncode == 2 and "leave --resume out" in said
    if refused:
        process = begin(flags, out)
        said = process.communicate()[1]
    return said if process.returncode else "", refused


def kill_all(name: str, flags: list[str], kills: int, seed: int, folder: Path) -> tuple[list[str], list[str]]:
    """One backend and precision. Returns cells of the table, and what differed."""
    rng, counts, differing, n_refused, n_equal = np.random.default_rng(seed), Counter[str](), [], 0, 0
    lengths = run_unbroken(flags, folder / "unbroken")
    whole = outputs(folder / "unbroken")
    shown = ", ".join(f"{stage or 'all'} {seconds:.3f}" for stage, seconds in lengths.items())
    print(f"{name}, undisturbed, seconds: {shown}", file=sys.stderr)
    while (i := counts.total()) < kills:
        out, started = folder / f"kill_{i}", time.monotonic()
        fewest = min(counts[stage] for stage in AIMS)
        aim = "" if i % 4 == 3 else str(rng.choice([stage for stage in AIMS if counts[stage] == fewest]))
        if not run_killed(flags, out, aim, lengths, rng):
            shutil.rmtree(out)
            continue
        stage, place = stage_of(out), f"{name}, kill_{i} in {stage_of(out)} at {newest(out) or 'no checkpoint'}"
        counts[stage] += 1
        failed, refused = continued(flags, out)
        found = {} if failed else outputs(out)
        wrong = [failed] if failed else [file for file in FILES if found[file] != whole[file]]
        differing += [f"{place}: {what}" for what in wrong]
        n_refused, n_equal = n_refused + refused, n_equal + (not wrong)
        print(f"{place}: {'; '.join(wrong) or 'equal'} ({time.monotonic() - started:.0f} s)", file=sys.stderr)
        if not wrong:
            shutil.rmtree(out)
    return [*name.split(), *(str(counts[s]) for s in STAGES), str(n_refused), f"{n_equal} of {kills}"], differing


def main() -> None:
    """Print one table; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--kills", type=int, default=20, help="of each backend and precision")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--out", type=Path, help="keep here the runs that differ")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        save_set(out / "data", "faces", *make_faces(5, n_identities=1600, images=10, dim=48, n_query=400))
        rows, differing = [], []
        for backend in options.backends:
            for precision in options.precisions:
                flags = ["--data_path", str(out / "data"), "--backend", backend, *FLAGS.split(), *PRECISIONS[precision]]
                folder = out / f"{backend}_{precision}"
                row, wrong = kill_all(f"{backend} {precision}", flags, options.kills, options.seed, folder)
                rows.append(row)
                differing += wrong
    print_table(["backend", "precision", *STAGES, "--resume refused", "equal"], rows)
    if differing:
        raise SystemExit("\n".join(differing))


if __name__ == "__main__":
    main()
