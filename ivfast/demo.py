"""`make demo`: from one file of real patches to a searched index, then a documented run on generated faces."""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from ivfast.commands import main as run
from ivfast.data.synthetic import NAME, make_faces, save_set, say_by_identity
from ivfast.front.command_line import main as fit
from ivfast.index.load import load_index
from ivfast.route.routers import ROUTERS
from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.files import remove

SEED = 1
PATCHES = "photo_patches"
PATCH = 8  # pixels a side
N_PATCHES, N_QUERIES = 30_000, 1_000
FACES_FLAGS = (
    "--metric IP --nlist 256 --niter 25 --param_list 256 512 1024 256 --epochs 12 --warmup 1 --lr 2e-3"
    " --percents 0.0 0.8 --gpu -1"
)
PATCHES_FLAGS = "--nlist 256 --epochs 12 --param_list 64 256 512 256"


def make_patches() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Grey 8 x 8 patches of the two photographs that scikit-learn ships; gt is exact.

    returns: learn and base (30,000, 64), query (1,000, 64) float32, gt (1,000, 10) int64
    """
    from sklearn.datasets import load_sample_images  # only the demo needs scikit-learn

    rng = np.random.default_rng(SEED)
    grey = [image.astype(np.float32).mean(axis=2) for image in load_sample_images().images]
    views = [np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH)) for image in grey]
    patches = np.concatenate([view.reshape(-1, PATCH * PATCH) for view in views])
    drawn = patches[rng.choice(len(patches), 2 * N_PATCHES + N_QUERIES, replace=False)]
    learn, base, query = np.split(drawn, [N_PATCHES, 2 * N_PATCHES])
    gt = faiss.knn(query, base, 10)[1]
    return learn, base, query, gt


def share(evaluation: Path, router: str) -> float:
    """The least share of base scanned for 90 % recall, fixed probing, default rule."""
    results = json.loads(evaluation.read_text())["results"]
    shares = [
        r["scanned_at"]["0.90"]
        for r in results
        if r["router"] == router and r["rule"] == ROUTERS[router].default_rule and r["probing"] == "fixed"
    ]
    return min((s for s in shares if s is not None), default=float("nan"))


def summary(folder: Path, seconds: float) -> Table:
    """The story of both data sets in one table."""
    table = Table(title="Share of all vectors scanned to find 90 % of the right answers")
    table.add_column("data")
    for kind in ROUTERS.values():
        table.add_column(kind.title, justify="right")
    for name, title in ((PATCHES, "photo patches (real)"), (NAME, "made-up faces (synthetic)")):
        shares = [share(folder / name / "evaluation.json", router) for router in ROUTERS]
        table.add_row(title, *("not trained" if np.isnan(s) else f"{100 * s:.1f} %" for s in shares))
    table.caption = f"{seconds:.0f} s in all"
    return table


def show_search(folder: Path, query: np.ndarray, gt: np.ndarray, console: Console) -> None:
    """Search queries that nothing has seen, and compare with exact answers."""
    index = load_index(folder)
    (reached,) = index.evaluate(query, gt, recalls=(0.9,))
    console.print(
        f"\n{len(query):,} other patches searched with recall=0.9: {100 * reached.recall:.1f} % of the answers found, "
        f"{100 * reached.scanned:.2f} % of the patches compared",
        markup=False,
    )


def main(argv: list[str] | None = None) -> int:
    """Generate, train, evaluate, compare. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ivfast.demo", description=__doc__)
    parser.add_argument("--save_path", type=Path, default=Path("demo_out"), help="folder for data and results")
    parser.add_argument("--backend", choices=("jax", "torch"), default="jax")
    options = parser.parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    data = options.save_path / "data"
    for name in (PATCHES, NAME):  # the demo's own: a used save_path would be refused
        for checkpoint in checkpoints_in(options.save_path / name):
            remove(checkpoint)
    console.print(f"Cutting {N_PATCHES:,} patches of two photographs into {data / 'base.npy'}", markup=False)
    _, base, query, gt = make_patches()
    data.mkdir(parents=True, exist_ok=True)
    np.save(data / "base.npy", base)
    argv = [
        "fit", str(data / "base.npy"), "--save_path", str(options.save_path / PATCHES), "--backend", options.backend,
        *PATCHES_FLAGS.split(),
    ]  # fmt: skip
    console.print(f"\nivfast {shlex.join(argv)}", markup=False)
    if code := fit(argv):
        return code
    show_search(options.save_path / PATCHES, query, gt, console)
    console.print(f"\nGenerating {NAME} (synthetic) into {data}", markup=False)
    save_set(data, NAME, *make_faces(SEED))
    say_by_identity(data / NAME / "gt.npy")
    argv = [
        "--backend", options.backend, "--save_path", str(options.save_path / NAME), "--data_path", str(data),
        "--data_name", NAME, "--learn_name", f"learn_{NAME}", *FACES_FLAGS.split(),
    ]  # fmt: skip
    console.print(f"\nrun_dcnet.py {shlex.join(argv)}", markup=False)
    if code := run(argv):
        return code
    console.print()
    console.print(summary(options.save_path, time.monotonic() - started))
    console.print(
        f"The index: {options.save_path / PATCHES / 'index.faiss'}; "
        f"open {options.save_path}/*/report.html in a browser for the pictures",
        markup=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
