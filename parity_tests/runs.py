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
from ivfast.runtime.config import Config
from ivfast.runtime.progress import Progress
from ivfast.store import dcnet_file
from ivfast.store.budget import Assignment
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
    states: list[Arrays]  # before the first epoch and after each, as Backend.state_dict
    k: np.ndarray  # (epochs,)
    chosen: dict[str, int]
    ways: dict[str, float]
    assignments: list[Assignment]  # of base, by router and plan
    results: list[dict[str, Any]]  # of evaluation.json
    ivfast: np.ndarray  # (nlist, dim)

    def centers(self) -> Arrays:
        """After each epoch in float64, and those that were exported."""
        moved = {
            f"epoch {epoch}": move_centers(state["params/u"].astype(np.float64), self.setup)
            for epoch, state in enumerate(self.states)
        }
        return moved | {"ivfast.npy": self.ivfast}

    def stored(self) -> Arrays:
        """Buckets of every base vector, and entries of every bucket."""
        named: Arrays = {}
        for i, assignment in enumerate(self.assignments):
            named |= {f"buckets {i}": assignment.buckets, f"sizes {i}": assignment.sizes}
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
    assignments: list[Assignment] = []

    def load(name: str, setup: Setup, gpu: int, asked: str = "float32") -> Backend:
        return backends.load_backend(name, setup, gpu, precision if asked == "float32" else asked)

    def load_watched(name: str, setup: Setup, gpu: int, asked: str) -> Backend:
        setups.append(setup)
        return _watched(load(name, setup, gpu, asked), states)

    def assign(tiles: Any, plans: Any, width: int, wanted: np.ndarray, bar: Any, demand: Any) -> list[Assignment]:
        assignments.extend(whole_assign(tiles, plans, width, demand=demand))
        return whole_assign(tiles, plans, width, wanted, bar, demand)

    whole_assign = evaluation.assign
    with patch.context() as scoped:
        scoped.setattr(running, "load_backend", load_watched)
        scoped.setattr(dcnet_file, "load_backend", load)
        scoped.setattr(evaluation, "assign", assign)
        commands.train(config, Progress(config.save_path, Console(quiet=True)))
    if not shared.is_dir():
        copytree(config.save_path / "cache", shared)
    return _outcome(config.save_path, setups[0], states, assignments)


def _watched(backend: Backend, states: list[Arrays]) -> Backend:
    """The backend, but every state that is exported is kept: one at the start and one an epoch."""
    export = backend.export

    def keep(state: Any) -> Arrays:
        states.append(backend.state_dict(state))
        return export(state)

    backend.export = keep
    return backend


def _outcome(folder: Path, setup: Setup, states: list[Arrays], assignments: list[Assignment]) -> Outcome:
    record = json.loads((folder / "evaluation.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    k = np.array([line["k"] for line in lines if "held_out" in line])
    kept = {state["step"].item(): state for state in states}
    kept.pop(0, None)  # states that hold the weights of a chosen epoch, for export alone
    return Outcome(
        setup, [kept[step] for step in sorted(kept)], k, record["chosen_epochs"], record["chosen_ways"], assignments,
        record["results"], np.load(folder / "ivfast.npy"),
    )  # fmt: skip
