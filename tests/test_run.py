"""A whole run, as a user starts it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import jax
import numpy as np
import pytest

from ivfast.commands import train_centers
from ivfast.data.synthetic import save_set
from ivfast.network.backend import Backend, Goal, Setup
from ivfast.runtime.command_line import parse
from ivfast.runtime.progress import silent
from ivfast.train import epochs as training
from ivfast.train import pairs as batches
from ivfast.train import run as running
from ivfast.train import together
from ivfast.train.run import start_run
from run_dcnet import main
from tests.runs import make_data, outputs, shared_runs

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--data_name faces --learn_name learn_faces --nlist 32 --param_list 24 48 32 --niter 10 --epochs 3 --warmup 1 "
    "--batch_size 500 --lr 2e-3 --percents 0 0.8 --use_drop True --gpu -1"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces of 24 dims: 2,600 learn vectors, so that the last batch is short."""
    return make_data(tmp_path_factory.mktemp("data"), n_identities=260, n_query=200)


def start(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data_path", str(data), "--save_path", str(out), *FLAGS.split(), *more]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run by its further flags."""
    return shared_runs(lambda out, *more: start(data, out, *more), lambda: tmp_path_factory.mktemp("whole"))


@pytest.mark.whole_run
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_bytes_do_not_change_with_block_log_or_chunk_length(
    backend: str, data: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outputs(whole("--backend", backend))
    monkeypatch.setattr(together, "chunk_steps", partial(batches.chunk_steps, most_steps=2))
    more = ["--backend", backend, "--valid_batch_size", "1", "--log_interval", "1"]
    assert main(start(data, tmp_path, *more)) == 0
    assert outputs(tmp_path) == expected


@pytest.mark.whole_run
def test_second_run_repeats_neither_kmeans_nor_neighbours(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    first = whole("--backend", "jax")
    out = Path(shutil.copytree(first, tmp_path / "out"))
    kept = {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()}
    shutil.rmtree(out / "checkpoints")  # else the second run is refused
    (out / "ivfast.npy").unlink()
    assert main(start(data, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()} == kept
    log = (out / "train.log").read_text()
    assert log.count("from the cache") == 3  # and base's neighbours
    assert outputs(out) == outputs(first)
    shutil.rmtree(out / "checkpoints")
    assert main(start(data, out, "--seed", "2", "--epochs", "2", "--param_list", "24", "32")) == 0
    # another seed, another fingerprint; of base's neighbours the same
    assert len(list((out / "cache").iterdir())) == 5


@pytest.mark.whole_run
@pytest.mark.parametrize("trained_with", [[], ["--metric", "L2", "--ftopk", "6"]])
def test_evaluation_of_the_files_is_the_training_s_own(
    trained_with: list[str], data: Path, whole: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all that was trained with, the files tell."""
    trained = whole("--backend", "jax", *trained_with)
    flags = [
        "--data_path", str(data), "--save_path", str(tmp_path), "--data_name", "faces", "--learn_name",
        "learn_faces", "--eval", "True", "--ai_center", str(trained / "ivfast.npy"), "--percents", "0", "0.8",
        "--gpu", "-1",
    ]  # fmt: skip
    assert main(flags) == 0
    ours, theirs = (json.loads((folder / "evaluation.json").read_text()) for folder in (trained, tmp_path))
    for name in ("results", "verdict"):
        assert ours[name] == theirs[name]
    for name in ("metric", "ftopk", "nlist", "param_list"):
        assert ours["settings"][name] == theirs["settings"][name]
    capsys.readouterr()
    assert main([*flags, "--ftopk", "7"]) == 2
    assert "leave it out" in capsys.readouterr().err
    check_new_numbers_of_copies(flags, tmp_path, theirs["results"])


def check_new_numbers_of_copies(flags: list[str], out: Path, known: list[dict[str, Any]]) -> None:
    """What was not trained for is fitted on learn, however it is named; what was trained for stays as it is."""
    flags[flags.index("--percents") : flags.index("--gpu")] = ["--percents", "1.5", "0.8", "0"]
    assert main(flags) == 0
    results = json.loads((out / "evaluation.json").read_text())["results"]

    def by_way(lines: list[dict[str, Any]], percents: tuple[float, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {(r["router"], r["rule"], r["percent"], r["probing"]): r for r in lines if r["percent"] in percents}

    assert by_way(results, (0.0, 0.8)) == by_way(known, (0.0, 0.8))
    new = by_way(results, (1.5,))
    assert {(r, rule, p) for r, rule, _, p in new} == {(r["router"], r["rule"], r["probing"]) for r in known}
    for (router, rule, _, probing), found in new.items():
        assert found["entries"] == 2400 + 3600
        default = rule == ("ratio" if router == "kmeans" else "benefit")
        assert bool(found["predicted"]) == (default and probing == "fixed")


def test_centers_alone_are_evaluated_without_learn(data: Path, tmp_path: Path) -> None:
    base = np.load(data / "faces" / "base.npy")
    np.save(tmp_path / "some.npy", base[:40])
    flags = ["--data_path", str(data), "--save_path", str(tmp_path), "--data_name", "faces", "--eval", "True"]
    assert main([*flags, "--ai_center", str(tmp_path / "some.npy"), "--percents", "0", "--gpu", "-1"]) == 0
    results = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert [(r["router"], r["rule"], r["probing"]) for r in results] == [("centers", "ratio", "fixed")]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(24), 24, 40, faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(base[:40])
    index.is_trained = True
    index.add(base)
    assert index.invlists is not None
    sizes = [index.invlists.list_size(i) for i in range(40)]
    assert results[0]["largest"] == max(sizes)
    index.nprobe = results[0]["nprobe"][3]
    query, gt = (np.load(data / "faces" / f"{n}.npy") for n in ("query", "gt"))
    lists = index.quantizer.search(query, index.nprobe)[1]
    where = index.quantizer.search(base, 1)[1][:, 0]
    found = (where[gt][:, :, None] == lists[:, None, :]).any(axis=2).mean()
    assert results[0]["recall"][3] == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize(("dtype", "order"), [("float64", "C"), ("float32", "F"), (">f8", "F")])
def test_centers_are_read_from_any_encoding(dtype: str, order, data: Path, tmp_path: Path) -> None:
    base = np.load(data / "faces" / "base.npy")[:40]
    found = []
    for name, array in (("plain", base), ("other", base.astype(dtype, order=order))):
        np.save(tmp_path / f"{name}.npy", array)
        flags = f"--data_name faces --eval True --ai_center {tmp_path}/{name}.npy --percents 0 0.8 --gpu -1"
        out = tmp_path / name
        assert (
            main(["--data_path", str(data), "--save_path", str(out), "--learn_name", "learn_faces", *flags.split()])
            == 0
        )
        found.append(json.loads((out / "evaluation.json").read_text())["results"])
    assert found[0] == found[1]


class Counting:
    """A backend that is watched."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.setup, self.traces = inner, inner.setup, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def train_chunk(self, state: Any, chunk: Any, goal: Any) -> Any:
        with jax.transfer_guard_device_to_host("disallow"):
            result = self.inner.train_chunk(state, chunk, goal)
        self.traces.append(self.inner._chunk._cache_size())
        return result


@pytest.mark.whole_run
@pytest.mark.parametrize("flags", ["", "--use_amp True"])
def test_jax_compiles_the_chunk_once(flags: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "chunk_steps", partial(batches.chunk_steps, most_steps=4))
    watched: list[Counting] = []

    def load(name: str, setup: Setup, gpu: int, precision: str) -> Backend:
        watched.append(Counting(original(name, setup, gpu, precision)))
        return watched[-1]  # pyright: ignore[reportReturnType]

    original = running.load_backend
    monkeypatch.setattr(running, "load_backend", load)
    config, _ = parse(start(data, tmp_path, *flags.split()))
    train_centers(replace(config, eval=True), silent())  # what the function is called decides
    assert watched[0].traces == [1] * 6  # 5 steps an epoch in chunks of 3, k new in each epoch


def test_a_step_calls_nothing_on_the_host(data: Path, tmp_path: Path) -> None:
    config, _ = parse(start(data, tmp_path))
    run = start_run(config, silent())
    backend: Any = run.backend
    chunk = next(batches.epoch_chunks(run.source, 1, 2))
    state = training.start_point(run).state
    text = str(
        backend._chunk.trace(
            state, chunk.x, chunk.x_pair, chunk.valid, Goal(12.0, 3.0, 9.0, 0.3), constants=backend.constants
        ).jaxpr
    )
    assert "scan" in text
    assert "callback" not in text
    assert "float64" not in text
    assert "f64" not in text


@pytest.mark.whole_run
@pytest.mark.parametrize(("backend", "absent"), [("torch", "jax"), ("jax", "torch")])
def test_either_backend_runs_without_the_other_s_framework(
    backend: str, absent: str, data: Path, tmp_path: Path
) -> None:
    blocked = {"jax": ("jax", "jaxlib", "flax", "optax"), "torch": ("torch",)}[absent]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}, None)); from run_dcnet import main; "
        f"print(*(main([*sys.argv[1:], '--backend', name]) for name in ({absent!r}, {backend!r})))"
    )
    command = [sys.executable, "-c", code, *start(data, tmp_path, "--epochs", "2")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "2 0", done.stderr
    assert f"pip install {absent}" in done.stderr


@pytest.mark.whole_run
def test_other_encodings_give_the_same_centers(data: Path, tmp_path: Path) -> None:
    """Values that float16 holds, in files of other types and orders; centers alone."""
    found = {}
    encodings: list[tuple[str, Any]] = [
        ("float32", "C"), ("float16", "C"), ("float64", "F"), (">f4", "C"), ("float32", "F"),
    ]  # fmt: skip
    for dtype, order in encodings:
        folder = tmp_path / f"{dtype} {order}"
        for part in ("learn_faces", "faces/base", "faces/query", "faces/gt"):
            array = np.load(data / f"{part}.npy")
            if array.dtype.kind == "f":
                array = array.astype(np.float16).astype(dtype, order=order)
            (folder / "faces").mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{part}.npy", array)
        assert main(start(folder, folder / "out", "--epochs", "2", "--param_list", "24", "32")) == 0
        found[dtype, order] = (folder / "out" / "ivfast.npy").read_bytes()
    assert found == dict.fromkeys(found, found["float32", "C"])
    first, last = (np.load(tmp_path / "float32 C" / "out" / f"{name}.npy") for name in ("kmeans", "ivfast"))
    assert (first != last).any()  # k-means was not what is compared


@pytest.mark.whole_run
def test_unit_of_the_file_does_not_matter_under_l2(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    middles = rng.gamma(1.0, 20.0, (150, 24))
    learn, base, query = (
        (middles[rng.integers(150, size=n)] + rng.gamma(1.0, 12.0, (n, 24))).astype(np.float32)
        for n in (2000, 2000, 500)
    )
    gt = faiss.knn(query, base, 10)[1]
    found = {}
    for factor in (1.0, 2.0**-10, 1e3):
        f = np.float32(factor)
        save_set(tmp_path / str(factor), "faces", learn * f, base * f, query * f, gt)
        out = tmp_path / str(factor) / "out"
        assert main(start(tmp_path / str(factor), out, "--metric", "L2", "--epochs", "2")) == 0
        results = json.loads((out / "evaluation.json").read_text())["results"]
        found[factor] = np.concatenate([r["recall"] for r in results])
    np.testing.assert_array_equal(found[2.0**-10], found[1.0])
    # 0 seen: vectors are centered and scaled before any product, so only their last bits differ
    assert np.abs(found[1e3] - found[1.0]).max() <= 0.01


@pytest.mark.parametrize(
    ("part", "array", "told"),
    [
        ("learn_faces", None, "is missing"),
        ("faces/gt", np.full((200, 9), 99_999), "offsets"),
        ("faces/query", np.zeros((200, 7), np.float32), "columns"),
        ("learn_faces", np.full((2600, 24), np.nan, np.float32), "NaN"),
        ("learn_faces", np.full((2600, 24), 1.0, np.float32), "norm"),
        ("learn_faces", np.ones((20, 24), np.float32) / np.sqrt(np.float32(24)), "fewer than --nlist"),
        ("learn_faces", np.ones((2600, 24), np.int64), "expected float32"),
    ],
)
def test_wrong_data_ends_with_one_line_before_training(
    part: str, array: np.ndarray | None, told: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("learn_faces", "faces/base", "faces/query", "faces/gt"):
        target = tmp_path / f"{name}.npy"
        target.parent.mkdir(exist_ok=True)
        if name != part:
            np.save(target, np.load(data / f"{name}.npy"))
        elif array is not None:
            np.save(target, array)
    assert main(start(tmp_path, tmp_path / "out")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error
    assert not (tmp_path / "out" / "ivfast.npy").exists()


def test_absent_gpu_names_the_cpu_flag(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for backend in ("jax", "torch"):
        assert main(start(data, tmp_path, "--gpu", "7", "--backend", backend)) == 2
        assert "--gpu -1" in capsys.readouterr().err
