"""How benchmarks start a run and read what it scanned."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ivfast.data.synthetic import save_set

ROOT = Path(__file__).resolve().parent.parent


PERCENTS = (0.0, 0.8, 1.5)  # of the main job
HIDDEN = {"L2": ("256", "512"), "IP": ("512", "1024")}  # layers of the main job's network


def main_job_flags(data: Path, name: str, metric: str, learn: str | None = None) -> tuple[str, ...]:
    """The main job of a set in the documented layout, on the CPU: 256 buckets, 20 epochs. learn: None is learn_NAME"""
    learn = learn or f"learn_{name}"
    dim = str(np.load(data / f"{learn}.npy", mmap_mode="r").shape[1])
    return (
        "--data_path", str(data), "--data_name", name, "--learn_name", learn, "--metric", metric,
        "--nlist", "256", "--param_list", dim, *HIDDEN[metric], "256", "--niter", "25", "--epochs", "20",
        "--warmup", "1", "--lr", "2e-3", "--percents", *map(str, PERCENTS), "--gpu", "-1",
    )  # fmt: skip


def scaled_copy(data: Path, name: str, folder: Path, factor: float) -> Path:
    """A set whose vectors are multiplied, as float32, under the same name in another folder."""
    parts = [np.load(data / f"{part}.npy") for part in (f"learn_{name}", f"{name}/base", f"{name}/query")]
    learn, base, query = (part.astype(np.float32) * np.float32(factor) for part in parts)
    save_set(folder, name, learn, base, query, np.load(data / name / "gt.npy"))
    return folder


def run_dcnet(*flags: str) -> tuple[float, str]:
    """Run the command line in a process of its own. Returns seconds and what it said."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_dcnet.py"), *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"run_dcnet.py {' '.join(flags)}\n{done.stderr}")
    return time.monotonic() - started, done.stderr


def peak_gigabytes() -> float:
    """The most resident memory that any child process has held, in GB (10^9 bytes)."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def results(folder: Path) -> list[dict[str, Any]]:
    """The lines of an evaluation."""
    return json.loads((folder / "evaluation.json").read_text())["results"]


def scanned(lines: list[dict[str, Any]], router: str, rule: str, percent: float, probing: str) -> float:
    """Share scanned for 90 % recall of one line, NaN where it is not there or never reached."""
    for line in lines:
        if (line["router"], line["rule"], line["percent"], line["probing"]) == (router, rule, percent, probing):
            share = line["scanned_at"]["0.90"]
            return float("nan") if share is None else share
    return float("nan")


def kmeans_share(lines: list[dict[str, Any]], probing: str = "fixed") -> float:
    """k-means at its better percent."""
    return min(
        line["scanned_at"]["0.90"] for line in lines if line["router"] == "kmeans" and line["probing"] == probing
    )


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Markdown."""
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
