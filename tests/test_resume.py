"""A run that is stopped and resumed is the run that was never stopped."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ivfast.network.backend import Chunk
from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.files import part_of
from ivfast.train import epochs as training
from ivfast.train import together
from ivfast.train.point import JUDGING_VERSION
from run_dcnet import main
from tests.runs import flags, make_data, outputs, shared_runs

pytestmark = pytest.mark.whole_run

AMP = ("--use_amp", "True", "--amp_dtype", "bfloat16")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


Whole = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder of a run without a stop, by its further flags."""
    return shared_runs(lambda out, *more: flags(data, out, *more), lambda: tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def kept_stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by JAX that was stopped in its third epoch."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, 3, 1)
        assert main(flags(data, out)) == 143
    return out


@pytest.fixture
def stopped(kept_stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, to be continued or spoiled."""
    return Path(shutil.copytree(kept_stopped, tmp_path / "out"))


def stop_in(monkeypatch: pytest.MonkeyPatch, epoch: int, chunk: int) -> None:
    """SIGTERM to ourselves while a chunk of an epoch is drawn."""
    original = together.epoch_chunks

    def chunks(source: Any, at: int, steps: int, start: int = 0) -> Iterator[Chunk]:
        for i, drawn in enumerate(original(source, at, steps, start)):
            if (at, i) == (epoch, chunk):
                os.kill(os.getpid(), signal.SIGTERM)
            yield drawn

    monkeypatch.setattr(together, "epoch_chunks", chunks)


@pytest.mark.parametrize("amp", [(), AMP], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_resumed_run_equals_unbroken_run_to_the_bit(
    backend: str, amp: tuple[str, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole,
) -> None:  # fmt: skip
    more = ("--backend", backend, *amp)
    with monkeypatch.context() as patch:
        stop_in(patch, 3, 1)
        assert main(flags(data, tmp_path, *more)) == 143
    assert not (tmp_path / "ivfast.npy").exists()
    newest = checkpoints_in(tmp_path)[0].name
    assert newest.startswith("epoch_00002_step_")  # within the third epoch
    assert not newest.endswith("_00000000.safetensors")
    assert len(checkpoints_in(tmp_path)) == 2
    assert main(flags(data, tmp_path, *more, "--resume", "True")) == 0
    assert outputs(tmp_path) == outputs(whole(*more))


def test_epochs_that_were_left_to_the_sizes_are_found_again_on_resume(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = ("--epochs", "auto")
    with monkeypatch.context() as patch:
        stop_in(patch, 2, 1)
        assert main(flags(data, tmp_path / "broken", *auto)) == 143
    assert main(flags(data, tmp_path / "broken", *auto, "--resume", "True")) == 0
    assert "--epochs auto: 4 epochs, 1 of warmup" in (tmp_path / "broken" / "train.log").read_text()
    assert main(flags(data, tmp_path / "whole", "--epochs", "4")) == 0
    assert outputs(tmp_path / "broken") == outputs(tmp_path / "whole")


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_resumed_run_in_blocks_equals_unbroken_run_to_the_bit(
    backend: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped where lists are older than the centers: they come from the checkpoint."""
    more, whole, broken = ("--backend", backend), tmp_path / "whole", tmp_path / "broken"
    assert main(flags(data, whole, *more)) == 0
    with monkeypatch.context() as patch:
        stop_in(patch, 3, 1)
        assert main(flags(data, broken, *more)) == 143
    newest = load_file(checkpoints_in(broken)[0])
    assert newest["blocks/lists"].shape == (32, 5)
    assert newest["step"] % 64 in (16, 32)  # lists are made anew before steps 0 and 48 of an epoch
    assert main(flags(data, broken, *more, "--resume", "True")) == 0
    assert outputs(broken) == outputs(whole)


def test_a_checkpoint_without_blocks_is_not_continued_in_blocks(
    data: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ivfast.network.backend.MANY_BUCKETS", 32)
    monkeypatch.setattr("ivfast.network.backend.LEAST_BATCH", 1)
    assert main(flags(data, stopped, "--resume", "True")) == 2
    assert "another version of ivfast" in capsys.readouterr().err


def signal_in(monkeypatch: pytest.MonkeyPatch, name: str, call: int, number: int) -> None:
    """A signal to ourselves as one of the calls begins that training makes of a function."""
    original, calls = getattr(training, name), []

    def signalled(*args: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(training, name, signalled)


@pytest.mark.usefixtures("heard_hang_ups")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_run_that_is_stopped_while_epochs_are_judged_and_saved_ends_with_the_same_bytes(
    backend: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    whole: Whole,
) -> None:  # fmt: skip
    """Judging is cut off, however long it takes: the epoch's last step is saved. What is saved is saved whole."""
    more = ("--backend", backend)
    for name, call, number, newest in (
        ("judge_all", 2, signal.SIGTERM, "epoch_00000_step_00000064"),  # the first call is of k-means
        ("refit_goal", 3, signal.SIGUSR1, "epoch_00001_step_00000064"),  # the second of what was not judged
        ("_save", 2, signal.SIGHUP, "epoch_00003_step_00000000"),
    ):
        resumed = ("--resume", "True") if checkpoints_in(tmp_path) else ()
        with monkeypatch.context() as patch:
            signal_in(patch, name, call, number)
            assert main(flags(data, tmp_path, *more, *resumed)) == 128 + number
        assert checkpoints_in(tmp_path)[0].stem == newest
    assert main(flags(data, tmp_path, *more, "--resume", "True")) == 0
    assert outputs(tmp_path) == outputs(whole(*more))
    assert "epoch 1/4: no step was left, k " in (tmp_path / "train.log").read_text()
    assert '"n_pairs": 0' not in (tmp_path / "metrics.jsonl").read_text()  # no record of steps that were not made


def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(data: Path, stopped: Path, whole: Whole) -> None:
    newest = checkpoints_in(stopped)[0]
    damaged = bytearray(newest.read_bytes())
    damaged[-1000] ^= 1  # one bit of one number
    newest.write_bytes(damaged)
    assert main(flags(data, stopped, "--resume", "True")) == 0
    assert f"{newest} is damaged" in (stopped / "train.log").read_text()
    assert outputs(stopped) == outputs(whole("--backend", "jax"))


@pytest.mark.parametrize("metadata", [None, "{}", "[]", '{"about": 3, "checksum": 1}', "[" * 100_000])
def test_only_damaged_checkpoints_is_an_error(
    metadata: str | None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "epoch_00001_step_00000000.safetensors"
    if metadata is None:
        path.write_bytes(b"nothing")
    else:
        save_file({"x": np.ones(3)}, path, {"ivfast": metadata})
    assert main(flags(data, tmp_path, "--resume", "True")) == 2
    assert "no whole checkpoint" in capsys.readouterr().err
    assert main(flags(data, tmp_path, "--start_epoch", "1")) == 2
    assert f"{path} is damaged" in capsys.readouterr().err


def test_resume_without_a_checkpoint_begins_anew(
    data: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run that was killed during k-means is continued with."""
    assert main(flags(data, tmp_path, "--backend", "jax", "--resume", "True")) == 0
    assert "holds no checkpoint yet" in capsys.readouterr().err
    assert outputs(tmp_path) == outputs(whole("--backend", "jax"))


def test_what_a_killed_run_left_half_written_is_removed(data: Path, tmp_path: Path) -> None:
    half, other = part_of(tmp_path / "checkpoints" / "epoch_00001_step_00000003.safetensors"), tmp_path / ".mine.7.json"
    for path in (half, other):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    assert main(flags(data, tmp_path, "--epochs", "0", "--warmup", "0")) == 0
    assert not half.exists()
    assert other.exists()


def test_start_epoch_continues_from_the_end_of_that_epoch(
    data: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(whole("--backend", "jax"), tmp_path / "out"))
    (out / "ivfast.npy").unlink()
    assert [path.name[:11] for path in checkpoints_in(out)] == ["epoch_00004", "epoch_00003"]
    assert main(flags(data, out, "--backend", "jax", "--start_epoch", "3")) == 0
    assert outputs(out) == outputs(whole("--backend", "jax"))
    assert main(flags(data, out, "--backend", "jax", "--start_epoch", "1")) == 2
    assert "there are: 3, 4" in capsys.readouterr().err


def test_used_save_path_is_not_overwritten(
    data: Path, tmp_path: Path, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(whole("--backend", "jax"), tmp_path / "out"))
    before = outputs(out)
    assert main(flags(data, out)) == 2
    assert "--resume True" in capsys.readouterr().err
    assert outputs(out) == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--epochs", "6"), "--epochs can't change"),
        (("--lr", "1e-3", "--seed", "2"), "--lr 0.001 (was 0.002), --seed 2 (was 1)"),
        (("--use_drop", "False"), "--use_drop False (was True)"),
    ],
)
def test_resume_refuses_other_settings_and_names_them(
    more: tuple[str, ...], told: str, data: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stopped / "cache")
    assert main(flags(data, stopped, "--resume", "True", *more)) == 2
    assert told in capsys.readouterr().err
    assert not (stopped / "cache").exists()  # before k-means


def test_resume_refuses_other_data(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_data(tmp_path / "other")
    learn = np.load(other / "learn_faces.npy")
    np.save(other / "learn_faces.npy", learn[::-1])
    shutil.rmtree(stopped / "cache")
    assert main(flags(other, stopped, "--resume", "True")) == 2
    assert "the learn vectors" in capsys.readouterr().err
    assert not (stopped / "cache").exists()  # before k-means


def test_resume_refuses_a_checkpoint_of_other_rules(
    data: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another version, whose pairs and judgements were others: half of each would be neither."""
    monkeypatch.setattr("ivfast.train.point.JUDGING_VERSION", JUDGING_VERSION + 1)
    assert main(flags(data, stopped, "--resume", "True")) == 2
    assert "another version of ivfast" in capsys.readouterr().err


def test_checkpoint_of_one_backend_is_continued_by_the_other(data: Path, stopped: Path, whole: Whole) -> None:
    assert main(flags(data, stopped, "--backend", "torch", "--resume", "True")) == 0
    ours, unbroken = (np.load(folder / "ivfast.npy") for folder in (stopped, whole("--backend", "jax")))
    np.testing.assert_allclose(ours, unbroken, atol=1e-4)  # 2e-6 seen: another order of summation
