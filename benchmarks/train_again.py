"""What a start from earlier centers saves where a base has grown by half: held-out values, and what real queries scan.

    python -m benchmarks.train_again --data_path DIR --sets words:IP text:IP

Of each set DIR/SET/{base,query,gt}.npy are read. A model of the first two thirds of base, in an order drawn at random,
is where training on all of base starts, beside training that starts at k-means with as many buckets.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import faiss
import numpy as np

import ivfast
from benchmarks.index_time import Case, read
from benchmarks.runs import print_table
from ivfast.choose.judgement import value
from ivfast.choose.verdict import over_kmeans
from ivfast.data.synthetic import save_set
from ivfast.method import RECALL
from ivfast.runtime.progress import silent
from ivfast.train.epochs import start_point, train_epoch
from ivfast.train.run import start_run

LR = 2e-3


def scanned(case: Case, centers: np.ndarray) -> float:
    """Share scanned for 90 % of the 10 nearest by a plain IVF index with these centers. centers: (nlist, dim)"""
    metric = faiss.METRIC_INNER_PRODUCT if case.metric == "IP" else faiss.METRIC_L2
    bucket = faiss.knn(case.base, centers, 1, metric=metric)[1][:, 0]
    order = faiss.knn(case.query, centers, len(centers), metric=metric)[1]
    place = np.take_along_axis(order.argsort(axis=1), bucket[case.gt], axis=1)
    recall = (place[:, :, None] <= np.arange(len(centers))).mean(axis=(0, 1))
    share = (np.bincount(bucket, minlength=len(centers)) / len(bucket))[order].cumsum(axis=1).mean(axis=0)
    return float(np.interp(RECALL, recall, share))


def train(case: Case, folder: Path, start: Path | None, nlist: int, epochs: int, seed: int) -> list[list[str]]:
    """A row of the start and one an epoch: held-out scanned over k-means stored alike, and that of real queries."""
    out = folder / f"out_{start is not None}_{epochs}"
    (folder / "cache").mkdir(exist_ok=True)
    shutil.copytree(folder / "cache", out / "cache")
    config = ivfast.Config(
        save_path=out, data_path=folder, data_name="all", learn_name="all/base", percents=(0.0, 0.8), warmup=0,
        epochs=epochs, metric=case.metric, lr=LR, nlist=nlist, param_list=(case.base.shape[1], nlist), gpu=-1,
        seed=seed, start=start,
    )  # fmt: skip
    run = start_run(config, silent())
    shutil.copytree(out / "cache", folder / "cache", dirs_exist_ok=True)
    point, outside = start_point(run), run.learn.points.space.outside
    of_kmeans, rows = scanned(case, outside(run.kmeans)), []
    while True:
        choice = point.choices["centers"]
        first = choice.given or choice.start
        found = choice.values[-1] if choice.values else value(first.judgement, run.kmeans_curves)
        centers = outside(run.backend.centers(point.state.params))
        rows.append([
            "k-means" if start is None else "earlier centers", f"{point.epoch} of {epochs}",
            f"{over_kmeans(found, choice, run.kmeans_curves):.3f}", f"{scanned(case, centers) / of_kmeans:.3f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
        if point.epoch == epochs:
            return rows
        point = train_epoch(run, point)


def compare(folder: Path, metric: str, epochs: list[int], seed: int, work: Path) -> list[list[str]]:
    """All rows of a set."""
    case = read(folder, metric)
    order = np.random.default_rng(seed).permutation(len(case.base))
    case = case._replace(base=np.ascontiguousarray(case.base[order]), gt=np.argsort(order)[case.gt])
    n = len(case.base) * 2 // 3
    first = ivfast.fit(case.base[:n], metric=metric, seed=seed, save_path=work / "first")
    save_set(work, "all", case.base, case.base, case.query, case.gt)
    rows = []
    for number in epochs:
        for start in (None, work / "first" / "ivfast.npy"):
            rows += train(case, work, start, first.nlist, number, seed)
    return [[folder.name, *row] for row in rows]


def main(argv: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["words:IP", "text:IP"], metavar="SET:METRIC")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 10], help="lengths of trainings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for one in options.sets:
            name, metric = one.split(":")
            rows += compare(options.data_path / name, metric, options.epochs, options.seed, Path(work) / name)
    print_table(["set", "start", "epoch", "held-out, over k-means", "queries, over k-means"], rows)


if __name__ == "__main__":
    main()
