"""Microseconds a query on one thread at equal recall: our index, IndexIVFFlat with k-means, HNSW and ScaNN.

    python -m benchmarks.index_time --data_path DIR --sets text:IP words:IP sift:L2

Of each set DIR/SET/{base,query,gt}.npy are read. Every index stores all of base. Of each one's curve of recall against
time over the queries the first point is shown that reaches a recall, so that all are compared at the same one.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

import ivfast
from benchmarks.runs import print_table

K = 10
RECALLS = (0.90, 0.95)
REPEATS = 3  # of which the fastest counts
EF = (10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768)  # of HNSW

Search = Callable[[np.ndarray, int], np.ndarray]  # queries, k -> ids


class Way(NamedTuple):
    """One kind of index, with its knob from coarse to fine."""

    name: str
    megabytes: float
    settings: list[Any]
    set_to: Callable[[Any], Search]


class Case(NamedTuple):
    """A data set in memory."""

    base: np.ndarray
    query: np.ndarray
    gt: np.ndarray
    metric: str


def read(folder: Path, metric: str) -> Case:
    """A set as float32, of unit norm under IP."""
    base, query = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("base", "query"))
    if metric == "IP":
        for rows in (base, query):
            faiss.normalize_L2(rows)
    return Case(base, query, np.load(folder / "gt.npy")[:, :K], metric)


def ours(case: Case, folder: Path, nlist: int | None, copies: float, seed: int) -> Way:
    """Trained centers, asked for a recall."""
    if (folder / "index.faiss").is_file():
        index = ivfast.load_index(folder)
    else:
        model = ivfast.fit(case.base, nlist, metric=case.metric, copies=copies, save_path=folder, seed=seed)
        index = model.index(case.base, copies)
        index.save(folder)
    megabytes = index.faiss_index.ntotal * (index.faiss_index.code_size + 8) / 1e6

    def set_to(recall: float) -> Search:
        return lambda query, k: index.search(query, k, recall=recall)[0]

    best = index.calibration.best(K)
    return Way(f"ivfast, {copies:g} copies", megabytes, list(np.arange(0.6, best, 0.0025).round(4)), set_to)


def kmeans(case: Case, nlist: int, seed: int) -> Way:
    """Stock IndexIVFFlat over FAISS k-means."""
    dim, ip = case.base.shape[1], case.metric == "IP"
    quantizer = faiss.IndexFlatIP(dim) if ip else faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFFlat(quantizer, dim, nlist, quantizer.metric_type)
    index.cp.seed, index.cp.spherical, index.cp.max_points_per_centroid = seed, ip, len(case.base)
    index.train(case.base)
    index.add(case.base)

    def set_to(nprobe: int) -> Search:
        def search(query: np.ndarray, k: int) -> np.ndarray:
            index.nprobe = nprobe
            return index.search(query, k)[1]

        return search

    megabytes = index.ntotal * (index.code_size + 8) / 1e6
    return Way("IndexIVFFlat, k-means", megabytes, list(range(1, nlist + 1)), set_to)


def hnsw(case: Case, m: int = 32) -> Way:
    """FAISS HNSW: the fastest of these by far at these sizes, for twice the memory."""
    index = faiss.IndexHNSWFlat(case.base.shape[1], m, faiss.METRIC_INNER_PRODUCT if case.metric == "IP" else 1)
    index.hnsw.efConstruction = 200
    index.add(case.base)

    def set_to(ef: int) -> Search:
        def search(query: np.ndarray, k: int) -> np.ndarray:
            index.hnsw.efSearch = ef
            return index.search(query, k)[1]

        return search

    megabytes = len(case.base) * (4 * case.base.shape[1] + 8 * m + 8) / 1e6
    return Way(
        "IndexHNSWFlat, M 32", megabytes, [10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768], set_to
    )


def scann(case: Case, nlist: int) -> Way | None:
    """ScaNN as its documentation sets it up: a tree, 4-bit codes, reordering."""
    try:
        import scann as package
    except ImportError:
        return None
    measure = "dot_product" if case.metric == "IP" else "squared_l2"
    builder = package.scann_ops_pybind.builder(case.base, K, measure)
    tree: Any = builder.tree(num_leaves=nlist, num_leaves_to_search=10, training_sample_size=len(case.base))
    searcher = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def set_to(setting: tuple[int, int]) -> Search:
        leaves, reorder = setting
        return lambda query, k: searcher.search_batched(
            query, final_num_neighbors=k, leaves_to_search=leaves, pre_reorder_num_neighbors=reorder
        )[0]

    leaves = np.unique(np.geomspace(1, nlist, 30).astype(int))
    megabytes = len(case.base) * case.base.shape[1] * 4.25 / 1e6
    return Way("ScaNN", megabytes, [(int(n), reorder) for n in leaves for reorder in (100, 300)], set_to)


def recall_of(ids: np.ndarray, gt: np.ndarray) -> float:
    """Share of gt that is among ids, row by row."""
    return float((ids[:, :, None] == gt[:, None, :]).any(axis=1).mean())


def fastest(search: Search, query: np.ndarray) -> float:
    """Microseconds a query, of this thread alone, whatever else the machine does."""
    times = []
    for _ in range(REPEATS):
        started = time.thread_time()
        search(query, K)
        times.append(time.thread_time() - started)
    return 1e6 * min(times) / len(query)


def first_that_reaches(way: Way, case: Case, level: float) -> Any:
    """The coarsest setting that reaches a recall, of two knobs the fastest that does; None where none does."""

    def recall(setting: Any) -> float:
        return recall_of(way.set_to(setting)(case.query, K), case.gt)

    if isinstance(way.settings[0], tuple):
        reach = [setting for setting in way.settings if recall(setting) >= level]
        return min(reach, key=lambda setting: fastest(way.set_to(setting), case.query), default=None)
    low, high = 0, len(way.settings) - 1
    if recall(way.settings[high]) < level:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(way.settings[middle]) >= level else (middle + 1, high)
    return way.settings[low]


def measure(case: Case, ways: list[Way], name: str) -> None:
    """Print one table."""
    lines, threads = [], faiss.omp_get_max_threads()
    for way in ways:
        for level in RECALLS:
            setting, row = first_that_reaches(way, case, level), [way.name, f"{level:.2f}"]
            if setting is None:
                lines.append([*row, "not reached", "", "", f"{way.megabytes:.0f}"])
                continue
            search = way.set_to(setting)
            faiss.omp_set_num_threads(1)
            took, reached = fastest(search, case.query), recall_of(search(case.query, K), case.gt)
            faiss.omp_set_num_threads(threads)
            lines.append([*row, str(setting), f"{reached:.3f}", f"{took:.0f}", f"{way.megabytes:.0f}"])
    print(f"\n{name}: {len(case.base):,} x {case.base.shape[1]}, {case.metric}\n")
    print_table(["index", "recall", "setting", "recall reached", "microseconds a query", "MB"], lines)


def main(argv: list[str] | None = None) -> None:
    """Print one table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["text:IP", "words:IP", "sift:L2"], metavar="SET:METRIC")
    parser.add_argument("--save_path", type=Path, default=Path("index_time_out"), help="keeps what was trained")
    parser.add_argument("--nlist", type=int, help="buckets, of k-means as well (default: as ivfast fit chooses)")
    parser.add_argument("--copies", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    for one in options.sets:
        name, metric = one.split(":")
        case = read(options.data_path / name, metric)
        our = ours(case, options.save_path / name, options.nlist, options.copies, options.seed)
        nlist = len(np.load(options.save_path / name / "ivfast.npy"))
        ways = [our, kmeans(case, nlist, options.seed), hnsw(case), scann(case, nlist)]
        measure(case, [way for way in ways if way], name)


if __name__ == "__main__":
    main()
