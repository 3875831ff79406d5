"""Is ivfast.npy ever worse than k-means, or much worse than its best epoch, on queries that training never saw?

    python -m benchmarks.never_worse --data_path DIR --sets text:IP words:IP sift:L2 --seeds 1 2 3
    python -m benchmarks.never_worse --sets faces:IP patches:L2 zipf:L2 isotropic:L2 curved:L2 --settings in-sample

The main job without a deep path, and each setting of GRID on its own. Figures are shares of base scanned for
90 % recall over those of FAISS k-means at its better percent, means over seeds: of the exported centers under
nearest assignment, and under benefit at percents 0 / 0.8 / 1.5; of k-means' own centers likewise. `lost` is
the mean of these four less that of the best epoch in hindsight, k-means counted.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.task import SETTINGS, check_sets, write_set
from benchmarks.runs import PERCENTS, print_table
from ivfast.choose.facts import fit_facts
from ivfast.data.vectors import Points
from ivfast.evaluate.result import Result
from ivfast.evaluate.results import RouterSetting, evaluate_router
from ivfast.route.routers import ROUTERS, Router, centers_router
from ivfast.runtime.checkpoint import checkpoint_folder
from ivfast.runtime.config import Config
from ivfast.runtime.progress import silent
from ivfast.start.descent import Means
from ivfast.store.dcnet_file import load_model
from ivfast.store.reverse import ReverseNeighbors, reverse_of_base
from ivfast.train.epochs import start_point, train_epoch
from ivfast.train.finish import export
from ivfast.train.run import Run, router_of_centers, start_run

GRID: dict[str, dict[str, Any]] = {
    "main job": {},
    "lr 1e-4": {"lr": 1e-4},
    "lr 1e-2": {"lr": 1e-2},
    "batch 256": {"batch_size": 256},
    "batch 4096": {"batch_size": 4096},
    "nlist 64": {"nlist": 64},
    "nlist 1024": {"nlist": 1024},
    "39 learn a bucket": {"rows": 39 * 256},
}
EVERY = 4  # epochs between two that are looked at in hindsight
BLOCK = 65_536


class Found(NamedTuple):
    """One run; shares over k-means', nearest first, then benefit at each percent."""

    exported: np.ndarray  # (4,)
    kmeans: np.ndarray  # (4,), its own centers
    lost: float
    chosen: str


def evaluated(run: Run, setting: RouterSetting, reverse: ReverseNeighbors | None = None) -> list[Result]:
    """All results of a router on base. reverse: of base, for rules that ask"""
    space = run.learn.points.space
    return evaluate_router(setting, run.data, space, run.config.ftopk, (1,), BLOCK, silent(), reverse)


def shares(run: Run, router: Router, reverse: ReverseNeighbors) -> np.ndarray:
    """Scanned at 90 % recall under nearest, then under benefit with each of PERCENTS, (1 + len(PERCENTS),)"""
    kind = ROUTERS[router.name]
    kind = kind._replace(rules=("ratio", kind.default_rule))  # others are not looked at
    facts = fit_facts(run.held, router, 1.0, PERCENTS)  # k is the router's
    found = evaluated(run, RouterSetting(router, kind, PERCENTS, facts, None), reverse)
    wanted = [("ratio", 0.0), *((kind.default_rule, copies) for copies in PERCENTS)]
    by_plan = {(result.rule, result.percent): result.scanned_at["0.90"] for result in found}
    return np.array([by_plan[plan] for plan in wanted])


def kmeans_share(run: Run) -> float:
    """What k-means scans at 90 % recall with its better number of copies."""
    router = router_of_centers(run, run.kmeans, 1.0)
    found = evaluated(run, RouterSetting(router, ROUTERS["kmeans"], PERCENTS, None, None))
    return min(result.scanned_at["0.90"] for result in found)


def one_run(config: Config) -> Found:
    """Train, and look at every fourth epoch as well as at what is exported."""
    shutil.rmtree(checkpoint_folder(config.save_path), ignore_errors=True)
    run = start_run(config, silent())
    point = start_point(run)
    base, space = kmeans_share(run), run.learn.points.space
    reverse = reverse_of_base(
        Means(config.save_path / "cache"), Points(run.data.base, space), run.held.asking, silent()
    )
    kmeans = shares(run, router_of_centers(run, run.kmeans, point.goal.k), reverse) / base
    means = [kmeans.mean()]
    while point.epoch < config.epochs:
        point = train_epoch(run, point)
        if point.epoch % EVERY == 0:
            centers = run.backend.centers(point.state.params)
            means.append((shares(run, router_of_centers(run, centers, point.goal.k), reverse) / base).mean())
    export(run, point)
    path = config.save_path / "ivfast.npy"
    model = load_model(config.save_path / "dcnet.safetensors", path)
    if model is None:
        raise SystemExit(f"{config.save_path} holds no finished run")
    centers, k = space.inside(np.load(path)), model.facts["centers"].k
    exported = shares(run, centers_router("centers", centers, config.metric, model.delta_floor, k), reverse) / base
    epoch, way = model.about["chosen_epochs"]["centers"], model.about["chosen_ways"]["centers"]
    chosen = "k-means" if epoch == 0 else f"{epoch}" if way == 1 else f"{epoch} at {way:g}"
    return Found(exported, kmeans, exported.mean() - min(means), chosen)


def learn_file(folder: Path, scratch: Path, name: str, setting: str, rows: int | None, seed: int) -> tuple[Path, str]:
    """data_path and learn_name of a case. rows: of learn, drawn; None: all"""
    learn_name = f"{name}/base" if setting == "in-sample" else f"learn_{name}"
    if rows is None:
        return folder, learn_name
    learn = np.load(folder / f"{learn_name}.npy")
    drawn = np.sort(np.random.default_rng(seed).choice(len(learn), min(rows, len(learn)), replace=False))
    small = scratch / f"{setting}_{rows}_{seed}"
    small.mkdir(exist_ok=True)
    if not (small / name).exists():
        (small / name).symlink_to((folder / name).resolve())
    np.save(small / "learn_small.npy", learn[drawn])
    return small, "learn_small"


def case(
    folder: Path, scratch: Path, name: str, metric: str, setting: str, seed: int, changed: dict[str, Any]
) -> Found:
    """One cell of the grid at one seed; k-means and neighbours of equal nlist and learn are reused."""
    nlist, rows = changed.get("nlist", 256), changed.get("rows")
    data, learn_name = learn_file(folder, scratch, name, setting, rows, seed)
    dim = np.load(data / f"{learn_name}.npy", mmap_mode="r").shape[1]
    config = Config(
        save_path=scratch / f"{name}_{setting}_{nlist}_{rows}_{seed}", data_path=data, data_name=name,
        percents=PERCENTS, learn_name=learn_name, metric=metric, nlist=nlist, param_list=(dim, nlist), niter=25,
        warmup=1, lr=changed.get("lr", 2e-3), batch_size=changed.get("batch_size", 2048), seed=seed, gpu=-1,
    )  # fmt: skip
    config.save_path.mkdir(exist_ok=True)
    return one_run(config)


def row(label: list[str], found: list[Found]) -> list[str]:
    """Means over seeds."""

    def in_words(values: np.ndarray) -> str:
        return f"{values[0]:.3f}; " + " / ".join(f"{value:.3f}" for value in values[1:])

    exported = np.mean([f.exported for f in found], axis=0)
    kmeans = np.mean([f.kmeans for f in found], axis=0)
    lost = float(np.mean([f.lost for f in found]))
    return [*label, in_words(exported), in_words(kmeans), f"{lost:.3f}", ", ".join(f.chosen for f in found)]


def main(argv: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, help="folder of the sets; made sets need none")
    parser.add_argument("--sets", nargs="+", default=["faces:IP", "patches:L2"], metavar="NAME:METRIC")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["transfer"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cases", nargs="+", choices=list(GRID), default=list(GRID))
    options = parser.parse_args(argv)
    check_sets(parser, (entry.split(":")[0] for entry in options.sets), options.data_path)
    head = ["set", "setting", "case", "exported: nearest; benefit", "k-means' own", "lost", "chosen"]
    rows = []
    for entry in options.sets:
        name, metric = entry.split(":")
        for setting in options.settings:
            with tempfile.TemporaryDirectory() as scratch:
                folder = write_set(Path(scratch), name, metric, options.data_path, None)
                for label in options.cases:
                    found = [
                        case(folder, Path(scratch), name, metric, setting, seed, GRID[label]) for seed in options.seeds
                    ]
                    rows.append(row([name, setting, label], found))
                    print(rows[-1], flush=True)
    print_table(head, rows)


if __name__ == "__main__":
    main()
