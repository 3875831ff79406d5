"""The unit of the files does not matter under L2: recall of one set at five scales.

    python -m benchmarks.scale_free --data_path DIR --set sift

DIR/learn_NAME.npy and DIR/NAME/{base,query,gt}.npy are multiplied by 2^-10, 2^10, 1e-3 and 1e3;
printed is the largest difference of recall from the unscaled set over all rows of the evaluation.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.runs import main_job_flags, print_table, results, run_dcnet, scaled_copy

FACTORS = {"1": 1.0, "2^-10": 2.0**-10, "2^10": 2.0**10, "1e-3": 1e-3, "1e3": 1e3}


def recall(data: Path, name: str, factor: float, scratch: Path) -> np.ndarray:
    """All recalls of a run on scaled vectors."""
    data = scaled_copy(data, name, scratch, factor)
    run_dcnet("--save_path", str(scratch / "out"), *main_job_flags(data, name, "L2"))
    return np.concatenate([line["recall"] for line in results(scratch / "out")])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--set", required=True)
    options = parser.parse_args()
    found = {}
    for text, factor in FACTORS.items():
        with tempfile.TemporaryDirectory() as scratch:
            found[text] = recall(options.data_path, options.set, factor, Path(scratch))
    rows = [[text, f"{np.abs(values - found['1']).max():.5f}"] for text, values in found.items()]
    print_table(["factor", "largest difference of recall"], rows)


if __name__ == "__main__":
    main()
