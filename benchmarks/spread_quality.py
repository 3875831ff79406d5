"""What it costs that the vectors of many files are stored by who asks for them among a sample, not among all of base.

    python -m benchmarks.spread_quality --data_path DIR --sets text:IP words:IP

Centers are trained on DIR/learn_SET.npy, in as many buckets as `ivfast fit` takes for it. Then DIR/SET/base.npy is
stored under them: in one piece, by all neighbours within base (`ivfast index`), and as many files, by those that an
index of learn, of a part of it, or of a part of base holds. Beside them the nearest center, and k-means. Figures are
shares of base scanned at recall@10 of 0.90, copies counted, by adaptive probing, at the threshold that just reaches it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np

import ivfast
from benchmarks.runs import print_table
from ivfast.data.centers import open_centers
from ivfast.data.vectors import Points
from ivfast.index.calibration import Answers, calibrate
from ivfast.index.entries import entries_of
from ivfast.index.model import TrainedModel
from ivfast.index.probing import Prober
from ivfast.route.routers import centers_router
from ivfast.route.tiles import make_tiles
from ivfast.runtime.progress import silent
from ivfast.spread.maps import Here
from ivfast.spread.store import Wishes, store_files
from ivfast.store.dcnet_file import load_model
from ivfast.store.place import make_plans, place
from ivfast.store.rules.rule import Terms

LEVEL, K, COPIES, WIDTH = 0.9, 10, 0.8, 10
PARTS = (1, 3, 10, 30)  # of learn, of which one stands for those who ask


def buckets_in(index: faiss.IndexIVF, n: int) -> np.ndarray:
    """The lists that each of n vectors lies in, (n, most) int32, -1: no further one. ids are 0 to n - 1"""
    ids, buckets = entries_of(index)
    order = np.argsort(ids, kind="stable")
    ids, buckets = ids[order], buckets[order]
    nth = np.arange(len(ids)) - np.searchsorted(ids, ids)
    found = np.full((n, int(nth.max(initial=0)) + 1), -1, dtype=np.int32)
    found[ids, nth] = buckets
    return found


def scanned(prober: Prober, buckets: np.ndarray, query: np.ndarray, gt: np.ndarray) -> float:
    """The share of base that is scanned for the recall."""
    sizes = np.bincount(buckets[buckets >= 0], minlength=prober.nlist)
    measured = calibrate(prober, Answers(query, gt), buckets[gt], sizes, len(buckets))
    return measured.predicted(measured.at_recall(LEVEL, K), K)[1]


def by_nearest(centers: np.ndarray, prober: Prober, points: Points, copies: float) -> np.ndarray:
    """Where vectors go by the nearest center, with copies by how far others lie behind it."""
    router = centers_router("centers", prober.space.inside(centers), prober.space.metric, prober.delta_floor, prober.k)
    (plan,) = make_plans(["ratio"], [Terms(copies)])
    return place(make_tiles(router, points, width=WIDTH), [plan], min(WIDTH, len(centers)))[0].buckets


def ways(
    model: TrainedModel, base: np.ndarray, learn: np.ndarray, folder: Path
) -> Iterator[tuple[str, Prober, np.ndarray]]:
    """Name, what ranks buckets, and where base lies."""
    points, prober = model.points(base), model.prober()
    fitted = load_model(model.folder / "dcnet.safetensors", model.folder / "ivfast.npy")
    assert fitted is not None  # noqa: S101
    facts, centers = fitted.facts["kmeans"], open_centers(model.folder / "kmeans.npy")
    kmeans = Prober(centers, prober.space, prober.delta_floor, facts.k, facts.probing_t)
    for copies in (0.0, COPIES):
        yield f"k-means, {copies:g} copies by ratio", kmeans, by_nearest(centers, kmeans, points, copies)
    for copies in (0.0, COPIES):
        yield f"nearest center, {copies:g} copies by ratio", prober, by_nearest(model.centers, prober, points, copies)
    whole = model.index(base, COPIES).faiss_index
    yield f"benefit, {COPIES:g} copies, asked by all of base", prober, buckets_in(whole, len(base))
    np.save(folder / "base.npy", base)
    askers = {f"1/{part} of learn" if part > 1 else "learn": learn[::part] for part in PARTS}
    for name, rows in (askers | {"1/10 of base": base[::10]}).items():
        model.index(rows, COPIES).save(folder / "fit")
        store_files(folder / "fit", folder / "out", Wishes([str(folder / "base.npy")], COPIES), Here(), silent())
        found = ivfast.load_index(folder / "out").faiss_index
        yield f"benefit, {COPIES:g} copies, asked by {name} ({len(rows):,})", prober, buckets_in(found, len(base))


def main(argv: list[str] | None = None) -> None:
    """A table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of learn_SET.npy and SET/")
    parser.add_argument("--sets", nargs="+", required=True, metavar="SET:METRIC", help="such as text:IP")
    parser.add_argument("--nlist", type=int, help="buckets (default: as ivfast fit takes)")
    parser.add_argument("--epochs", help="of training (default: as ivfast fit takes)")
    options = parser.parse_args(argv)
    more: dict[str, Any] = {} if options.epochs is None else {"epochs": int(options.epochs)}
    for name, metric in (word.split(":") for word in options.sets):
        learn = np.load(options.data_path / f"learn_{name}.npy").astype(np.float32)
        data = options.data_path / name
        base, query = (np.load(data / f"{part}.npy").astype(np.float32) for part in ("base", "query"))
        gt = np.load(data / "gt.npy")[:, :K].astype(np.int64)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = ivfast.fit(learn, options.nlist, metric=metric, copies=COPIES, save_path=folder / "run", **more)
            asked, rows = model.as_stored(query, "query"), []
            for way, prober, buckets in ways(model, base, learn, folder):
                rows.append([way, 100 * scanned(prober, buckets, asked, gt)])
        best = rows[0][1]
        print(f"\n{name}: {len(base):,} vectors, {model.nlist} buckets")
        print_table(["stored by", "scanned, %", "over k-means"], [[w, f"{s:.3f}", f"{s / best:.3f}"] for w, s in rows])


if __name__ == "__main__":
    main()
