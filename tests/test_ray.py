"""The same over Ray: bytes are those of one process, whichever process or host is lost on the way."""

import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from ivfast.front.command_line import main, parse
from ivfast.runtime.errors import RunError, StopRequestedError, UserError
from ivfast.runtime.progress import silent
from ivfast.runtime.signals import handled
from ivfast.spread.maps import Failed, OnRay, Spread, spread_over
from ivfast.spread.queries import exact_answers
from ivfast.spread.store import Wishes, store_files
from tests.many_files import CUTS, base_of, copied, same
from tests.runs import ROOT
from tests.test_index import make_rows
from tests.test_spread import brute

ray: Any = pytest.importorskip("ray")
pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("spread")]
STORE = 100 << 20  # bytes of the object store
BOTH = ("faiss", "parquet")


@pytest.fixture(scope="module")
def two() -> Iterator[Spread]:
    with spread_over("local", cores=2, object_store_memory=STORE) as over:
        yield over


def tasks() -> dict[int, str]:
    """The tasks at work on this host, by their process."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and "IDLE" not in title:
            found[process.pid] = title.removeprefix("ray::")
    return found


@contextmanager
def killer(titles: list[str]) -> Iterator[list[str]]:
    """Kills the first process that is seen at each of some stages; gives those whose process was killed."""
    killed: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for pid, title in tasks().items():
                stage = next((one for one in titles if title.startswith(one)), None)
                if stage and stage not in killed:
                    os.kill(pid, 9)
                    killed.append(stage)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


ALONE = """
import os, subprocess, sys
from ivfast.spread.maps import spread_over
JOIN = "import ray; ray.init(sys.argv[1], log_to_driver=False)"
with spread_over("local", cores=1, object_store_memory=100 << 20):
    import ray
    address = ray.get_runtime_context().gcs_address
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", f"import sys; {JOIN}", address]
    done = subprocess.run(command, env=others, capture_output=True, text=True)
    print(done.returncode != 0 and "AuthenticationError" in done.stderr)
print(any(name.startswith("RAY_AUTH") for name in os.environ))
with spread_over("local", cores=1, object_store_memory=100 << 20) as over:
    print(*over.each(max, 1, [2], "once more"))
ray.init(num_cpus=1, object_store_memory=100 << 20)
print(ray.get(ray.remote(lambda: 4).remote()))
"""


def test_a_cluster_of_our_own_takes_tasks_from_nobody_else(tmp_path: Path):
    """And leaves nothing of that behind: the program's own Ray starts after it."""
    words, env = [sys.executable, "-c", ALONE], os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-4:] == ["True", "False", "(0, 2)", "4"]


def test_two_processes_store_what_one_stores(two: Spread, tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any):
    stored = store_files(fit_of("L2"), tmp_path, Wishes(files_of("L2"), 0.8, formats=BOTH), two, silent())
    assert stored == one_of("L2")[1]
    assert same(tmp_path, one_of("L2")[0])
    assert store_files(fit_of("L2"), tmp_path, Wishes(files_of("L2"), 0.8, formats=BOTH), two, silent()).ranked == 0


def test_a_process_killed_in_each_pass_costs_nothing(
    two: Spread, tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any
):
    passes = ["ranking", "filling lists", "writing Parquet", "exact answers"]
    with killer(passes) as killed:
        store_files(fit_of("IP"), tmp_path, Wishes(files_of("IP"), 0.8, formats=BOTH), two, silent())
    assert sorted(killed) == sorted(passes)
    assert same(tmp_path, one_of("IP")[0])


def test_exact_answers_are_those_of_brute_force(two: Spread, fit_of: Any, files_of: Any):
    query = make_rows(50, 9, "IP")
    found = exact_answers(fit_of("IP"), files_of("IP"), None, query, 10, two, silent())
    np.testing.assert_array_equal(found.ids, brute(query, base_of("IP"), 10, "IP")[1])


def test_a_damaged_file_stops_no_other(two: Spread, tmp_path: Path, files_of: Any, fit_of: Any, one_of: Any):
    words = [copied(path, tmp_path) for path in files_of("L2")]
    whole = Path(words[3]).read_bytes()
    Path(words[3]).write_bytes(whole[:-4])
    wishes = Wishes([f"file://{word}" for word in words], 0.8, formats=BOTH)
    with pytest.raises(Exception, match=r"1 of 8 files .*part-3\.npy"):
        store_files(fit_of("L2"), tmp_path / "out", wishes, two, silent())
    assert len(list((tmp_path / "out" / "parts").glob("ranks-*"))) >= 7
    Path(words[3]).write_bytes(whole)
    assert store_files(fit_of("L2"), tmp_path / "out", wishes, two, silent()).ranked == CUTS[4] - CUTS[3]
    assert same(tmp_path / "out", one_of("L2")[0])


def kills_itself(given: Any, item: Any) -> None:
    del given, item
    os.kill(os.getpid(), 9)


def is_wrong(given: Any, item: Any) -> None:
    raise ZeroDivisionError(f"{given} {item}")


def test_what_kills_every_process_ends_in_a_line(two: OnRay, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ivfast.spread.maps.TRIES", 1)
    ((number, found),) = two.each(kills_itself, 0, ["only"], "killing")
    assert number == 0
    assert isinstance(found, Failed)
    assert found.text.startswith("Ray lost its task 2 times")


def test_a_host_that_lacks_a_module_is_told_in_one_line(two: OnRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """This process has one that those of Ray, started before, do not find."""
    (tmp_path / "only_here.py").write_text("def work(given, item):\n    return item\n")
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("only_here").work
    with pytest.raises(RunError, match=r"^a host of the cluster can't import"):
        list(two.each(work, None, [1], "lacking"))


def test_a_fault_of_ours_is_raised(two: OnRay):
    with pytest.raises(ZeroDivisionError, match="given item"):
        list(two.each(is_wrong, "given", ["item"], "failing"))


def sleeps(given: Any, item: float) -> None:
    del given
    time.sleep(item)


def test_a_signal_ends_the_work_at_once(two: OnRay):
    started = time.monotonic()
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with handled(), pytest.raises(StopRequestedError):
        list(two.each(sleeps, None, [60.0], "sleeping"))
    assert time.monotonic() - started < 30


def test_without_ray_its_flag_ends_in_one_line(
    fit_of: Any, files_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ["index", str(fit_of("L2")), *files_of("L2"), "--out", str(tmp_path / "out"), "--ray"]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*words, "local"]) == 2
    assert "--ray: Ray is not installed: pip install 'ivfast[ray]', or leave the flag out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "told"), [("127.0.0.1:1", "Connection refused"), ("here:there", "invalid literal")]
)
def test_an_address_where_nobody_listens_ends_in_one_line(
    address: str, told: str, fit_of: Any, files_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["index", str(fit_of("L2")), *files_of("L2"), "--out", str(tmp_path / "out"), "--ray", address]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"--ray {address}: no cluster can be reached or started (" in said
    assert told in said
    assert said.count("\n") == 1


def test_what_lies_in_one_process_is_no_base_for_others(
    two: Spread, fit_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    del two  # it is running: nothing is asked of it
    words = ["index", str(fit_of("L2")), "memory://bucket/*.npy", "--out", str(tmp_path / "out"), "--ray", "local"]
    assert main(words) == 2
    assert "memory://bucket/*.npy lies in the memory of this process" in capsys.readouterr().err


def test_a_token_that_is_not_the_clusters_is_told(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise ray.exceptions.AuthenticationError("Authentication token is missing or incorrect")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        told = r"\(Authentication token is missing .*with the token \(~/.ray/auth_token\) or RAY_AUTH_MODE of this host"
        with pytest.raises(UserError, match=told), spread_over(address):
            pass


PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SAMPLE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
FIRST, BY_HAND, SLURM = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)[:3]
MANIFEST = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[0]


@pytest.fixture
def laptop(tmp_path: Path, files_of: Any) -> Path:
    """A folder with the files of the page, whose commands are this checkout's."""
    (tmp_path / "parts").mkdir()
    for path in files_of("L2")[:3]:
        shutil.copy2(path, tmp_path / "parts")
    np.save(tmp_path / "query.npy", make_rows(50, 9, "L2"))
    command = tmp_path / "ivfast"
    command.write_text(f'#!/bin/bash\nexec {sys.executable} -m ivfast "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(laptop: Path, script: str) -> str:
    """What a script says. One core is enough for it."""
    more = {"PATH": f"{laptop}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["/bin/bash", "-ec", script], cwd=laptop, env=os.environ | more, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_commands_of_the_page_do_what_it_says(laptop: Path):
    run(laptop, f"python -c '{SAMPLE.replace('::10', '::2')}'")
    said = run(laptop, FIRST.replace("fit sample.npy", "fit sample.npy --epochs 1"))
    assert f"{CUTS[3]:,} vectors, {CUTS[3] + round(0.8 * CUTS[3]):,} entries" in said
    assert "50 queries with their 10 nearest" in said
    np.testing.assert_array_equal(
        np.load(laptop / "gt.npy"), brute(make_rows(50, 9, "L2"), base_of("L2")[: CUTS[3]], 10, "L2")[1]
    )


def test_hosts_are_joined_by_hand_as_the_page_says(laptop: Path, fit_of: Any, monkeypatch: pytest.MonkeyPatch):
    """Two hosts on loopback, which are ended by their process: `ray stop` ends all others too."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head, other, index, stop = (line.partition("#")[0].strip() for line in BY_HAND.splitlines())
    assert stop == "ray stop"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (laptop / "fit").symlink_to(fit_of("L2"))
    small = f" --block --num-cpus 1 --object-store-memory {STORE} --include-dashboard False --disable-usage-stats"
    hosts = []
    try:
        for line in (f"{head} --node-ip-address 127.0.0.1", other):
            words = (line.replace("6379", port).replace("HEAD", "127.0.0.1") + small).split()
            command = [Path(sys.executable).with_name("ray"), *words[1:]]
            with (laptop / "ray.log").open("ab") as log:
                hosts.append(
                    subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)})
                )
            deadline = time.monotonic() + 60
            while not is_open(int(port)) and time.monotonic() < deadline:
                time.sleep(0.1)
        said = run(laptop, index.replace("HEAD:6379", f"127.0.0.1:{port}"))
        assert f"{CUTS[3]:,} vectors" in said
    finally:
        for host in reversed(hosts):
            host.terminate()
            host.wait(timeout=60)


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_script_and_manifest_of_the_page_are_well_formed():
    subprocess.run(["/bin/bash", "-n"], input=SLURM.encode(), check=True)
    job = yaml.safe_load(MANIFEST)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    pods = job["spec"]["rayClusterSpec"]
    assert pods["headGroupSpec"]["template"] == pods["workerGroupSpecs"][0]["template"]
    in_manifest = shlex.split(shlex.split(job["spec"]["entrypoint"])[2])
    in_script = SLURM.partition(" -- ")[2].replace("\\\n", " ").split()
    for words in (in_manifest, in_script):
        options = parse(words[1:])
        assert (options.ray, len(options.base)) == ("auto", 1)
    from ray.scripts.symmetric_run import symmetric_run  # the script's command is there

    assert {"address", "min_nodes"} <= {option.name for option in symmetric_run.params}


@pytest.fixture
def cluster(two: Spread) -> Iterator[Any]:
    """A head of one core. Ray takes one cluster at a time."""
    from ray.cluster_utils import Cluster

    del two
    ray.shutdown()
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.filterwarnings("ignore:.*fork")  # as Ray's own tool starts a host
def test_a_host_that_is_lost_costs_nothing(cluster: Any, tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any):
    """Last in this file: it ends the cluster of the others."""
    host, lost = cluster.add_node(num_cpus=1, object_store_memory=STORE), []

    def lose() -> None:
        while not list(tmp_path.glob("parts/ranks-*")):  # its tasks are under way
            time.sleep(0.01)
        cluster.remove_node(host, allow_graceful=False)
        lost.append(host)

    thread = threading.Thread(target=lose)
    with spread_over(cluster.address) as over:
        assert ray.cluster_resources()["CPU"] == 2
        thread.start()
        store_files(fit_of("IP"), tmp_path, Wishes(files_of("IP"), 0.8, formats=BOTH), over, silent())
        thread.join()
        deadline = time.monotonic() + 60
        while ray.cluster_resources()["CPU"] > 1 and time.monotonic() < deadline:  # it is told late
            time.sleep(0.1)
        assert ray.cluster_resources()["CPU"] == 1
    assert lost
    assert same(tmp_path, one_of("IP")[0])
