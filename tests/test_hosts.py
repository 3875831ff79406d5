"""Several processes train one run: over loopback they do what one does, are lost, stopped and started again."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jax.errors import JaxRuntimeError

from ivfast.network.hosts import check_hosts, is_among_several
from ivfast.runtime.command_line import parse
from ivfast.runtime.errors import LOST, UserError
from ivfast.runtime.signals import ending_at_once, handled
from ivfast_jax import hosts
from run_dcnet import main
from tests.runs import ROOT, command, flags, make_data, run

pytestmark = pytest.mark.xdist_group("hosts")

SAME = 1e-6  # of float32 sums in another order; largest gap seen: 2e-7
SLOW = 120  # seconds that a process may take on a busy machine
MINUTE = 60
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
LONG = ("--epochs", "30")  # more than is waited for

whole_run = pytest.mark.whole_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by one process."""
    out = tmp_path_factory.mktemp("alone")
    assert main(flags(data, out)) == 0
    return out


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes, of which none is left behind."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with process:
            process.kill()


def free_address() -> str:
    """Of this host, with a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(
    started: list[subprocess.Popen[str]], data: Path, out: Path, *more: str, n: int = 2
) -> list[subprocess.Popen[str]]:
    """All processes of one run."""
    address = free_address()
    for i in range(n):
        words = command(data, out, *more, "--coordinator", address, "--num_processes", str(n), "--process_id", str(i))
        started.append(subprocess.Popen(words, **PIPES))
    return started[-n:]


def said(processes: list[subprocess.Popen[str]], seconds: float = SLOW) -> list[str]:
    """What each has printed, once it has ended."""
    return [process.communicate(timeout=seconds)[0] for process in processes]


def wait_for(path: Path, text: str) -> None:
    """Until a log has it."""
    ends = time.monotonic() + SLOW
    while not (path.is_file() and text in path.read_text(errors="replace")):
        assert time.monotonic() < ends, f"{path} never said {text}"
        time.sleep(0.1)


def centers_of(out: Path) -> np.ndarray:
    return np.load(out / "ivfast.npy")


@whole_run
@pytest.mark.parametrize("n_devices", [1, 2])
def test_two_processes_train_what_one_does(
    n_devices: int, data: Path, alone: Path, tmp_path: Path, started: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of one device each, and of two."""
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={n_devices}")
    first, second = processes = start(started, data, tmp_path)
    texts = said(processes)
    assert (first.returncode, second.returncode) == (0, 0), texts
    assert "process 0 of 2: the others train beside it" in texts[0]
    assert "process 1 of 2 trains beside process 0" in texts[1]
    np.testing.assert_allclose(centers_of(tmp_path), centers_of(alone), rtol=0, atol=SAME)
    assert not list(tmp_path.rglob(".ivfast*"))


@whole_run
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_other_in_one_line_and_the_run_goes_on(
    lost: int, data: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    processes = start(started, data, tmp_path, *LONG)
    wait_for(tmp_path / "train.log", "epoch 2/30")
    began = time.monotonic()
    processes[lost].kill()
    other = processes[1 - lost]
    text = said([other])[0]
    assert time.monotonic() - began < MINUTE
    assert other.returncode == 1
    wrong = [line for line in text.splitlines() if line.startswith("error") or "Check failure" in line]
    assert len(wrong) == 1
    assert wrong[0].startswith(f"error: {LOST}")
    if lost:  # process 0 was told: what it has saved goes on in one process, and ends
        done = run(data, tmp_path, "--epochs", "30", "--resume", "True", "--log_interval", "1000")
        assert done.returncode == 0, done.stderr
        assert "epoch 30/30" in done.stderr
        assert "epoch 1/30" not in done.stderr


@whole_run
@pytest.mark.parametrize("heard_by", [0, 1])
def test_a_signal_to_any_process_stops_all_with_a_checkpoint(
    heard_by: int, data: Path, alone: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """And other numbers of processes go on with it, to the same centers."""
    processes = start(started, data, tmp_path)
    wait_for(tmp_path / "train.log", "epoch 1/4")
    processes[heard_by].send_signal(signal.SIGTERM)
    texts = said(processes)
    assert [process.returncode for process in processes] == [143, 143], texts
    assert "stopped by signal 15; continue with --resume True" in texts[0]
    n = 3 if heard_by else 1
    again = start(started, data, tmp_path, "--resume", "True", n=n)
    texts = said(again)
    assert [process.returncode for process in again] == [0] * n, texts
    np.testing.assert_allclose(centers_of(tmp_path), centers_of(alone), rtol=0, atol=SAME)


BLIND = """
import sys
import ivfast.train.follow as follow
from ivfast.commands import main
from ivfast.runtime.errors import UserError

def blind(path, name):
    raise UserError("not there")

follow.open_array = blind
sys.exit(main())
"""


@whole_run
def test_a_host_that_does_not_see_save_path_says_so_and_ends_the_others(
    data: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    address = free_address()
    for i, program in enumerate(([str(ROOT / "run_dcnet.py")], ["-c", BLIND])):
        words = [*flags(data, tmp_path), "--coordinator", address, "--num_processes", "2", "--process_id", str(i)]
        started.append(subprocess.Popen([sys.executable, *program, *words], cwd=ROOT, **PIPES))
    texts = said(started)
    assert [process.returncode for process in started] == [1, 2], texts
    lines = [[line for line in text.splitlines() if line.startswith("error")] for text in texts]
    assert [len(found) for found in lines] == [1, 1]
    assert lines[0][0].startswith(f"error: {LOST}")
    assert "is not to be seen from here; expected one folder that all hosts share" in lines[1][0]


@whole_run
def test_processes_of_different_flags_are_refused(
    data: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    address = free_address()
    for i in range(2):
        more = ("--coordinator", address, "--num_processes", "2", "--process_id", str(i), "--seed", str(5 + i))
        started.append(subprocess.Popen(command(data, tmp_path, *more), **PIPES))
    texts = said(started)
    assert [process.returncode for process in started] == [2, 2], texts
    for text in texts:
        wrong = [line for line in text.splitlines() if line.startswith("error")]
        assert len(wrong) == 1
        assert "were given different flags" in wrong[0]


@pytest.mark.parametrize(
    ("said", "broken"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection reset by peer", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes", False),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_what_ends_a_process_itself_is_no_loss_of_another(said: str, broken: bool) -> None:
    assert hosts.is_broken(JaxRuntimeError(said)) == broken
    assert not hosts.is_broken(OSError("Gloo"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_waits_for_others_says_so_and_ends_by_a_signal(
    number: signal.Signals, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    address = free_address()
    more = ("--coordinator", address, "--num_processes", "3", "--process_id", "0")
    started.append(process := subprocess.Popen(command(tmp_path, tmp_path / "out", *more), **PIPES))
    assert process.stdout is not None
    assert process.stdout.readline() == f"waiting for the other 2 of 3 processes at {address}, up to 5 minutes\n"
    host, _, port = address.partition(":")
    ends = time.monotonic() + SLOW
    with socket.socket() as one:
        while one.connect_ex((host, int(port))):  # until it waits inside JAX
            assert time.monotonic() < ends
            time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(number)
    assert said([process]) == [f"stopped by signal {number.value}\n"]
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + number


def test_handlers_of_others_stay_while_a_process_waits() -> None:
    with handled():
        ours = signal.getsignal(signal.SIGTERM)
        with ending_at_once():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == ours
    before = signal.getsignal(signal.SIGINT)
    with ending_at_once():
        assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("there", ["127.0.0.1", ""])
def test_a_port_in_use_is_refused_by_process_0(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JAX would end in a segmentation fault."""
    with socket.create_server((there, 0)) as used:
        address = f"127.0.0.1:{used.getsockname()[1]}"
        assert main(flags(tmp_path, tmp_path, "--coordinator", address, "--num_processes", "2",
                          "--process_id", "0")) == 2  # fmt: skip
    assert f"--coordinator {address}: the port is in use on this host; name another" in shown(capsys)


def test_a_host_without_an_address_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    more = ("--coordinator", "nowhere.invalid:29400", "--num_processes", "2", "--process_id", "1")
    assert main(flags(tmp_path, tmp_path, *more)) == 2
    assert "error: --coordinator nowhere.invalid:29400: nowhere.invalid has no address (" in shown(capsys)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, in one line."""
    return " ".join(capsys.readouterr().err.split())


def test_an_evaluation_is_no_work_for_several(tmp_path: Path) -> None:
    more = ("--coordinator", "a:1", "--num_processes", "2", "--process_id", "1", "--eval", "True")
    assert main(flags(tmp_path, tmp_path, *more, "--ai_center", "ivfast.npy")) == 2


@whole_run
def test_what_process_0_refuses_ends_all(data: Path, tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    first, second = processes = start(started, data, tmp_path, "--nlist", "5000", "--param_list", "24", "5000")
    texts = said(processes)
    assert (first.returncode, second.returncode) == (2, 2)
    assert "fewer than --nlist 5000" in texts[0]
    assert "error: process 0 of this run has ended; it says why" in texts[1]


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        (("--coordinator", "a:1"), "--coordinator needs --num_processes and --process_id"),
        (("--process_id", "0"), "--process_id needs --coordinator and --num_processes"),
        (("--coordinator", "here", "--num_processes", "2", "--process_id", "0"), "expected HOST:PORT"),
        (("--coordinator", "a:b", "--num_processes", "2", "--process_id", "0"), "expected HOST:PORT"),
        (("--coordinator", "a:1", "--num_processes", "2", "--process_id", "2"), "--process_id 2: expected 0 to 1"),
        (
            ("--coordinator", "a:1", "--num_processes", "0", "--process_id", "0"),
            "--num_processes 0: expected 1 or more",
        ),
        (
            ("--coordinator", "a:1", "--num_processes", "2", "--process_id", "0", "--backend", "torch"),
            "JAX alone trains on several hosts",
        ),
        (
            ("--coordinator", "a:1", "--num_processes", "2", "--process_id", "0", "--dry_run", "True"),
            "leave it out with --eval True and with --dry_run True",
        ),
    ],
)
def test_flags_that_name_no_processes_are_refused(more: tuple[str, ...], wrong: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=wrong.replace("(", r"\(")):
        check_hosts(parse(flags(tmp_path, tmp_path, *more))[0])


def test_slurm_is_seen_where_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JAX sees it, a step of several tasks. From Python it is not asked: each task may train its own."""
    config = parse(flags(tmp_path, tmp_path))[0]
    assert not is_among_several(config, scheduled=True)
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "node[1-2]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert is_among_several(config, scheduled=True)
    assert not is_among_several(config, scheduled=False)
    assert not is_among_several(parse(flags(tmp_path, tmp_path, "--backend", "torch"))[0], scheduled=True)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert not is_among_several(config, scheduled=True)


PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").partition("## Training on several hosts")[2]
DATA_SET = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
BY_HAND, SLURM = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
KUBERNETES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[0]


@whole_run
def test_the_command_by_hand_is_executed(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    subprocess.run(
        [sys.executable, "-c", DATA_SET], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    data, address = tmp_path / "data", free_address()
    words = shlex.split(BY_HAND.replace("\\\n", " "))
    places = {"out": str(tmp_path / "out"), "data": str(data), "HOST:29400": address}
    for i in "01":
        command = [sys.executable, str(ROOT / "run_dcnet.py"), *(places.get(word, word) for word in words[1:-1]), i]
        started.append(subprocess.Popen(command, cwd=tmp_path, **PIPES))
    texts = said(started)
    assert [process.returncode for process in started] == [0, 0], texts
    assert (tmp_path / "out" / "ivfast.npy").is_file()


@whole_run
def test_under_slurm_processes_find_one_another(
    data: Path, alone: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """By the variables of a step of two tasks, which JAX reads."""
    subprocess.run(["/bin/bash", "-n"], input=SLURM.encode(), check=True)
    step = {"JOB_ID": str(os.getpid()), "STEP_NODELIST": "localhost", "NTASKS": "2", "STEP_NUM_NODES": "1"}
    for i in "01":
        more = {f"SLURM_{name}": value for name, value in (step | {"PROCID": i, "LOCALID": i}).items()}
        started.append(subprocess.Popen(command(data, tmp_path), env=os.environ | more, **PIPES))
    texts = said(started)
    assert [process.returncode for process in started] == [0, 0], texts
    assert "process 1 of 2 trains beside process 0" in texts[1]
    np.testing.assert_allclose(centers_of(tmp_path), centers_of(alone), rtol=0, atol=SAME)


def test_what_schedulers_are_told_are_flags() -> None:
    srun = shlex.split(SLURM[SLURM.index("srun") :].replace("\\\n", " "))
    assert (srun[0], srun[2]) == ("srun", "run_dcnet")
    under_slurm, by_hand = parse(srun[3:])[0], parse(shlex.split(BY_HAND.replace("\\\n", " "))[1:])[0]
    check_hosts(under_slurm)
    service, job = yaml.safe_load_all(KUBERNETES)
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] == service["spec"]["selector"]["job-name"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in pod["containers"][0]["args"]]
    config = parse(words)[0]
    check_hosts(config)
    for name in ("data_name", "learn_name", "nlist", "param_list", "epochs", "warmup", "batch_size", "percents"):
        assert getattr(config, name) == getattr(under_slurm, name) == getattr(by_hand, name)
    assert config.num_processes == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert config.coordinator == f"{job['metadata']['name']}-0.{pod['subdomain']}:29400"
