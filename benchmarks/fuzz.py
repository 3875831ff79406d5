"""Random small runs of the whole tool: each must end well, or with one clear line.

    python -m benchmarks.fuzz --minutes 30
    python -m benchmarks.fuzz --case 137        # one of them again, its folder kept

A case is drawn from its number alone: data (metric, type, sizes, copies of rows, far rows, unit, offset, bad rows, gt),
settings (backend, precision, network, percents, ..) and what is done: a run, a run that is stopped or killed and
resumed, a run and another evaluation, or `ivfast fit` with a search. A run that ends with 0 leaves files whose
invariants hold (benchmarks/fuzz_checks.py). A resumed run leaves the bytes of an undisturbed one.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fuzz_checks import faults_of_ending, faults_of_files, faults_of_index
from benchmarks.runs import ROOT

LONGEST = 240  # seconds that a command may take
DTYPES = ("<f4", "<f4", "<f4", "<f2", "<f8", ">f4")
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "passive"}
DEEDS = ("run", "run", "run", "stopped", "killed", "evaluated", "fit", "fit")


class Case(NamedTuple):
    """One drawn case."""

    number: int
    deed: str
    metric: str
    flags: list[str]
    facts: dict[str, Any]  # what was drawn, for the report


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str


def draw_rows(rng: np.random.Generator, facts: dict[str, Any], n: int) -> np.ndarray:
    """Vectors of the drawn kind, (n, dim) in the drawn type."""
    dim, kind = facts["dim"], facts["kind"]
    if kind == "whole":
        x = rng.integers(-2, 3, (n, dim)).astype(np.float64)
    elif kind == "flat":
        x = rng.random((n, dim))
    else:
        middles = np.random.default_rng(facts["seed"]).normal(size=(facts["groups"], dim)) * 3
        x = middles[rng.integers(0, len(middles), n)] + rng.normal(size=(n, dim))
    if facts["copied"] and n > 1:
        n_copied = int(facts["copied"] * n)
        x[rng.choice(n, n_copied, replace=False)] = x[rng.integers(0, n, max(1, n_copied // 50))][
            rng.integers(0, max(1, n_copied // 50), n_copied)
        ]
    x = x * facts["unit"] + facts["offset"] * facts["unit"]
    if facts["far"]:
        x[rng.choice(n, max(1, n // 500), replace=False)] *= facts["far"]
    if facts["bad"] == "nan":
        x[rng.integers(n), rng.integers(dim)] = np.nan
    if facts["bad"] == "zero":
        x[rng.integers(n)] = 0
    if facts["unit_rows"]:
        with np.errstate(all="ignore"):
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        rows = x.astype(facts["dtype"])
    return np.asfortranarray(rows) if facts["fortran"] else rows


def exact(base: np.ndarray, query: np.ndarray, metric: str, width: int) -> np.ndarray:
    """The nearest rows of base, by float64."""
    with np.errstate(all="ignore"):
        b, q = base.astype(np.float64), query.astype(np.float64)
        if metric == "IP":
            near = -(q / np.linalg.norm(q, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
        else:
            near = np.square(q[:, None] - b[None]).sum(axis=2)
    return np.argsort(near, axis=1, kind="stable")[:, :width]


def draw_facts(rng: np.random.Generator) -> dict[str, Any]:
    """What the data is like."""
    metric = str(rng.choice(["IP", "L2"]))
    odd = rng.random(8) < 0.15
    facts: dict[str, Any] = {
        "metric": metric, "dim": int(rng.choice([1, 2, 3, 8, 16, 33, 64])), "seed": int(rng.integers(1 << 30)),
        "n_learn": int(rng.choice([60, 300, 1000, 1500, 3000])), "n_base": int(rng.choice([1, 50, 1000, 2000, 4000])),
        "n_query": int(rng.choice([1, 3, 20, 200])), "groups": int(rng.choice([1, 5, 40, 200])),
        "kind": str(rng.choice(["groups", "groups", "flat", "whole"])), "dtype": str(rng.choice(DTYPES)),
        "copied": float(rng.choice([0.02, 0.3, 0.9])) if rng.random() < 0.3 else 0.0,
        "far": float(rng.choice([1e3, 1e7, 1e12, 1e25])) if odd[0] else 0.0,
        "unit": float(rng.choice([1e-20, 1e-6, 1e4, 1e15])) if odd[1] else 1.0,
        "offset": float(rng.choice([1e2, 1e4, 1e7])) if odd[2] else 0.0,
        "bad": str(rng.choice(["nan", "zero"])) if odd[3] else "", "fortran": bool(odd[4]),
        "gt": str(rng.choice(["from 1", "beyond", "short", "padded", "floats"])) if odd[5] else "exact",
        "same": bool(rng.random() < 0.4),
    }  # fmt: skip
    return facts | {"unit_rows": metric == "IP" and rng.random() < 0.8}


def write_data(rng: np.random.Generator, facts: dict[str, Any], folder: Path) -> int:
    """Learn and an evaluation set. Returns the rows of base that a run does not drop."""
    learn = draw_rows(rng, facts, facts["n_learn"])
    base = learn if facts["same"] else draw_rows(rng, facts, facts["n_base"])
    query = draw_rows(rng, facts | {"far": 0.0, "bad": ""}, facts["n_query"])
    gt = exact(base, query, facts["metric"], int(rng.choice([1, 10, 20])))
    if facts["gt"] == "padded":
        gt[rng.random(gt.shape) < 0.2] = -1
    gt = {"from 1": gt + 1, "beyond": gt + len(base), "short": gt[:-1], "floats": gt.astype("f4")}.get(facts["gt"], gt)
    (folder / "set").mkdir(parents=True)
    np.save(folder / "learn.npy", learn)
    for name, rows in (("base", base), ("query", query), ("gt", gt)):
        np.save(folder / "set" / f"{name}.npy", rows)
    kept = np.isfinite(base.astype(np.float64)).all(axis=1)
    return int((kept & base.any(axis=1) if facts["metric"] == "IP" else kept).sum())


def draw_flags(rng: np.random.Generator, facts: dict[str, Any]) -> list[str]:
    """Settings of a run."""
    nlist = int(rng.choice([1, 2, 16, 16, 40, 100]))
    layers = [[], [], [20], [24, 40]][rng.integers(4)]
    pick = lambda values: str(rng.choice(values))  # noqa: E731
    ftopk = int(rng.choice([1, 5, 10])) if rng.random() < 0.05 else min(nlist, int(rng.choice([2, 5, 10])))
    most = 7 if rng.random() < 0.05 else min(ftopk, nlist) - 1
    percents = sorted({str(min(most, ratio)) for ratio in rng.choice([0, 0.3, 0.8, 1.5, 7], 2)})
    flags = ["--metric", facts["metric"], "--nlist", str(nlist), "--param_list", str(facts["dim"])]
    flags += [*map(str, layers), str(nlist), "--percents", *percents, "--gpu", "-1"]
    flags += ["--backend", pick(["jax", "torch", "torch"]), "--epochs", pick(["0", "1", "3", "auto"]), "--warmup", "0"]
    flags += ["--lr", pick(["2e-3", "2e-3", "1e-4", "0.5"]), "--batch_size", pick(["16", "64", "256"])]
    flags += ["--niter", pick(["1", "10"]), "--ftopk", str(ftopk), "--seed", pick([1, 7])]
    flags += ["--nprobes", *map(str, sorted({*range(1, min(nlist, 6) + 1), nlist}))]
    if rng.random() < 0.3:
        flags += ["--use_amp", "True", "--amp_dtype", pick(["float16", "bfloat16"]), "--apex_mode", pick(["O1", "O2"])]
        flags += ["--scale", pick(["1", "1024", str(2**24)])]
    for name, chance in (("use_drop", 0.3), ("drop_bad_rows", 0.3), ("normalize", 0.3)):
        if rng.random() < chance and (name != "normalize" or facts["metric"] == "IP"):
            flags += [f"--{name}", "True"]
    return [*flags, "--checkpoint_minutes", "0.002", "--valid_batch_size", pick(["7", "1024", "10000"])]


def draw(number: int, folder: Path) -> tuple[Case, int]:
    """A case, its data written. Returns it and the rows of base."""
    rng = np.random.default_rng([number, 20])
    facts = draw_facts(rng)
    deed = str(rng.choice(DEEDS))
    if deed == "fit":
        facts["n_base"] = max(facts["n_base"], int(rng.choice([999, 1000, 1000, 1000])))
    n_base = write_data(rng, facts, folder)
    return Case(number, deed, facts["metric"], draw_flags(rng, facts), facts), n_base


def start(words: list[str]) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def end(process: subprocess.Popen[str], seconds: float = LONGEST) -> Ended:
    """Wait for a command; one that takes too long is killed and counts as ended by that."""
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[0] + "\n(took too long)"
    return Ended(process.returncode, said)


def training(case: Case, folder: Path, out: Path, *more: str) -> list[str]:
    """The command line of a run."""
    paths = ["--data_path", str(folder), "--data_name", "set", "--learn_name", "learn", "--save_path", str(out)]
    return ["run_dcnet.py", *paths, *case.flags, *more]


def try_run(case: Case, folder: Path, n_base: int) -> tuple[Ended, list[str]]:
    """A run, and what the deed asks for after it."""
    out = folder / "out"
    ended = end(start(training(case, folder, out)))
    faults = faults_of_ending(*ended)
    if ended.code:
        return ended, faults
    faults += faults_of_files(out, case.metric, n_base)
    if case.deed in ("stopped", "killed"):
        faults += faults_of_resuming(case, folder, out)
    if case.deed == "evaluated":
        again = end(start(training(case, folder, out, "--eval", "True", "--ai_center", str(out / "ivfast.npy"))))
        faults += faults_of_ending(*again)
        faults += [] if again.code else faults_of_files(out, case.metric, n_base)
    return ended, faults


def faults_of_resuming(case: Case, folder: Path, whole: Path) -> list[str]:
    """Stop the same run anywhere, resume it, compare bytes."""
    rng, out = np.random.default_rng([case.number, 21]), folder / "disturbed"
    process = start(training(case, folder, out))
    time.sleep(float(rng.uniform(1, 8)))
    process.send_signal(signal.SIGTERM if case.deed == "stopped" else signal.SIGKILL)
    end(process)
    has_point = any((out / "checkpoints").glob("epoch_*"))
    more = ("--resume", "True") if has_point else ()
    ended = end(start(training(case, folder, out, *more)))
    if ended.code == 2 and "is a finished run" in ended.said:
        return []
    faults = [f"resumed: {fault}" for fault in faults_of_ending(*ended)]
    if ended.code:
        return [*faults, f"resumed: {ended.said.splitlines()[-1]}"]
    return faults + [
        f"resumed: {name} differs"
        for name in ("ivfast.npy", "kmeans.npy", "dcnet.safetensors", "evaluation.csv")
        if (out / name).read_bytes() != (whole / name).read_bytes()
    ]


def try_fit(case: Case, folder: Path) -> tuple[Ended, list[str]]:
    """`ivfast fit` on base, then a search."""
    base, out = folder / "set" / "base.npy", folder / "fit"
    words = ["-m", "ivfast", "fit", str(base), "--save_path", str(out), "--metric", case.metric, "--epochs", "1"]
    words += ["--backend", "torch"] + (["--normalize", "True"] if "--normalize" in case.flags else [])
    ended = end(start(words))
    faults = faults_of_ending(*ended)
    return ended, faults if ended.code else faults + faults_of_index(
        out, np.load(base), normalized="--normalize" in words
    )


def try_case(number: int, *, keep: bool = False) -> tuple[Case, Ended, list[str]]:
    """One case, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{number}_"))
    try:
        case, n_base = draw(number, folder / "data")
        attempt = try_fit(case, folder / "data") if case.deed == "fit" else try_run(case, folder / "data", n_base)
        if keep:
            print(folder, json.dumps(case.facts), " ".join(case.flags), attempt[0].said, sep="\n")
        return case, *attempt
    finally:
        if not keep:
            shutil.rmtree(folder)


def main() -> None:
    """Try cases until the time is up, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--first", type=int, default=1, help="number of the first case")
    parser.add_argument("--case", type=int, help="try this one alone, and keep its folder")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.case is not None:
        print(try_case(options.case, keep=True)[2] or "nothing is wrong")
        return
    until, endings, failed = time.monotonic() + 60 * options.minutes, Counter[str](), 0
    with ThreadPoolExecutor(options.workers) as pool:
        number = options.first
        while time.monotonic() < until:
            for case, ended, faults in pool.map(try_case, range(number, number + 4 * options.workers)):
                endings[f"{case.deed}, exit {ended.code}"] += 1
                failed += bool(faults)
                if faults:
                    print(
                        f"case {case.number} ({case.deed}): {'; '.join(faults)}\n  {json.dumps(case.facts)}", flush=True
                    )
            number += 4 * options.workers
    print(f"{sum(endings.values())} cases, {failed} with faults")
    for name, times in sorted(endings.items()):
        print(f"  {name}: {times}")


if __name__ == "__main__":
    main()
