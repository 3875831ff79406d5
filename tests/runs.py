"""Small whole runs in processes of their own, for tests that stop and break them."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ivfast.data.synthetic import make_faces, save_set
from run_dcnet import main

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--data_name faces --learn_name learn_faces --nlist 32 --param_list 24 48 32 --niter 10 --epochs 4 --warmup 1 "
    "--batch_size 50 --lr 2e-3 --percents 0 0.8 --use_drop True --gpu -1"
)


def make_data(folder: Path, n_identities: int = 400, n_query: int = 200) -> Path:
    """Faces of 24 dims, ten an identity. 4,000 learn vectors: 64 steps an epoch, the last batch short."""
    save_set(folder, "faces", *make_faces(5, n_identities=n_identities, images=10, dim=24, n_query=n_query))
    return folder


def flags(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data_path", str(data), "--save_path", str(out), *FLAGS.split(), *more]


def command(data: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "run_dcnet.py"), *flags(data, out, *more)]


def run(data: Path, out: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data, out, *more), capture_output=True, text=True, check=False, **options)


def shared_runs(start: Callable[..., list[str]], make_folder: Callable[[], Path]) -> Callable[..., Path]:
    """Runs by their further flags, each made once for all tests of a file: what leaves a folder changed copies it.

    start: folder, further flags -> command line
    """

    @cache
    def run_once(*more: str) -> Path:
        out = make_folder()
        assert main(start(out, *more)) == 0
        return out

    return run_once


def outputs(out: Path) -> dict[str, Any]:
    """What must be equal to the byte, but for settings of the evaluation that say where and how."""
    return {
        "centers": (out / "ivfast.npy").read_bytes(),
        "network": (out / "dcnet.safetensors").read_bytes(),
        "table": (out / "evaluation.csv").read_bytes(),
        "results": json.loads((out / "evaluation.json").read_text())["results"],
    }
