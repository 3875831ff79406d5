"""Are memberships the chances that they claim to be? One plot of every router on held-out learn vectors.

    python -m benchmarks.reliability --data_path DIR --sets text:IP words:IP sift:L2 --plot reliability.png

The main job, trained in-sample. In each of 15 bins: mean of softmax(z / T) beside the share of right
answers that lie there; T is fitted on the same held-out vectors (one number for thousands of them).
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.peers import dcnet
from benchmarks.peers.task import SETTINGS, check_sets, open_task, write_set
from benchmarks.runs import HIDDEN, print_table
from ivfast.choose.facts import held_out_answers
from ivfast.choose.prediction import Reliability, calibration_error, reliability
from ivfast.route.routers import centers_router
from ivfast.store.dcnet_file import model_router

matplotlib.use("Agg")
NLIST = 256


def of_set(folder: Path, name: str, metric: str, setting: str, out: Path) -> dict[str, Reliability]:
    """Train on one set; by router."""
    task = open_task(folder, name, metric, setting, NLIST, seed=1)
    dcnet.train(task, (task.base.dim, *map(int, HIDDEN[metric]), NLIST), out)
    model = dcnet.read(out)
    routers = {"net": model_router(model, model.facts["net"].k, dcnet.BACKEND, -1)}
    for router, file in (("kmeans", "kmeans.npy"), ("centers", "ivfast.npy")):
        centers = model.space.inside(np.load(out / file))
        routers[router] = centers_router(router, centers, metric, model.delta_floor, model.facts[router].k)
    return {
        router: reliability(*held_out_answers(task.held, routers[router]), model.facts[router].probing_t)
        for router in ("kmeans", "centers", "net")
    }


def draw(path: Path, found: dict[str, dict[str, Reliability]]) -> None:
    """One panel a set."""
    figure = Figure(figsize=(4 * len(found), 4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    for axes, (name, routers) in zip(panels, found.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for router, bins in routers.items():
            filled = bins.weight > 0
            axes.plot(bins.claimed[filled], bins.true[filled], marker="o", label=router)
        axes.set_title(name)
        axes.set_xlabel("membership at T")
        axes.legend()
    panels[0].set_ylabel("share of right answers in the bucket")
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    """Print one table, draw one plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, help="folder of the sets; made sets need none")
    parser.add_argument("--sets", nargs="+", default=["faces:IP", "patches:L2"], metavar="NAME:METRIC")
    parser.add_argument("--setting", choices=SETTINGS, default="in-sample")
    parser.add_argument("--plot", type=Path, default=Path("reliability.png"))
    options = parser.parse_args(argv)
    check_sets(parser, (entry.split(":")[0] for entry in options.sets), options.data_path)
    found = {}
    for entry in options.sets:
        name, metric = entry.split(":")
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_set(Path(scratch), name, metric, options.data_path, None)
            found[name] = of_set(folder, name, metric, options.setting, Path(scratch) / "out")
    rows = [
        [name, *(f"{100 * calibration_error(bins):.1f} %" for bins in routers.values())]
        for name, routers in found.items()
    ]
    print_table(["set", "kmeans", "centers", "net"], rows)
    draw(options.plot, found)


if __name__ == "__main__":
    main()
