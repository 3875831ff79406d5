"""What a start from earlier centers saves where a base has grown by half: held-out values and real queries.

    python -m benchmarks.train_again --data_path DIR --sets words:IP

Of each set DIR/SET/{base,query,gt}.npy are read. A model of the first two thirds of base, in an order drawn at random,
is where training on all of base starts, beside training that starts at k-means with as many buckets.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import ivfast
from benchmarks.index_time import read
from benchmarks.runs import kmeans_share, print_table, results, scanned


def values_of(folder: Path) -> list[float]:
    """Held-out scanned over k-means stored alike: of a given start, then after each epoch."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    start = [record["start_held_out"]["centers"] for record in records if "start_held_out" in record]
    return [*(start or [1.0]), *(record["held_out"]["centers"] for record in records if "held_out" in record)]


def compare(folder: Path, metric: str, epochs: list[int], seed: int, work: Path) -> list[list[str]]:
    """A row for each start and number of epochs: held-out values, what was chosen, and what real queries scan."""
    case = read(folder, metric)
    base = np.ascontiguousarray(case.base[np.random.default_rng(seed).permutation(len(case.base))])
    first = ivfast.fit(base[: len(base) * 2 // 3], metric=metric, seed=seed, save_path=work / "first")
    rows = []
    for name, start in (("k-means", None), ("earlier centers", first)):
        for number in epochs if start is None else [0, *epochs]:
            out = work / f"{name} {number}"
            model = ivfast.fit(
                base, first.nlist, metric=metric, seed=seed, query=case.query, save_path=out, start=start,
                epochs=number,
            )  # fmt: skip
            lines = results(out)
            shares = [
                scanned(lines, "centers", "ratio", 0.0, "fixed"),
                scanned(lines, "centers", "benefit", 0.8, "adaptive"),
            ]
            gain = model._model.about["held_out_gain"]["centers"][0]
            rows.append(
                [folder.name, name, str(number), " ".join(f"{value:.3f}" for value in values_of(out)), f"{gain:.3f}"]
                + [f"{share / kmeans_share(lines):.3f}" for share in shares]
            )
            print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["words:IP"], metavar="SET:METRIC")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for one in options.sets:
            name, metric = one.split(":")
            rows += compare(options.data_path / name, metric, options.epochs, options.seed, Path(work) / name)
    head = ["set", "start", "epochs", "held-out value, from the start on", "gain there", "queries, percent 0", "0.8"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
