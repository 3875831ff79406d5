"""What a base with copies costs: benefit beside the nearest center, on k-means' centers, and what was predicted.

    python -m benchmarks.twins --data_path DIR --sets words:IP sift:L2 --rows 20000 --nlist 128 --seeds 2

Rows of DIR/SET/base.npy are overwritten by copies of others: `web`, 1.7 % copies, one vector 902 in 60,000 times and
the others 2 to 20 times; `third`, a third of the rows copies of 500 in 60,000 vectors; `doubled`, every vector twice;
`lump`, 7 of 15 rows equal. Learn is base, queries are the set's own, right answers the ten nearest rows. The set
`normal` is made of normal numbers.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from ivfast.data.exact import flat_index
from ivfast.data.vectors import EvaluationSet, Points, Vectors, measure_space
from ivfast.evaluate.refit import FittedOn
from ivfast.evaluate.results import RouterSetting, evaluate_router
from ivfast.route.routers import ROUTERS, centers_router
from ivfast.runtime.progress import silent
from ivfast.start.descent import Means
from ivfast.start.kmeans import train_kmeans
from ivfast.store.reverse import reverse_of_base

COPIES, WIDTH = (0.0, 0.8, 1.5), 10


def sizes_of(case: str, n: int, rng: np.random.Generator) -> list[int]:
    """How often vectors are to be stored, those that are stored several times."""
    if case == "lump":
        return [round(n * 700 / 1500)]
    if case == "third":
        vectors = round(500 * n / 60_000)
        return [round(n / 3 / vectors)] * vectors
    if case == "doubled":
        return [2] * (n // 2)
    sizes = [round(902 * n / 60_000)]
    while sum(sizes) - len(sizes) < round(0.017 * n):
        sizes.append(int(rng.integers(2, 21)))
    return sizes


def make_set(
    name: str, metric: str, case: str, n: int, folder: Path | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Base with copies, and queries, (n, dim) and (m, dim) float32."""
    rng = np.random.default_rng(50 + seed)
    if folder is None:
        base, query = rng.standard_normal((n, 16)), rng.standard_normal((2000, 16))
    else:
        base, query = (np.load(folder / name / f"{part}.npy") for part in ("base", "query"))
        base = base[rng.permutation(len(base))[:n]]
    base, query = base.astype(np.float32), query.astype(np.float32)
    if metric == "IP":
        base, query = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (base, query))
    sizes, order, at = sizes_of(case, len(base), rng), rng.permutation(len(base)), 0
    for size in sizes:
        base[order[at : at + size]] = base[order[at]]
        at += size
    return base, query


def shares(base: np.ndarray, query: np.ndarray, metric: str, nlist: int) -> list[float]:
    """Scanned at 90 %: for each number of copies by the nearest centers, by benefit, and as predicted."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        vectors = Vectors("base", folder / "base", base, digest="base")
        space = measure_space(vectors, metric)
        points = Points(vectors, space)
        centers = train_kmeans(points, nlist, 20, 1).centers
        source = FittedOn(centers, points, COPIES, WIDTH, 1)
        k = source.k("centers", centers)
        router = centers_router("centers", centers, metric, source.delta_floor, k)
        setting = RouterSetting(router, ROUTERS["centers"], COPIES, source.facts(router, k), None)
        index = flat_index(base.shape[1], metric)
        index.add(base)
        gt = index.search(query, 10)[1]
        data = EvaluationSet("made", folder / "gt", vectors, Vectors("query", folder / "query", query), gt)
        reverse = reverse_of_base(Means(folder), points, source.asking, silent())
        found = evaluate_router(setting, data, space, min(WIDTH, nlist), (1,), 10_000, silent(), reverse)
    by_plan = {(result.rule, result.percent): result for result in found}
    return [
        share
        for copies in COPIES
        for share in (
            by_plan["ratio", copies].scanned_at["0.90"],
            by_plan["benefit", copies].scanned_at["0.90"],
            by_plan["benefit", copies].predicted["0.90"].scanned,
        )
    ]


def main() -> None:
    """Print one line a set and case, in percent of base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path)
    parser.add_argument("--sets", nargs="+", required=True, help="NAME:METRIC, normal:L2 or normal:IP without a file")
    parser.add_argument("--cases", nargs="+", default=["web", "third", "doubled"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--nlist", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print("set, case: nearest, benefit, predicted at percent 0 | 0.8 | 1.5")
    for name, metric in (pair.split(":") for pair in options.sets):
        folder = None if name == "normal" else options.data_path
        for case in options.cases:
            made = (make_set(name, metric, case, options.rows, folder, seed) for seed in range(options.seeds))
            mean = 100 * np.mean([shares(*one, metric, options.nlist) for one in made], axis=0).reshape(3, 3)
            print(f"{name} {metric}, {case}:", " | ".join(", ".join(f"{x:.2f}" for x in line) for line in mean))


if __name__ == "__main__":
    main()
