"""One epoch of the default --param_list on 22,000 x 256 generated vectors: time and peak memory.

    python -m benchmarks.default_network --backends jax torch

Every other flag keeps its default but --epochs 1 --warmup 0 --gpu -1.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.runs import peak_gigabytes, print_table, run_dcnet
from ivfast.data.synthetic import NAME, make_faces, save_set


def one(backend: str) -> None:
    """In a process of its own, since peak memory is of all children so far."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_set(folder, NAME, *make_faces(1, n_identities=2200, n_query=200))
        seconds, said = run_dcnet(
            "--backend", backend, "--save_path", str(folder / "out"), "--data_path", str(folder), "--data_name", NAME,
            "--learn_name", f"learn_{NAME}", "--epochs", "1", "--warmup", "0", "--percents", "0", "--gpu", "-1",
        )  # fmt: skip
        training, judging = re.findall(r"\((.*) s training, (.*) s judging\)", said)[0]
        print(f"{backend} {training} {judging} {seconds:.0f} {peak_gigabytes():.2f}")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    rows = []
    for backend in options.backends:
        command = [sys.executable, "-m", "benchmarks.default_network", "--one", backend]
        rows.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    print_table(["backend", "epoch, s", "judging, s", "all, s", "peak memory, GB"], rows)


if __name__ == "__main__":
    main()
