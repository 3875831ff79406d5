"""The unit of the files does not matter under L2: recall of one set at five scales.

    python -m benchmarks.scale_free --data_path DIR --set sift

DIR/learn_NAME.npy and DIR/NAME/{base,query,gt}.npy are multiplied by 2^-10, 2^10, 1e-3 and 1e3;
printed is the largest difference of recall from the unscaled set over all rows of the evaluation.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.runs import print_table, results, run_dcnet
from ivfast.synthetic import save_set

FACTORS = {"1": 1.0, "2^-10": 2.0**-10, "2^10": 2.0**10, "1e-3": 1e-3, "1e3": 1e3}


def recall(data: Path, name: str, factor: float, scratch: Path) -> np.ndarray:
    """All recalls of a run on scaled vectors."""
    parts = [np.load(data / f"{part}.npy") for part in (f"learn_{name}", f"{name}/base", f"{name}/query")]
    learn, base, query = (part.astype(np.float32) * np.float32(factor) for part in parts)
    save_set(scratch, name, learn, base, query, np.load(data / name / "gt.npy"))
    dim = str(learn.shape[1])
    run_dcnet(
        "--save_path", str(scratch / "out"), "--data_path", str(scratch), "--data_name", name, "--learn_name",
        f"learn_{name}", "--metric", "L2", "--nlist", "256", "--param_list", dim, "256", "512", "256", "--niter", "25",
        "--epochs", "20", "--warmup", "1", "--lr", "2e-3", "--percents", "0", "0.8", "1.5", "--gpu", "-1",
    )  # fmt: skip
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
