"""Whether a change of the code leaves every result as it was, to the byte.

    python -m benchmarks.same_results record before.json --data_path DIR --sets text:IP words:IP sift:L2
    python -m benchmarks.same_results compare before.json --data_path DIR --sets text:IP words:IP sift:L2

Runs the main job at two epochs on each set with both backends, and on both sets of `make demo`. It records the
SHA-256 of ivfast.npy and kmeans.npy, and recall and scanned of every line of evaluation.json. Bytes depend on the
processor and on the versions of the libraries, so both commands belong on one machine. --root runs another checkout.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import ROOT, main_job_flags, results

EPOCHS = ("--epochs", "2")
BACKENDS = ("jax", "torch")
DEMO_SETS = {"synthetic_faces": "IP", "photo_patches": "L2"}
MAKE_DEMO_SETS = """
import sys
from pathlib import Path
from {synthetic} import make_faces, save_set
from ivfast.demo import make_patches
save_set(Path(sys.argv[1]), "synthetic_faces", *make_faces(1))
save_set(Path(sys.argv[1]), "photo_patches", *make_patches())
"""


def outcome(folder: Path) -> dict[str, Any]:
    """What one run left: hashes of both matrices of centers, and recall and scanned by line of the evaluation."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("ivfast.npy", "kmeans.npy")}
    lines = {
        f"{line['router']} {line['rule']} {line['percent']:g} {line['probing']}": [line["recall"], line["scanned"]]
        for line in results(folder)
    }
    return {"hashes": hashes, "lines": lines}


def run_all(root: Path, data: Path | None, sets: list[str]) -> dict[str, Any]:
    """Outcomes by set and backend."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [(data, *pair.split(":")) for pair in sets] if data else []
        made = Path(scratch) / "data"
        synthetic = "ivfast.synthetic" if (root / "ivfast" / "synthetic.py").is_file() else "ivfast.data.synthetic"
        code = MAKE_DEMO_SETS.format(synthetic=synthetic)
        subprocess.run([sys.executable, "-c", code, str(made)], cwd=root, check=True)
        jobs += [(made, name, metric) for name, metric in DEMO_SETS.items()]
        for folder, name, metric in jobs:
            for backend in BACKENDS:
                out = Path(scratch) / f"{name}_{backend}"
                flags = [*main_job_flags(folder, name, metric), *EPOCHS, "--backend", backend, "--save_path", str(out)]
                command = [sys.executable, str(root / "run_dcnet.py"), *flags]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
                found[f"{name} {backend}"] = outcome(out)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each thing that is not as it was."""
    apart = []
    for job in sorted(before.keys() | after.keys()):
        if job not in before or job not in after:
            apart.append(f"{job}: run only {'before' if job in before else 'after'}")
            continue
        for part in ("hashes", "lines"):
            for name in sorted(before[job][part].keys() | after[job][part].keys()):
                one, other = before[job][part].get(name), after[job][part].get(name)
                if one != other:
                    apart.append(f"{job}: {name} differs{_by(one, other)}")
    return apart


def _by(one: Any, other: Any) -> str:
    """The largest difference, where both are numbers of one shape."""
    if not isinstance(one, list) or not isinstance(other, list) or np.shape(one) != np.shape(other):
        return ""
    return f" by up to {np.abs(np.array(one) - np.array(other)).max():.2e}"


def main() -> None:
    """Record, or compare and exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--data_path", type=Path, help="folder of the sets; without it the two demo sets are run alone")
    parser.add_argument("--sets", nargs="*", default=[], metavar="NAME:METRIC")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to run")
    options = parser.parse_args()
    found = run_all(options.root, options.data_path, options.sets)
    if options.action == "record":
        options.file.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} runs recorded in {options.file}")
        return
    before = json.loads(options.file.read_text())
    apart = differences({job: before[job] for job in before if job in found or options.data_path}, found)
    n_lines = sum(len(one["lines"]) for one in found.values())
    print("\n".join(apart) or f"{len(found)} runs, {n_lines} lines of evaluation: all equal to the byte")
    sys.exit(bool(apart))


if __name__ == "__main__":
    main()
