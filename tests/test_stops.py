"""Kills, signals, full disks, two runs at once: nothing is lost, nothing is silent."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ivfast.runtime import lock
from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.command_line import parse
from ivfast.runtime.errors import StopRequestedError
from ivfast.runtime.progress import Progress
from ivfast.runtime.signals import handled, not_waiting, pending, stop_if_pending, waiting
from ivfast.train.disk import bytes_needed
from run_dcnet import main
from tests.runs import command, flags, make_data, outputs, shared_runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run without a stop, by its further flags."""
    return shared_runs(lambda out, *more: flags(data, out, *more), lambda: tmp_path_factory.mktemp("whole"))


@pytest.mark.whole_run
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_killed_run_finishes_as_if_it_had_not_been(
    backend: str, data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    """Two kills, the first in the first epochs, the second of what was resumed; benchmarks/kills.py does all 80."""
    more = ("--backend", backend, "--checkpoint_minutes", "0.0005")
    rng = np.random.default_rng(3)
    for again in ((), ("--resume", "True")):
        before = checkpoints_in(tmp_path)
        process = subprocess.Popen(command(data, tmp_path, *more, *again), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while checkpoints_in(tmp_path) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3 * rng.random())
        process.kill()
        process.wait()
        assert checkpoints_in(tmp_path)
    assert main(flags(data, tmp_path, *more, "--resume", "True")) == 0
    assert outputs(tmp_path) == outputs(whole("--backend", backend))


def wait_for_checkpoint(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not checkpoints_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.whole_run
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_signal_ends_a_run_in_time_with_a_checkpoint(number: int, code: int, data: Path, tmp_path: Path) -> None:
    more = ("--epochs", "400", "--warmup", "1")
    process = subprocess.Popen(command(data, tmp_path, *more), stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(tmp_path)
    process.send_signal(number)
    asked = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert time.monotonic() - asked < 10
    assert f"stopped by signal {number}; continue with --resume True" in said
    assert "Traceback" not in said


@pytest.mark.whole_run
@pytest.mark.usefixtures("heard_hang_ups")
def test_terminal_that_closes_ends_a_run_as_a_signal_does(data: Path, tmp_path: Path) -> None:
    """Which hangs up (SIGHUP), some of them twice, and can no longer be written to."""
    terminal, inside = os.openpty()
    own = ["setsid", "--ctty", *command(data, tmp_path, "--epochs", "400", "--log_interval", "1")]
    process = subprocess.Popen(own, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    while not checkpoints_in(tmp_path):
        os.read(terminal, 4096)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 129
    assert (tmp_path / "train.log").read_text().endswith("stopped by signal 1; continue with --resume True\n")
    assert checkpoints_in(tmp_path)[0].stem > "epoch_00001_step_00000000"  # its last chunk is saved


def test_hang_up_that_nohup_has_switched_off_stays_off() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not pending()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_forgotten_with_the_run_that_it_ended() -> None:
    """Else what the same process trains next would stop at once."""
    with handled(), waiting():
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(StopRequestedError):
            stop_if_pending()
    assert not pending()
    with waiting(), not_waiting():
        pass


def test_library_that_survives_its_own_errors_does_not_survive_a_signal() -> None:
    """Such as JAX, which turns what fails while it writes its cache into a warning."""
    with pytest.raises(StopRequestedError), handled(), contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.whole_run
def test_a_signal_while_something_is_thrown_away_is_not_forgotten() -> None:
    """Python prints and forgets what is raised in __del__, so the signal comes again a moment later."""

    class Thrown:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def throw_away() -> None:
        with handled():
            Thrown()
            time.sleep(5)

    with pytest.raises(StopRequestedError):
        throw_away()


def test_second_signal_exits_at_once(data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(data, tmp_path, "--epochs", "400"), stderr=subprocess.DEVNULL)
    wait_for_checkpoint(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    assert process.wait(timeout=30) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert time.monotonic() - asked < 5


@pytest.fixture(scope="module")
def finished(whole: Callable[..., Path]) -> Path:
    return whole("--backend", "jax")


@pytest.mark.whole_run
def test_stopped_evaluation_is_to_be_run_again(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no checkpoint to go on from: --eval refuses --resume."""
    monkeypatch.setattr("ivfast.evaluate.run.evaluate_router", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(flags(data, tmp_path, "--eval", "True", "--ai_center", str(finished / "ivfast.npy"))) == 143
    assert capsys.readouterr().err.endswith("stopped by signal 15; run it again\n")


@pytest.mark.whole_run
@pytest.mark.parametrize("lost", ["cache", "checkpoints", "evaluation"])
def test_full_disk_keeps_what_was_there_and_says_how_much(
    lost: str, data: Path, finished: Path, tmp_path: Path
) -> None:
    """20 KiB a file are too few for neighbours, checkpoints and evaluation.json."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = outputs(out)
    more = ("--eval", "True", "--ai_center", str(out / "ivfast.npy")) if lost == "evaluation" else ()
    if lost != "evaluation":
        shutil.rmtree(out / "checkpoints")
        shutil.rmtree(out / lost, ignore_errors=True)
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "limited", *command(data, out, *more)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {out}/{lost}")
    assert "bytes are needed" in last
    assert "Traceback" not in done.stderr
    assert outputs(out) == before
    left = [path.name for path in out.rglob(".*")]
    assert left == []  # nothing half there, no lock


@pytest.mark.whole_run
def test_estimate_covers_what_a_run_writes(data: Path, tmp_path: Path) -> None:
    """A network of 2.4 MB; the estimate is at most twice what is left, with one checkpoint more while it is written."""
    large = ("--param_list", "24", "512", "1024", "32", "--batch_size", "1000")
    argv = flags(data, tmp_path, *large, "--epochs", "2")
    needed = bytes_needed(parse(argv)[0], 4000, 4000)
    assert main(argv) == 0
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    (newest, _) = checkpoints_in(tmp_path)
    assert written + newest.stat().st_size <= needed <= 2 * written


def test_too_small_a_disk_is_found_before_the_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    assert main(flags(data, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "bytes are needed, 1,000 are free" in said
    assert not (tmp_path / "cache").exists()


def test_save_path_that_cannot_be_made_ends_with_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(flags(data, tmp_path / "file" / "out")) == 2
    assert "expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("problem", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_save_path_that_cannot_be_written_ends_with_one_line(
    problem: OSError, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Path, __: str) -> None:
        raise problem

    monkeypatch.setattr(lock, "_open", refuse)
    assert main(flags(data, tmp_path)) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: --save_path {tmp_path} cannot be written ({problem.strerror}); name another"
    ]


def test_lock_that_finds_no_room_ends_with_one_line_and_leaves_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(flags(data, tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / '.ivfast.lock'} cannot be written (No space left on device); ")
    assert "bytes are needed" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        ('{"pid": 7, "host": "there"}', "process 7 on there"),
        ('{"pid": 7', "another process"),
        ("[]", "another process"),
        ("7", "another process"),
        ("\udcff", "another process"),
    ],
)
def test_stale_lock_of_any_content_is_taken_over(content: str, holder: str, tmp_path: Path) -> None:
    told: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            told.append(text)

    (tmp_path / ".ivfast.lock").write_text(content, errors="surrogateescape")
    with lock.locked(tmp_path, Notes()):
        assert str(os.getpid()) in (tmp_path / ".ivfast.lock").read_text()
    assert told == [f"the lock of {holder}, which is gone, is taken over"]
    assert not (tmp_path / ".ivfast.lock").exists()


@pytest.mark.whole_run
def test_log_that_cannot_be_written_does_not_stop_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    assert main(flags(data, tmp_path, "--epochs", "2", "--param_list", "24", "32")) == 0
    assert capsys.readouterr().err.count("train.log cannot be written") == 1
    assert (tmp_path / "ivfast.npy").is_file()


@pytest.mark.whole_run
def test_second_run_in_one_save_path_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = subprocess.Popen(command(data, tmp_path, "--epochs", "400"), stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "cache").exists():
            time.sleep(0.05)
        assert main(flags(data, tmp_path)) == 2
        assert f"in use by process {first.pid}" in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    assert main(flags(data, tmp_path, "--epochs", "2", "--param_list", "24", "32")) == 0
    assert f"the lock of process {first.pid}" in capsys.readouterr().err
