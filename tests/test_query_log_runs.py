"""Whole runs with a log of queries: what is refused, what the log is worth, and that nothing else depends on it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ivfast
from ivfast.data import query_log
from ivfast.data.cleaning import AS_STORED, Cleaning
from ivfast.data.query_log import admit_log, note_known
from ivfast.data.vectors import Vectors, open_vectors
from ivfast.runtime.command_line import parse
from ivfast.runtime.errors import UserError
from ivfast.train.admit import admit_training
from ivfast.train.plan import Rates, Sizes, seconds_of_stages
from run_dcnet import main
from tests.conftest import Notes, points_of
from tests.query_logs import DIM, N, make_set, unit
from tests.runs import outputs, shared_runs
from tests.test_resume import stop_in

FLAGS = (
    "--data_name s --learn_name s/base --metric IP --nlist 32 --param_list 16 32 --niter 10 --epochs 4 --warmup 0 "
    "--batch_size 256 --lr 2e-3 --percents 0 0.8 --gpu -1 --backend torch"
)
whole_run = pytest.mark.whole_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_set`."""
    return make_set(tmp_path_factory.mktemp("data"))


def flags(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data_path", str(data), "--save_path", str(out), *FLAGS.split(), *more]


Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a run by its further flags."""
    return shared_runs(lambda out, *more: flags(data, out, *more), lambda: tmp_path_factory.mktemp("run"))


def told(out: Path) -> str:
    return (out / "train.log").read_text()


def results(out: Path) -> dict[tuple[str, str, float], dict[str, Any]]:
    """With fixed probing, by router, rule and copies."""
    found = json.loads((out / "evaluation.json").read_text())["results"]
    return {(r["router"], r["rule"], r["percent"]): r for r in found if r["probing"] == "fixed"}


# what is refused


def spoil(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def spoiled(log: np.ndarray) -> np.ndarray:
        log = log.copy()
        log[row] = value
        return log

    return spoiled


BAD: list[tuple[str, Callable[[np.ndarray], np.ndarray] | None, tuple[str, ...], str]] = [
    ("missing", None, (), r"error: query_log: .*log\.npy|error: no query_log at .*log\.npy"),
    ("dim", lambda log: log[:, :15], (), r"query_log: .*log\.npy has 15 columns, expected 16"),
    ("few", lambda log: log[:99], (), r"query_log: .*log\.npy has 99 rows, expected 100 or more"),
    ("alike", lambda log: np.repeat(log[:99], 3, axis=0), (), r"query_log: .*log\.npy has 99 different rows .* 100"),
    ("nan", spoil(3, np.nan), (), r"query_log: .*row 3 holds NaN"),
    ("zero", spoil(4, 0), (), r"query_log: .*row 4 is zero"),
    ("norm", lambda log: 2 * log, (), r"query_log: .*have norm 2"),
    ("few left", spoil(4, 0), ("--drop_bad_rows", "True"), r"query_log: .*log\.npy has 99 .*, expected 100 or more"),
    ("type", lambda log: log.astype(int), (), r"query_log: .*holds int64"),
]


DRY = ("missing", "dim", "few", "type")  # told without the rows, which a dry run does not read


@pytest.mark.parametrize(
    ("dry", "case"), [(False, case) for case in BAD] + [(True, case) for case in BAD if case[0] in DRY],
    ids=lambda value: value if isinstance(value, bool) else value[0],
)  # fmt: skip
def test_a_log_that_cannot_be_used_is_refused_in_one_line(
    dry: bool, case: tuple[str, Any, tuple[str, ...], str], data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    _, how, more, said = case
    shutil.copytree(data / "s", tmp_path / "s")
    if how is not None:
        np.save(tmp_path / "log.npy", how(np.load(data / "log.npy")[:100]))
    refused(flags(tmp_path, tmp_path / "out", "--query_log", "log", "--dry_run", str(dry), *more), said, capsys)
    assert not (tmp_path / "out" / "ivfast.npy").exists()


def refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run must end with one line that names the flag."""
    capsys.readouterr()
    assert main(words) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "query_log" in error
    assert re.search(said, error), error


@pytest.mark.parametrize("name", ["../log", "/log", ""])
def test_a_log_lies_below_the_data(name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(flags(data, tmp_path, "--query_log", name), "expected a name below --data_path", capsys)


def test_a_log_is_no_matter_of_an_evaluation(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    np.save(tmp_path / "x.npy", np.load(data / "s" / "base.npy")[:32])
    words = ("--query_log", "log", "--eval", "True", "--ai_center", str(tmp_path / "x.npy"))
    refused(flags(data, tmp_path / "out", *words), "leave it out with --eval True", capsys)


def test_a_log_is_not_written_over(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(data / "s", tmp_path / "s")
    shutil.copy(data / "log.npy", tmp_path / "ivfast.npy")
    before = (tmp_path / "ivfast.npy").read_bytes()
    refused(flags(tmp_path, tmp_path, "--query_log", "ivfast"), "would be written over", capsys)
    assert (tmp_path / "ivfast.npy").read_bytes() == before


def test_a_dry_run_takes_a_log(data: Path, tmp_path: Path) -> None:
    assert main(flags(data, tmp_path, "--query_log", "log", "--dry_run", "True")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]


def test_a_log_that_holds_queries_of_the_evaluation_is_warned_of() -> None:
    rng, notes = np.random.default_rng(2), Notes()
    log, query = (unit(rng.standard_normal((n, DIM))) for n in (300, 200))
    note_known(points_of(log, "IP"), points_of(query, "IP"), notes)
    assert notes.told == []
    log[[5, 100, 299]] = query[[0, 7, 199]]
    log[6] = query[9] + np.float32(1e-6)
    note_known(points_of(log, "IP"), points_of(query, "IP"), notes)
    (told,) = notes.told
    assert told.startswith("warning: query_log: 3 of its 300 queries are those of the evaluation too, ")
    with pytest.raises(UserError, match="all of its 200 queries are those of the evaluation too, expected others"):
        note_known(points_of(query, "IP"), points_of(query[::-1].copy(), "IP"), notes)


def test_a_run_warns_of_it_before_it_trains(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "s", tmp_path / "s")
    np.save(tmp_path / "log.npy", np.concatenate([np.load(data / "log.npy"), np.load(data / "s" / "query.npy")[7:9]]))
    notes = Notes()
    admit_training(parse(flags(tmp_path, tmp_path / "out", "--query_log", "log"))[0], notes)
    assert any(told.startswith("warning: query_log: 2 of its 1,502 queries are those of") for told in notes.told)


# what of a log is used


def admitted(path: Path, cleaning: Cleaning = AS_STORED, metric: str = "IP") -> tuple[Vectors, list[str]]:
    notes = Notes()
    return admit_log(open_vectors(path, "query_log", DIM), metric, cleaning, notes), notes.told


def test_twins_in_a_log_count_once_and_no_more_are_used_than_20000(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert query_log.MOST == 20_000
    log = unit(np.random.default_rng(2).standard_normal((700, DIM)))
    log[500:] = log[:200]
    np.save(tmp_path / "log.npy", log)
    found, notes = admitted(tmp_path / "log.npy")
    np.testing.assert_array_equal(found.raw(slice(None)), log[:500])
    assert notes[-1] == "query_log: 500 different queries of 700 are used"
    monkeypatch.setattr(query_log, "MOST", 101)
    few = admitted(tmp_path / "log.npy")[0].raw(slice(None))
    np.testing.assert_array_equal(few, log[[int(499 * i / 100) for i in range(101)]])  # evenly over all of them


def test_a_log_is_cleaned_as_learn_is(tmp_path: Path) -> None:
    log = np.random.default_rng(2).standard_normal((300, DIM)).astype(np.float32)
    log[7], log[9, 3] = 0, np.nan
    np.save(tmp_path / "log.npy", log)
    with pytest.raises(UserError, match="row 9 holds NaN"):
        admitted(tmp_path / "log.npy", Cleaning(normalize=True))
    found, _ = admitted(tmp_path / "log.npy", Cleaning(normalize=True, drop=True))
    np.testing.assert_allclose(found.raw(slice(None)), unit(np.delete(log, [7, 9], axis=0)), atol=1e-6)
    log[9, 3] = 1e6
    np.save(tmp_path / "log.npy", log)
    found, _ = admitted(tmp_path / "log.npy", metric="L2")
    np.testing.assert_array_equal(found.raw(slice(None)), np.delete(log, 9, axis=0))  # it lies far from all others


# whole runs


@whole_run
def test_a_log_that_helps_trains_and_less_is_scanned(runs: Runs, data: Path) -> None:
    plain, logged = runs(), runs("--query_log", "log")
    assert "the log trains, and tells who asks" in told(logged)
    assert "query_log: 1,125 queries train, with 2,875 drawn like them, 375 are held out" in told(logged)
    for copies, most in ((0.0, 0.9), (0.8, 0.8)):  # seen: 0.84 and 0.75
        with_it, without = (results(out)["centers", "benefit", copies]["scanned_at"]["0.90"] for out in (logged, plain))
        assert with_it < most * without
    warned = "warning: queries are of another kind than what is stored"
    assert warned in told(plain)
    assert warned not in told(logged)
    assert "are those of the evaluation too" not in told(logged)
    assert [json.loads((out / "data.json").read_text())["logged"] for out in (plain, logged)] == [False, True]
    kept = load_file(logged / "dcnet.safetensors")["log"]
    assert "log" not in load_file(plain / "dcnet.safetensors")
    np.testing.assert_allclose(kept, np.load(data / "log.npy"), atol=2e-7)  # of unit norm once more


@whole_run
@pytest.mark.parametrize("more", [("--metric", "L2"), ("--backend", "jax"), ("--backend", "jax", "in blocks")])
def test_a_log_helps_by_either_metric_and_backend_and_in_blocks(
    more: tuple[str, ...], runs: Runs, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Beside the plain run above; of unit norm as all rows are, L2 ranks them as IP does."""
    if more[-1] == "in blocks":
        request.getfixturevalue("in_blocks")
    assert main(flags(data, tmp_path, "--query_log", "log", *more[:2])) == 0
    assert "the log trains, and tells who asks" in told(tmp_path)
    for copies, most in ((0.0, 0.9), (0.8, 0.8)):  # seen: 0.81 to 0.83, 0.66 to 0.71
        found = (results(out)["centers", "benefit", copies]["scanned_at"]["0.90"] for out in (tmp_path, runs()))
        with_it, without = found
        assert with_it < most * without


@whole_run
def test_a_plan_names_the_stages_of_a_run_with_a_log(runs: Runs) -> None:
    logged = runs("--query_log", "log")
    lines = map(json.loads, (logged / "metrics.jsonl").read_text().splitlines())
    ran = {line["stage"] for line in lines if "stage" in line}
    planned = seconds_of_stages(
        Sizes(N, N, 400, (DIM, 32), 4, 256, in_sample=True, n_logged=1500), Rates(1e11, 0.1, 1.0, 1e9)
    )
    assert ran - set(planned) == {"settings of routers"}


@whole_run
def test_a_log_that_says_nothing_changes_nothing(runs: Runs) -> None:
    plain, noise = runs(), runs("--query_log", "noise")
    assert re.search(r"warning: query_log: k-means' buckets .* the log is not used; log more queries", told(noise))
    assert "warning: queries are of another kind than what is stored" in told(noise)
    assert (plain / "ivfast.npy").read_bytes() == (noise / "ivfast.npy").read_bytes()
    one, other = (load_file(out / "dcnet.safetensors") for out in (plain, noise))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert outputs(plain)["results"] == outputs(noise)["results"]


@whole_run
def test_centers_that_a_log_trained_are_evaluated_again_to_the_same(runs: Runs, data: Path, tmp_path: Path) -> None:
    logged = runs("--query_log", "log")
    words = ("--eval", "True", "--ai_center", str(logged / "ivfast.npy"))
    assert main(flags(data, tmp_path, *words)) == 0
    assert outputs(logged)["results"] == json.loads((tmp_path / "evaluation.json").read_text())["results"]


@whole_run
def test_a_run_with_a_log_is_resumed_to_the_same_bytes(
    runs: Runs, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not with another log, be it one of that name."""
    shutil.copytree(data, tmp_path / "data")
    words = flags(tmp_path / "data", tmp_path / "out", "--query_log", "log")
    with monkeypatch.context() as patch:
        stop_in(patch, 2, 0)
        assert main(words) == 143
    refused([*words, "--resume", "True", "--query_log", "noise"], "of another configuration: --query_log noise", capsys)
    log = np.load(data / "log.npy")
    np.save(tmp_path / "data" / "log.npy", log[:-1])
    refused([*words, "--resume", "True"], "of another configuration: the vectors of learn or of --query_log", capsys)
    np.save(tmp_path / "data" / "log.npy", log)
    assert main([*words, "--resume", "True"]) == 0
    assert outputs(tmp_path / "out") == outputs(runs("--query_log", "log"))


@whole_run
@pytest.mark.parametrize("kind", ["Flat", "SQ8"])
def test_an_index_finds_what_is_asked_for_by_queries_like_the_logged_ones(kind: str, runs: Runs, data: Path) -> None:
    """Calibrated on vectors of base it would not."""
    base, query, gt = (np.load(data / "s" / f"{name}.npy") for name in ("base", "query", "gt"))
    index = ivfast.load(runs("--query_log", "log")).index(base, 0.8, kind)
    for one in index.evaluate(query, gt):
        assert one.recall == pytest.approx(one.asked, abs=0.03)  # of 400 queries and 375 logged ones


@whole_run
def test_a_base_is_stored_later_as_the_run_has_stored_it(runs: Runs, data: Path) -> None:
    out = runs("--query_log", "log")
    base = np.load(data / "s" / "base.npy")
    for copies in (0.0, 0.8):
        placed = ivfast.load(out).store(base, copies)
        sizes = np.bincount(placed[1], minlength=32)
        evaluated = results(out)["centers", "benefit", copies]
        assert (sizes.sum(), sizes.max()) == (evaluated["entries"], evaluated["largest"])
        for name, size in evaluated["sizes"].items():
            assert np.percentile(sizes, float(name[1:])) == pytest.approx(size)
