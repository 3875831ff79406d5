"""Whole runs by either backend on one small generated data set, and all that they leave."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import faiss
import numpy as np
import pytest
from rich.console import Console

from ivfast import commands
from ivfast.evaluate import results as evaluation
from ivfast.network import backend as backends
from ivfast.network.backend import Backend, Setup
from ivfast.route.search import Lists
from ivfast.runtime.config import Config
from ivfast.runtime.progress import Progress
from ivfast.store import dcnet_file
from ivfast.train import run as running
from parity_tests.cases import Case
from parity_tests.reference import move_centers
from parity_tests.twins import Arrays

DIM, NLIST, HIDDEN = 32, 32, (24, 20)
N_LEARN, N_BASE, N_QUERY, FTOPK = 2000, 1500, 500, 6
BATCH, EPOCHS, LR = 96, 5, 2e-3  # 1,600 vectors train: 17 steps an epoch, the last of 64; 85 in all
IDENTITIES, NOISE = 200, 0.6  # where training gains over k-means, so that trained centers are compared


class Outcome(NamedTuple):
    """What one run came to."""

    setup: Setup
    states: list[Arrays]  # after each epoch, as Backend.state_dict
    k: np.ndarray  # (epochs,)
    chosen: dict[str, int]
    ways: dict[str, float]
    lists: list[Lists]  # of base, by router and plan
    results: list[dict[str, Any]]  # of evaluation.json
    ivfast: np.ndarray  # (nlist, dim)

    def centers(self) -> Arrays:
        """After each epoch in float64, and those that were exported."""
        moved = {
            f"epoch {epoch}": move_centers(state["params/u"].astype(np.float64), self.setup)
            for epoch, state in enumerate(self.states, 1)
        }
        return moved | {"ivfast.npy": self.ivfast}

    def stored(self) -> Arrays:
        """Buckets of every base vector, and entries of every bucket."""
        named: Arrays = {}
        for i, lists in enumerate(self.lists):
            named |= {f"buckets {i}": lists.buckets, f"sizes {i}": lists.sizes}
        return named

    def reported(self, value: str) -> Arrays:
        """recall, scanned or nprobe of every line of the evaluation."""
        return {
            " ".join((r["router"], r["rule"], f"{r['percent']:g}", r["probing"])): np.array(r[value])
            for r in self.results
        }

    def log_k(self) -> Arrays:
        """Log k after each epoch: its difference is relative to k."""
        return {"log k": np.log(self.k)}

    def choices(self) -> Arrays:
        """The chosen epochs, and how much of the way to them."""
        return {router: np.array([epoch, self.ways[router]]) for router, epoch in self.chosen.items()}


def write_data(folder: Path, length: float = 1.0) -> None:
    """Learn, base and queries around the same directions, ten a direction; gt is exact. length: of every row"""
    rng = np.random.default_rng(11)
    identities = _unit(rng.standard_normal((IDENTITIES, DIM)))

    def draw(n: int) -> np.ndarray:
        grain = rng.standard_normal((n, DIM)) * (NOISE / DIM**0.5)
        return _unit(identities[rng.integers(IDENTITIES, size=n)] + grain).astype(np.float32) * np.float32(length)

    base, query = draw(N_BASE), draw(N_QUERY)
    (folder / "drawn").mkdir()
    np.save(folder / "learn.npy", draw(N_LEARN))
    np.save(folder / "drawn" / "base.npy", base)
    np.save(folder / "drawn" / "query.npy", query)
    np.save(folder / "drawn" / "gt.npy", faiss.knn(query, base, 10, metric=faiss.METRIC_INNER_PRODUCT)[1])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_config(case: Case, data: Path) -> Config:
    """Settings of one case; rows are of unit norm, so both metrics have the same neighbours."""
    return Config(
        save_path=data / case.name, data_path=data, data_name="drawn", learn_name="learn", percents=(0.0, 0.8),
        warmup=1, epochs=EPOCHS, metric=case.metric, batch_size=BATCH, lr=LR, ftopk=FTOPK, gpu=-1, nlist=NLIST,
        param_list=(DIM, *HIDDEN, NLIST) if case.deep else (DIM, NLIST), niter=20, nprobes=(1, 2, 4, 8),
        use_drop=case.drop, log_interval=1000,
    )  # fmt: skip


def run(config: Config, name: str, precision: str, patch: pytest.MonkeyPatch) -> Outcome:
    """Train and evaluate as run_dcnet.py does, in a folder of the backend's own.

    k-means and neighbours are found once for all: they know of no backend.
    """
    config = replace(config, save_path=config.save_path / f"{name} {precision}", backend=name)
    shared = config.data_path / f"cache {config.metric}"
    if shared.is_dir():
        copytree(shared, config.save_path / "cache")
    states: list[Arrays] = []
    setups: list[Setup] = []
    stored: list[Lists] = []

    def load(name: str, setup: Setup, gpu: int, asked: str = "float32") -> Backend:
        return backends.load_backend(name, setup, gpu, precision if asked == "float32" else asked)

    def load_watched(name: str, setup: Setup, gpu: int, asked: str) -> Backend:
        setups.append(setup)
        return _watched(load(name, setup, gpu, asked), states)

    def place(tiles: Any, plans: Any, width: int, wanted: np.ndarray, bar: Any) -> list[Lists]:
        stored.extend(whole_place(tiles, plans, width))
        return whole_place(tiles, plans, width, wanted, bar)

    whole_place = evaluation.place
    with patch.context() as scoped:
        scoped.setattr(running, "load_backend", load_watched)
        scoped.setattr(dcnet_file, "load_backend", load)
        scoped.setattr(evaluation, "place", place)
        commands.train_centers(config, Progress(None, Console(quiet=True)))
    if not shared.is_dir():
        copytree(config.save_path / "cache", shared)
    return _outcome(config.save_path, setups[0], states, stored)


def _watched(backend: Backend, states: list[Arrays]) -> Backend:
    """The backend, but every state whose m is read is kept: one an epoch."""
    use = backend.use

    def keep(state: Any) -> Arrays:
        states.append(backend.state_dict(state))
        return use(state)

    backend.use = keep
    return backend


def _outcome(folder: Path, setup: Setup, states: list[Arrays], stored: list[Lists]) -> Outcome:
    record = json.loads((folder / "evaluation.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    k = np.array([line["k"] for line in lines if "held_out" in line])
    return Outcome(
        setup, states, k, record["chosen_epochs"], record["chosen_ways"], stored,
        record["results"], np.load(folder / "ivfast.npy"),
    )  # fmt: skip
