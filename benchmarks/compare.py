"""Every method on the same data, the same nlist, by the same evaluator: what is scanned for which recall.

    python -m benchmarks.compare --data_path DIR --set text --metric IP --setting transfer --seeds 1 2 3 --out FILE
    python -m benchmarks.compare --set faces --setting in-sample --seeds 1 2 3 --out FILE

DIR/learn_NAME.npy and DIR/NAME/{base,query,gt}.npy are a set; faces, faces_noisy, zipf, isotropic, curved
(generated) and patches (of scikit-learn's photographs) need no files. transfer: methods train on learn;
in-sample: on base itself. FILE is JSON, a list of records, to which a run appends; printed is one markdown
table of means and, behind +-, half the range over seeds. Shares are of the vectors of base, copies counted.
Nothing is tuned on the queries of the evaluation: what isn't a paper's own is chosen on held-out learn pairs
and printed below the table.
benchmarks/peers holds the methods, each with its source; ScaNN, Neural LSH and graph_parts need
`pip install '.[bench]'`.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers import (
    balanced,
    copies,
    dcnet,
    graph_parts,
    keynet,
    kmeans,
    linear_router,
    neural_lsh,
    scann_tree,
    usp,
)
from benchmarks.peers.evaluator import evaluate
from benchmarks.peers.peer import Peer
from benchmarks.peers.task import MADE, SETTINGS, Task, check_sets, open_task, write_set
from benchmarks.runs import HIDDEN, print_table
from benchmarks.tables import HEAD, table
from ivfast.runtime.files import save_json

METHODS = (
    "kmeans25", "kmeans128", "rairs_own", "balanced", "scann", "scann_soar", "scann_avq", "scann_avq_soar",
    "linear_router", "keynet", "usp", "neural_lsh", "graph_parts", "centers", "net",
)  # fmt: skip
SCANN = tuple(name for name in METHODS if name.startswith("scann"))
NEEDS = dict.fromkeys(SCANN, "scann") | dict.fromkeys(("neural_lsh", "graph_parts"), "pymetis")  # of the extra `bench`
PACKAGES = ("faiss-cpu", "numpy", "torch", "jax", "scann", "pymetis")
Options = argparse.Namespace


def peers(task: Task, options: Options, scratch: Path) -> Iterator[Peer]:
    """Train the methods asked for, one after the other."""
    wanted = [name for name in METHODS if name in options.methods]
    param_list = (task.base.dim, *options.hidden, task.nlist)
    start = kmeans.train(task, 25)
    seconds = None
    for name in wanted:
        if why := unfit(name, task, options):
            note(f"{name}: left out, {why}")
            continue
        if name in ("centers", "net") and seconds is None:
            seconds = dcnet.train(task, param_list, scratch / "dcnet", tuple(options.extra))
        yield make(name, task, options, start, param_list, scratch / "dcnet", seconds or 0.0)


def unfit(name: str, task: Task, options: Options) -> str:
    """Why a method cannot be compared on a task; empty where it can."""
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        return f"{NEEDS[name]} is not installed"
    if name == "net" and not options.hidden:
        return "--param_list has no hidden layer"
    if name in SCANN and not task.in_sample:
        return "ScaNN trains on what it indexes: --setting in-sample"
    if name in SCANN[1:] and task.metric != "IP":
        return "ScaNN has SOAR and AVQ for inner products alone"
    if name == "rairs_own" and task.metric != "L2":
        return "RAIRS' own rule is for L2; --copies has its loss under IP, cut to a budget"
    return ""


def make(
    name: str, task: Task, options: Options, start: kmeans.Trained, param_list: tuple[int, ...], out: Path,
    seconds: float,
) -> Peer:  # fmt: skip
    """One trained method."""
    epochs = {} if options.peer_epochs is None else {"epochs": options.peer_epochs}

    def kmeans25() -> Peer:
        if not options.copies:
            return kmeans.make(task, 25, start)
        ways, shares = copies.all_ways(task, start)
        peer = kmeans.make(task, 25, start, ways)
        return peer._replace(settings=peer.settings | {"held-out shares by lambda": shares})

    makers: dict[str, Callable[[], Peer]] = {
        "kmeans25": kmeans25,
        "kmeans128": lambda: kmeans.make(task, 128, kmeans.train(task, 128)),
        "rairs_own": lambda: copies.make_rairs_own(task, start),
        "balanced": lambda: balanced.make(task, start),
        "scann": lambda: scann_tree.make(task, soar=False),
        "scann_soar": lambda: scann_tree.make(task, soar=True),
        "scann_avq": lambda: scann_tree.make_avq(task, soar=False),
        "scann_avq_soar": lambda: scann_tree.make_avq(task, soar=True),
        "linear_router": lambda: linear_router.make(task, start),
        "keynet": lambda: keynet.make(task, start, param_list[1:-1], **epochs),
        "usp": lambda: usp.make(task, param_list, **epochs),
        "neural_lsh": lambda: neural_lsh.make(task, param_list, **epochs),
        "graph_parts": lambda: graph_parts.make(task),
        "centers": lambda: dcnet.make_centers(task, out, seconds, copies=options.copies),
        "net": lambda: dcnet.make_net(task, out, seconds),
    }
    return makers[name]()


def run_seed(options: Options, folder: Path, seed: int) -> list[dict[str, Any]]:
    """All methods at one seed."""
    task = open_task(folder, options.set, options.metric, options.setting, options.nlist, seed)
    about = {
        "set": options.set, "setting": options.setting, "metric": options.metric, "nlist": options.nlist, "seed": seed,
        "rows": len(task.base), "date": time.strftime("%Y-%m-%d"), "versions": versions(),
    }  # fmt: skip
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for peer in peers(task, options, Path(scratch)):
            found = evaluate(task, peer)
            records += [about | record | {"settings": peer.settings} for record in found]
            best = min(record["scanned_at"]["0.90"] for record in found)
            note(f"seed {seed}, {peer.name}: {100 * best:.2f} % at best, {peer.seconds:.0f} s; {short(peer.settings)}")
            append(options.out, records[-len(found) :])
    return records


def versions() -> dict[str, str]:
    """Of what a figure may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def append(out: Path | None, records: list[dict[str, Any]]) -> None:
    """Add records to a JSON list, NaN as null."""
    if out is None:
        return
    old = json.loads(out.read_text()) if out.is_file() else []
    save_json(out, old + json.loads(json.dumps(records), parse_constant=lambda _: None))


def short(value: Any) -> str:
    """Settings for people: four digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(entry)}" for key, entry in value.items()).join("()")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def note(text: str) -> None:
    """For whoever waits."""
    print(text, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> Options:
    """Flags; --metric and --hidden take the set's own where left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, help="folder of the set; made sets need none")
    parser.add_argument("--set", required=True, help=f"name of the set, or one of {', '.join(MADE)}")
    parser.add_argument("--metric", choices=["IP", "L2"])
    parser.add_argument("--setting", choices=SETTINGS, default="transfer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--nlist", type=int, default=256)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--copies", action="store_true", help="every rule of copies on kmeans25 and on centers")
    parser.add_argument(
        "--param_list",
        type=int,
        nargs="+",
        help="dim, hidden layers and nlist of all networks; the first and the last are the set's and --nlist",
    )
    parser.add_argument("--rows", type=int, help="of learn and base at most, for trials")
    parser.add_argument("--peer_epochs", type=int, help="of usp, neural_lsh and keynet; default: their papers'")
    parser.add_argument("--out", type=Path, help="JSON file to append to")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further flags of run_dcnet.py, last")
    options = parser.parse_args(argv)
    options.metric = options.metric or MADE.get(options.set, "IP")
    options.hidden = options.param_list[1:-1] if options.param_list else [int(size) for size in HIDDEN[options.metric]]
    check_sets(parser, [options.set], options.data_path)
    return options


def main(argv: list[str] | None = None) -> None:
    """Print one table, then what was chosen."""
    options = parse(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_set(Path(scratch), options.set, options.metric, options.data_path, options.rows)
        records = [record for seed in options.seeds for record in run_seed(options, folder, seed)]
    print_table(HEAD, table(records))
    print()
    for method in dict.fromkeys(record["method"] for record in records):
        chosen = {r["seed"]: r["settings"] for r in records if r["method"] == method}
        print(f"{method}: " + "; ".join(f"seed {seed} {short(settings)}" for seed, settings in chosen.items()))


if __name__ == "__main__":
    main()
