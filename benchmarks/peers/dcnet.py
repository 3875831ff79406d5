"""The trained centers (ivfast.npy) and the network, trained by the command line like anybody's.

Source: this repository; the main job of benchmarks.runs with a seed, under in-sample with base as learn.
Seconds end when dcnet.safetensors is written: k-means, neighbours, training and judging are counted.
"""

import time
from pathlib import Path

import numpy as np

from benchmarks.peers.copies import all_ways
from benchmarks.peers.kmeans import Trained
from benchmarks.peers.peer import Peer, way_of
from benchmarks.peers.task import FTOPK, Task
from benchmarks.runs import main_job_flags, run_dcnet
from ivfast.route.routers import centers_router
from ivfast.store.dcnet_file import Model, load_model, model_router
from ivfast.store.records import Facts

BACKEND = "jax"


def train(task: Task, param_list: tuple[int, ...], out: Path, extra: tuple[str, ...] = ()) -> float:
    """Run run_dcnet.py into `out`; returns seconds until the network is saved."""
    started = time.time()
    run_dcnet(
        "--save_path", str(out), *main_job_flags(task.folder, task.name, task.metric, task.learn_name),
        "--seed", str(task.seed), "--nlist", str(task.nlist),
        "--ftopk", str(FTOPK), "--param_list", *map(str, param_list), "--backend", BACKEND, *extra,
    )  # fmt: skip
    return (out / "dcnet.safetensors").stat().st_mtime - started


def read(out: Path) -> Model:
    """What a run left."""
    model = load_model(out / "dcnet.safetensors", out / "ivfast.npy")
    if model is None:
        raise SystemExit(f"{out} holds no finished run")
    return model


def storing_ts(facts: Facts) -> dict[float, float]:
    """T_s by number of copies, as trained."""
    return {storing.copies: storing.storing_t for storing in facts.storings if storing.storing_t is not None}


def make_centers(task: Task, out: Path, seconds: float, *, copies: bool) -> Peer:
    """ivfast.npy under nearest assignment with ratio, and under benefit; under every rule of copies if asked."""
    model = read(out)
    facts = model.facts["centers"]
    centers = model.space.inside(np.load(out / "ivfast.npy"))
    router = centers_router("centers", centers, task.metric, model.delta_floor, facts.k)
    trained, shares = Trained(centers, router, model.delta_floor, seconds), {}
    ways = {"ratio": way_of(task, router, "ratio")}
    if copies:
        ways, shares = all_ways(task, trained)
    ways["benefit"] = way_of(task, router, "benefit", storing_ts(facts))
    settings = {"k": facts.k, "T_s": storing_ts(facts)}
    if copies:
        settings["held-out shares by lambda"] = shares
    return Peer("centers", router, ways, seconds, centers.nbytes, settings, facts.probing_t)


def make_net(task: Task, out: Path, seconds: float) -> Peer:
    """The whole network under benefit."""
    model = read(out)
    facts = model.facts["net"]
    router = model_router(model, facts.k, BACKEND, -1)
    ways = {"benefit": way_of(task, router, "benefit", storing_ts(facts))}
    size = sum(weight.nbytes for weight in model.net.values())
    return Peer("net", router, ways, seconds, size, {"k": facts.k, "T_s": storing_ts(facts)}, facts.probing_t)
