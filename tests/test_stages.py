"""Times of the stages of a run in metrics.jsonl: one record each, and together no more than the run took."""

import json
import re
import time
from pathlib import Path

import pytest

from ivfast.runtime.progress import Progress, silent
from run_dcnet import main
from tests.runs import flags, make_data

STATUS = Path("/proc/self/status")


def records(folder: Path) -> list[tuple[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["stage"], line["seconds"]) for line in lines if "stage" in line]


def test_a_stage_leaves_its_name_and_its_seconds(tmp_path: Path) -> None:
    with Progress(tmp_path, silent().console).stage("k-means"):
        time.sleep(0.05)
    ((name, seconds),) = records(tmp_path)
    assert name == "k-means"
    assert 0.05 <= seconds < 1


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells it in a file")
def test_a_stage_leaves_the_most_memory_held_so_far(tmp_path: Path) -> None:
    with Progress(tmp_path, silent().console).stage("k-means"):
        pass
    kib = int(re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[0])
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["peak_gb"] == pytest.approx(kib * 1024 / 1e9, rel=0.02, abs=0.01)


def test_seconds_of_stages_within_a_stage_are_counted_once(tmp_path: Path) -> None:
    progress = Progress(tmp_path, silent().console)
    with progress.stage("training"):
        with progress.stage("checkpoints"), progress.stage("hashing"):
            time.sleep(0.2)
        with progress.stage("checkpoints"):
            time.sleep(0.1)
    found = records(tmp_path)
    assert [name for name, _ in found] == ["hashing", "checkpoints", "checkpoints", "training"]
    assert found[0][1] >= 0.2
    assert found[2][1] >= 0.1
    assert found[1][1] < 0.1
    assert found[3][1] < 0.1


def test_a_stage_that_is_cut_short_leaves_no_record_and_spoils_no_other(tmp_path: Path) -> None:
    progress = Progress(tmp_path, silent().console)

    def break_off() -> None:
        with progress.stage("report"):
            time.sleep(0.1)
            raise KeyError

    with progress.stage("evaluation"), pytest.raises(KeyError):
        break_off()
    ((name, seconds),) = records(tmp_path)
    assert name == "evaluation"
    assert seconds >= 0.1  # that time belongs to nobody else


def test_a_run_leaves_a_record_of_each_stage(tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", n_identities=60, n_query=40), tmp_path / "out"
    started = time.monotonic()
    assert main(flags(data, out, "--epochs", "2", "--param_list", "24", "32")) == 0
    took = time.monotonic() - started
    found = records(out)
    assert sum(seconds for _, seconds in found) <= took
    names = [name for name, _ in found]
    assert names.count("training") == names.count("judging") == 2
    assert dict.fromkeys(names) == dict.fromkeys((
        "checking files", "k-means", "neighbours of learn", "held-out answers", "kinship", "measuring buckets",
        "first judgement", "training", "judging", "checkpoints", "choosing", "fitting facts", "writing the model",
        "settings of routers", "neighbours of base", "nearest of vectors of base", "assigning base, kmeans",
        "searching, kmeans", "assigning base, centers", "searching, centers", "report",
    ))  # fmt: skip
