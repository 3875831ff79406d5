"""docs/slurm.md: its script stops, queues itself again and finishes; its numbers are those of the code."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import Config, check
from ivfast.runtime.signals import STOPPING
from ivfast.train.pairs import CHUNK_STEPS
from tests.runs import ROOT, flags, make_data

PAGE = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
(RUN,) = re.findall(r"^run_dcnet ((?:.*\\\n)*.*) &$", SCRIPT, flags=re.MULTILINE)


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """A folder with the script as it stands, but for its flags, and stand-ins for the two commands that it calls."""
    small = flags(make_data(tmp_path / "data"), tmp_path / "out", "--resume", "True")
    commands = {
        "run_dcnet": f'exec {sys.executable} {ROOT}/run_dcnet.py "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/asked',
    }
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").write_text(SCRIPT.replace(RUN, " ".join(small)))
    return tmp_path


def start(queue: Path) -> subprocess.Popen[bytes]:
    """As Slurm does, signals as they are by default."""
    path = f"{queue}:{os.environ['PATH']}"
    return subprocess.Popen(["/bin/bash", queue / "job"], env=os.environ | {"PATH": path, "SLURM_JOB_ID": "77"})


@pytest.mark.whole_run
def test_job_that_is_told_of_its_end_queues_itself_again_and_finishes(queue: Path) -> None:
    job = start(queue)
    deadline = time.monotonic() + 60
    while not (queue / "out" / "cache").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)  # to the script alone
    assert job.wait(timeout=60) == 138
    assert (queue / "asked").read_text() == "requeue 77\n"
    assert not (queue / "out" / "ivfast.npy").exists()
    assert start(queue).wait(timeout=120) == 0
    assert (queue / "asked").read_text() == "requeue 77\n"
    assert (queue / "out" / "evaluation.csv").exists()
    assert checkpoints_in(queue / "out")


def test_job_that_fails_is_not_queued_again(queue: Path) -> None:
    (queue / "data" / "learn_faces.npy").unlink()
    assert start(queue).wait(timeout=60) == 2
    assert not (queue / "asked").exists()


def test_script_is_bash_and_its_flags_are_ours() -> None:
    subprocess.run(["/bin/bash", "-n"], input=SCRIPT.encode(), check=True)
    assert "#SBATCH --signal=B:USR1@120\n" in SCRIPT
    config, given = parse(RUN.replace("\\\n", " ").split())
    check(config)
    assert config.resume
    assert {"save_path", "data_path", "data_name", "learn_name", "gpu"} <= given


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"({CHUNK_STEPS} steps at most)" in PAGE
    assert f"`--checkpoint_minutes` ({Config.checkpoint_minutes:g})" in PAGE
    codes = {int(code) for code in re.findall(r"\b1[23]\d|14\d\b", PAGE.split("| exit code")[1])}
    assert codes == {128 + number for number in (*STOPPING, signal.SIGKILL)}
