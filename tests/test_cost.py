"""The measurements of cost: stages and memory are told apart, sets are made alike, a sweep goes on where it ended."""

import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_job, growth_of_cost
from benchmarks.million import make_patches
from benchmarks.stages import Sampler, Stage, anonymous_mb, stages_of


def write_metrics(folder: Path, *stages: tuple[str, float], rest: str = "") -> None:
    lines = [json.dumps({"stage": name, "seconds": seconds}) for name, seconds in stages]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, json.dumps({"epoch": 1}), rest]))


def test_records_of_one_name_are_added_up_and_memory_is_that_before_each_ended(tmp_path: Path) -> None:
    write_metrics(tmp_path, ("training", 2.0), ("judging", 1.0), ("training", 3.0), rest='{"stage": "half wri')
    assert stages_of(tmp_path, {0: 100.0, 1: 50.0, 2: 200.0, 3: 999.0}) == [
        Stage("training", 2, 5.0, 200.0),
        Stage("judging", 1, 1.0, 50.0),
    ]


def test_memory_is_that_of_the_process(tmp_path: Path) -> None:
    status = Path(f"/proc/{os.getpid()}/status")
    before = anonymous_mb(status)
    block = np.ones(25_000_000)
    assert anonymous_mb(status) - before == pytest.approx(block.nbytes / 1e6, rel=0.1)
    assert anonymous_mb(tmp_path / "gone") == 0


def test_a_sampler_ends_when_told(tmp_path: Path) -> None:
    sampler = Sampler(os.getpid(), tmp_path / "metrics.jsonl")
    sampler.start()
    sampler.ended.set()
    sampler.join(5)
    assert not sampler.is_alive()


def test_patches_are_all_different_and_the_seed_s_own() -> None:
    base, query = make_patches(3000, 100, 1)
    assert base.shape == (3000, 64)
    assert query.shape == (100, 64)
    assert len(np.unique(np.concatenate([base, query]), axis=0)) == 3100
    assert np.array_equal(make_patches(3000, 100, 1)[0], base)


def test_people_are_of_unit_norm_and_images_of_one_lie_together(tmp_path: Path) -> None:
    gpu_job.people(tmp_path / "learn.npy", 60_001, 16, 1, 0)
    x = np.load(tmp_path / "learn.npy")
    assert x.shape == (60_001, 16)
    assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    first, second = x[:60_000:10], x[1:60_000:10]  # images of each
    assert (first * second).sum(axis=1).mean() > (first[:-1] * first[1:]).sum(axis=1).mean() + 0.4


@pytest.mark.whole_run
def test_a_sweep_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--kind", "patches", "--rows", "2000", "--nlist", "32", "--epochs", "1", "--folder", str(tmp_path)]
    growth_of_cost.main([*words, "--plot", str(tmp_path / "cost.png")])
    assert (tmp_path / "cost.png").is_file()
    (case,) = json.loads((tmp_path / "growth_of_cost_patches.json").read_text())
    seconds = growth_of_cost.seconds_of_groups(case)
    assert all(took > 0 for took in seconds.values())
    named = sum(stage["seconds"] for stage in case["stages"])
    assert sum(seconds.values()) - seconds["all"] == pytest.approx(named)  # every stage is in a group
    monkeypatch.setattr(growth_of_cost, "measure_case", None)  # a second measurement would fail
    growth_of_cost.main([*words, "--plot", str(tmp_path / "cost.png")])


def test_cases_with_too_few_vectors_a_bucket_are_left_out(tmp_path: Path) -> None:
    options = Namespace(folder=tmp_path, kind="patches", rows=[500], nlist=[32], seed=1, epochs=None, extra=[])
    assert growth_of_cost.sweep(options, tmp_path / "cases.json") == []


@pytest.mark.whole_run
def test_the_job_of_a_gpu_runs_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--gpu -1 --rows 2000 --nlist 32 --param_list 16 24 32 --out"
    gpu_job.main([*words.split(), str(tmp_path / "job.json")])
    found = json.loads((tmp_path / "job.json").read_text())
    assert found["finished"]
    names = {stage["name"] for stage in found["stages"]}
    assert names - set(found["growth"]) == {"settings of routers"}
    assert found["growth"]["judging"] > 20  # epochs alone
    assert "documented size" in capsys.readouterr().out
