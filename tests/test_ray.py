"""The same over Ray: bytes are those of one process, whichever process or host is lost on the way."""

import os
import shutil
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

from ivfast.front.command_line import main
from ivfast.runtime.progress import silent
from ivfast.spread.maps import Failed, OnRay, Spread, spread_over
from ivfast.spread.queries import exact_answers
from ivfast.spread.store import Wishes, store_files
from tests.many_files import CUTS, base_of, same
from tests.test_index import make_rows
from tests.test_spread import brute

ray: Any = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.whole_run, pytest.mark.xdist_group("spread"),
    pytest.mark.filterwarnings("ignore:lance is not fork-safe"),  # other tests have loaded it before Ray starts
]  # fmt: skip
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
    words = [shutil.copy2(path, tmp_path) for path in files_of("L2")]
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


def test_a_fault_of_ours_is_raised(two: OnRay):
    with pytest.raises(ZeroDivisionError, match="given item"):
        list(two.each(is_wrong, "given", ["item"], "failing"))


def test_without_ray_its_flag_ends_in_one_line(
    fit_of: Any, files_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ["index", str(fit_of("L2")), *files_of("L2"), "--out", str(tmp_path / "out"), "--ray"]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*words, "local"]) == 2
    assert "--ray: Ray is not installed: pip install 'ivfast[ray]', or leave the flag out" in capsys.readouterr().err


def test_what_lies_in_one_process_is_no_base_for_others(
    two: Spread, fit_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    del two  # it is running: nothing is asked of it
    words = ["index", str(fit_of("L2")), "memory://bucket/*.npy", "--out", str(tmp_path / "out"), "--ray", "local"]
    assert main(words) == 2
    assert "memory://bucket/*.npy lies in the memory of this process" in capsys.readouterr().err


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
        assert ray.cluster_resources()["CPU"] == 1
    assert lost
    assert same(tmp_path, one_of("IP")[0])
