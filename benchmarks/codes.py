"""What compressed vectors cost each kind of centers: error of codes, best recall, microseconds at equal recall.

    python -m benchmarks.codes --data_path DIR --sets text:IP words:IP sift:L2 --save_path OUT

Of each set DIR/SET/{base,query,gt}.npy are read. OUT/SET keeps what `ivfast.fit` trained on base, or holds a finished
run of it. Codes are fitted to the same rows for all centers. *from*: where the differences start that codes hold: the
center, as FAISS does; the mean of the bucket, as `ivfast index` does; or zero, FAISS' by_residual False.

One table a kind of codes. *error*: mean squared distance of a sample of the stored entries to what their codes say,
over the mean squared norm of base. *best*: recall@10 by a search of a third of all buckets. Microseconds, of one
thread, are the least of passes in which all indexes take turns; between settings they are interpolated, as is what is
scanned, in percent of base. *refined*: the hundred best by codes are ranked anew by the vectors, which takes these too.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

import ivfast
from benchmarks.index_time import Case, read, recall_of
from benchmarks.runs import print_table
from ivfast.index.codes import bucket_means, stand_on
from ivfast.index.entries import entries_of
from ivfast.index.fill import add_entries, finish, sizes_of
from ivfast.index.growth import Index

K, REFINED_FROM = 10, 100
LEVELS = (0.80, 0.90)
PASSES = 3  # of which the fastest counts
N_TIMED = 150  # queries
NPROBES = (1, 2, 4, 8, 16, 32, 64)
ENOUGH = 0.91  # recall refined, beyond which no more settings are measured
FITTED_ON, FIT_ROUNDS = 10_000, 10  # rows of base, and rounds of k-means, for codes of all centers
N_CODED = 5000  # entries whose error is measured
STARTS = ("center", "mean", "zero")

Search = Callable[[np.ndarray, int], np.ndarray]  # queries, k -> ids


class Layout(NamedTuple):
    """Centers, and which vectors lie in which bucket."""

    name: str
    centers: np.ndarray  # (nlist, dim) float32
    rows: np.ndarray  # (entries,) of base
    buckets: np.ndarray  # (entries,)
    ours: Index | None = None  # what searches it; None: plain FAISS


class Way(NamedTuple):
    """An index to measure."""

    layout: Layout
    kind: str
    start: str
    index: Any
    error: float


class Point(NamedTuple):
    """What one setting finds and takes."""

    scanned: float
    recall: float
    microseconds: float
    refined: float
    refined_microseconds: float


def kinds_of(dim: int) -> tuple[str, ...]:
    """Codes for vectors of a dim: a byte for about eight entries, as 4-bit codes, a bit an entry, a byte an entry."""
    m = max(m for m in range(1, dim // 8 + 1) if dim % m == 0 and dim % (2 * m) == 0)
    return f"PQ{m}", f"PQ{2 * m}x4fs", "RaBitQ", "SQ8"


def empty_codes(centers: np.ndarray, metric: str, kind: str, start: str, rows: np.ndarray) -> Any:
    """A FAISS index with its codes fitted, nothing stored. start: center, mean or zero"""
    (nlist, dim), measure = centers.shape, faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    index: Any = faiss.index_factory(dim, f"IVF{nlist},{kind.removesuffix('fs')}", measure)
    faiss.downcast_index(index.quantizer).add(centers)
    if start == "mean":
        stand_on(index, bucket_means(rows, index.quantizer.search(rows, 1)[1][:, 0], centers))
    if hasattr(index, "pq"):
        index.pq.cp.seed, index.pq.cp.niter = 1, FIT_ROUNDS
    index.by_residual = start != "zero"
    index.train(rows)
    return index


def error_of(index: Any, base: np.ndarray, rows: np.ndarray, buckets: np.ndarray) -> float:
    """Mean squared distance of entries to what their codes say, over the mean squared norm of base."""
    some = np.random.default_rng(2).permutation(len(rows))[:N_CODED]  # not the rows that codes are fitted to
    x, lists = np.ascontiguousarray(base[rows[some]]), np.ascontiguousarray(buckets[some], dtype=np.int64)
    codes, said = np.empty((len(x), index.code_size), np.uint8), np.empty_like(x)
    index.encode_vectors(len(x), *map(faiss.swig_ptr, (x, lists, codes)), False)  # noqa: FBT003
    index.decode_vectors(len(x), *map(faiss.swig_ptr, (codes, lists, said)))
    whole = np.square(base, dtype=np.float64).sum(axis=1).mean()
    return float(np.square(said - x, dtype=np.float64).sum(axis=1).mean() / whole)


def ranked_anew(ids: np.ndarray, vectors: Any, query: np.ndarray, k: int) -> np.ndarray:
    """The k best of some ids by the vectors themselves. ids: (q, more), -1: none; vectors: an IndexFlat of base"""
    ids, scores = np.ascontiguousarray(ids), np.empty(ids.shape, np.float32)
    pointers = (faiss.swig_ptr(one) for one in (scores, ids))
    vectors.compute_distance_subset(len(query), faiss.swig_ptr(query), ids.shape[1], *pointers)
    sign = -1 if vectors.metric_type == faiss.METRIC_INNER_PRODUCT else 1
    worth = np.where(ids >= 0, sign * scores, np.inf)
    return np.take_along_axis(ids, np.argpartition(worth, k - 1, axis=1)[:, :k], axis=1)


def layouts_of(case: Case, folder: Path, copies: float) -> list[Layout]:
    """k-means and the trained centers, each vector once, and ours with copies."""
    if not (folder / "index.faiss").is_file():
        model = ivfast.fit(case.base, metric=case.metric, copies=copies, save_path=folder, seed=1)
        model.index(case.base, copies).save(folder)
    ours = ivfast.load_index(folder)
    found = []
    measure = faiss.METRIC_INNER_PRODUCT if case.metric == "IP" else faiss.METRIC_L2
    for name, file in (("k-means", "kmeans.npy"), ("trained", "ivfast.npy")):
        centers = np.ascontiguousarray(np.load(folder / file), dtype=np.float32)
        nearest = faiss.knn(case.base, centers, 1, metric=measure)[1][:, 0]
        found.append(Layout(name, centers, np.arange(len(nearest)), nearest))
    return [*found, Layout(f"ours, {copies:g} copies", found[1].centers, *entries_of(ours.faiss_index), ours)]


def ways_of(case: Case, layouts: list[Layout], kind: str, *, searched: bool = True) -> list[Way]:
    """Every layout with every start that FAISS lets one choose. searched: False leaves the lists empty"""
    chosen = np.random.default_rng(1).permutation(len(case.base))[:FITTED_ON]
    rows, fitted, ways = np.ascontiguousarray(case.base[chosen]), {}, []
    for start in STARTS:
        if start == "zero" and kind in ("RaBitQ", "SQ8"):
            continue
        for layout in layouts:
            key = layout.centers.tobytes()
            if (key, start) not in fitted:
                fitted[key, start] = empty_codes(layout.centers, case.metric, kind, start, rows)
            index: Any = faiss.deserialize_index(faiss.serialize_index(fitted[key, start]))
            error = error_of(index, case.base, layout.rows, layout.buckets)
            if searched:
                add_entries(index, case.base[layout.rows], layout.rows, layout.buckets)
            ways.append(Way(layout, kind, start, finish(index, kind), error))
    return ways


def set_to(way: Way, nprobe: int) -> Search:
    """A search of so many buckets; of ours so many on average, by the share that they hold."""
    if way.layout.ours is None:

        def plain(query: np.ndarray, k: int) -> np.ndarray:
            way.index.nprobe = nprobe
            return way.index.search(query, k)[1]

        return plain
    index, share = with_codes(way.layout.ours, way.index, way.kind), share_of(way.layout.ours, nprobe)
    return lambda query, k: index.search(query, k, scanned=share)[0]


def with_codes(flat: Index, coded: Any, kind: str) -> Index:
    """An index with the same entries as codes, told by the share that it scans."""
    built = flat.n_built, flat.imbalance_built
    beside = flat.calibration, flat.probes_use, flat.reach, flat.copies
    return Index(flat.model, coded, *beside, kind, flat.n, flat.next_id, built)


def share_of(index: Index, nprobe: int) -> float:
    """Entries over vectors that a search of so many buckets on average scans."""
    return float(np.interp(nprobe, index.calibration.probed, index.calibration.scanned))


def scanned_by(way: Way, query: np.ndarray, nprobe: int) -> float:
    """Entries over vectors that these queries are compared with."""
    if (ours := way.layout.ours) is None:
        entries = sizes_of(way.index)[way.index.quantizer.search(query, nprobe)[1]].sum(axis=1)
        return float(entries.mean() / (way.layout.rows.max() + 1))
    threshold = ours.threshold(K, None, share_of(ours, nprobe), None)
    ranked = ours.candidates(query, threshold)
    return float(ours.shares[ranked.buckets[ranked.gains > threshold]].sum() / len(query))


def curves(case: Case, ways: list[Way], vectors: Any) -> list[list[Point]]:
    """What each index finds and takes at each setting; all take turns. vectors: an IndexFlat of base"""
    found: list[list[Point]] = [[] for _ in ways]
    few = np.ascontiguousarray(case.query[:N_TIMED])
    for nprobe in NPROBES:
        going = [i for i, curve in enumerate(found) if not curve or curve[-1].refined < ENOUGH]
        searches = {i: set_to(ways[i], nprobe) for i in going}
        times = dict.fromkeys(going, (np.inf, np.inf))
        for _ in range(PASSES):
            for i, search in searches.items():
                plain, anew = timed(search, few, vectors)
                times[i] = min(times[i][0], plain), min(times[i][1], anew)
        for i, search in searches.items():
            both = recalls_of(case, search, vectors)
            plain, anew = (1e6 * took / len(few) for took in times[i])
            found[i].append(Point(scanned_by(ways[i], case.query, nprobe), both[0], plain, both[1], anew))
    return found


def timed(search: Search, query: np.ndarray, vectors: Any) -> tuple[float, float]:
    """Seconds of this thread for a search by codes alone, and for one that is refined."""
    started = time.thread_time()
    search(query, K)
    between = time.thread_time()
    ranked_anew(search(query, REFINED_FROM), vectors, query, K)
    return between - started, time.thread_time() - between


def recalls_of(case: Case, search: Search, vectors: Any) -> tuple[float, float]:
    """Recall@10 by codes alone, and refined."""
    ids = search(case.query, REFINED_FROM)
    return recall_of(ids[:, :K], case.gt), recall_of(ranked_anew(ids, vectors, case.query, K), case.gt)


def at_recall(curve: list[Point], level: float, *, refined: bool) -> str:
    """Microseconds and percent scanned where a curve reaches a recall, between the two settings around it."""
    recall, took = (3, 4) if refined else (1, 2)
    reached = next((i for i, point in enumerate(curve) if point[recall] >= level), None)
    if reached is None:
        return "-"
    ends = curve[max(0, reached - 1) : reached + 1]
    recalls = [point[recall] for point in ends]
    time_taken, scanned = (float(np.interp(level, recalls, [point[i] for point in ends])) for i in (took, 0))
    return f"{'at most ' if reached == 0 else ''}{time_taken:.0f} ({100 * scanned:.2f})"


def at_time(curve: list[Point], microseconds: float) -> str:
    """The refined recall that a curve has reached by then; - where even its first setting takes longer."""
    times = np.maximum.accumulate([point.refined_microseconds for point in curve])
    best = np.maximum.accumulate([point.refined for point in curve])
    return "-" if times[0] > microseconds else f"{np.interp(microseconds, times, best):.3f}"


def measure(case: Case, layouts: list[Layout], name: str, kinds: list[str], budget: float) -> None:
    """Print the tables of a set."""
    wide = max(1, len(layouts[0].centers) // 3)
    vectors = (faiss.IndexFlatIP if case.metric == "IP" else faiss.IndexFlatL2)(case.base.shape[1])
    vectors.add(case.base)
    levels = [f"{level:.2f}{more}" for more in ("", ", refined") for level in LEVELS]
    head = ["centers", "from", "error", "best", "best, refined", *levels, f"refined in {budget:g} microseconds"]
    for kind in kinds:
        ways, lines = ways_of(case, layouts, kind), []
        for way, curve in zip(ways, curves(case, ways, vectors), strict=True):
            best = (f"{one:.3f}" for one in recalls_of(case, set_to(way, wide), vectors))
            shown = [at_recall(curve, level, refined=refined) for refined in (False, True) for level in LEVELS]
            lines.append([way.layout.name, way.start, f"{way.error:.4f}", *best, *shown, at_time(curve, budget)])
        print(f"\n{name}, {kind}, {ways[0].index.code_size} bytes: microseconds (% scanned) at a recall\n")
        print_table(head, lines)
        sys.stdout.flush()


def measure_errors(case: Case, layouts: list[Layout], name: str, kinds: list[str]) -> None:
    """Print what codes lose."""
    lines = []
    for kind in kinds:
        lost = {(way.layout.name, way.start): way.error for way in ways_of(case, layouts, kind, searched=False)}
        for layout in layouts:
            shown = (lost.get((layout.name, start)) for start in STARTS)
            lines.append([kind, layout.name, *("-" if one is None else f"{one:.4f}" for one in shown)])
    print(f"\n{name}: {len(case.base):,} x {case.base.shape[1]}, {case.metric}, {len(layouts[0].centers)} buckets\n")
    print_table(["codes", "centers", *(f"from {start}" for start in STARTS)], lines)
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> None:
    """Print the tables of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["text:IP", "words:IP", "sift:L2"], metavar="SET:METRIC")
    parser.add_argument(
        "--save_path", type=Path, default=Path("codes_out"), help="SAVE_PATH/SET keeps what was trained"
    )
    parser.add_argument("--copies", type=float, default=0.8)
    parser.add_argument("--n_query", type=int, default=500, help="queries, the first ones")
    parser.add_argument("--budget", type=float, default=100, help="microseconds a query")
    parser.add_argument("--kinds", nargs="+", help="as ivfast index --kind has them (default: four by the dim)")
    parser.add_argument("--errors_only", action="store_true", help="no search, which takes most of the time")
    options = parser.parse_args(argv)
    for one in options.sets:
        name, metric = one.split(":")
        case = read(options.data_path / name, metric)
        few = slice(0, options.n_query)
        case = case._replace(query=np.ascontiguousarray(case.query[few]), gt=case.gt[few])
        layouts = layouts_of(case, options.save_path / name, options.copies)
        faiss.omp_set_num_threads(1)
        kinds = options.kinds or list(kinds_of(case.base.shape[1]))
        measure_errors(case, layouts, name, kinds)
        if not options.errors_only:
            measure(case, layouts, name, kinds, options.budget)


if __name__ == "__main__":
    main()
