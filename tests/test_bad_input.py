"""Bad input ends before any training: exit code 2, one line, nothing written but the log."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ivfast.data import intake
from ivfast.data.synthetic import make_faces, save_set
from ivfast.runtime.files import file_hash
from ivfast.store.dcnet_file import SCHEMA
from run_dcnet import main

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--data_name faces --learn_name learn_faces --nlist 8 --param_list 12 8 --niter 5 --epochs 2 --warmup 1 "
    "--lr 2e-3 --percents 0 0.8 --gpu -1"
)
PARTS = {"learn": "learn_faces", "base": "faces/base", "query": "faces/query", "gt": "faces/gt"}
Change = Callable[[np.ndarray], Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """500 learn vectors, 450 base vectors, 50 queries of 12 dims."""
    save_set(tmp_path / "data", "faces", *make_faces(5, n_identities=50, images=10, dim=12, n_query=50))
    return tmp_path / "data"


def start(data: Path, *more: str) -> list[str]:
    return ["--data_path", str(data), "--save_path", str(data.parent / "out"), *FLAGS.split(), *more]


def change(data: Path, part: str, how: Change) -> Path:
    path = data / f"{PARTS[part]}.npy"
    found = how(np.load(path))
    if isinstance(found, bytes):
        path.write_bytes(found)
    elif found is None:
        path.unlink()
    else:
        np.save(path, found, allow_pickle=True)
    return path


def refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of a run that must not begin."""
    out = Path(flags[flags.index("--save_path") + 1])
    began = time.monotonic()
    assert main(flags) == 2
    assert time.monotonic() - began < 20  # under 0.1 s seen; 2 s where it imports a backend
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning: ", "--"))]
    errors = [line for line in errors if "rows dropped" not in line and not line.startswith("gt: its first")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    if out.is_dir():
        assert {path.name for path in out.iterdir()} <= {"train.log", "metrics.jsonl"}
    return errors[0]


def put(array: np.ndarray, row: int | slice, value: object, column: int | None = None) -> np.ndarray:
    array = array.copy()
    array[row, slice(None) if column is None else column] = value
    return array


def gone(_: np.ndarray) -> None:
    """The file is removed."""


FILES: list[tuple[str, Change, str]] = [
    ("learn", lambda a: a.astype(object), "Python objects"),
    ("base", lambda a: a.tobytes(), "no readable .npy"),
    ("base", lambda a: a[:0].tobytes(), "is empty"),
    ("gt", lambda a: a.astype(object), "Python objects"),
    ("gt", lambda a: b"\x93NUMPY\x01\x00\xff\xff{" + a.tobytes(), "a header of 65535 bytes"),
    ("learn", lambda a: a[0], r"shape \(12,\), expected \(rows, columns\)"),
    ("query", lambda a: a[None], r"shape \(1, 50, 12\)"),
    ("base", lambda a: a[:0], r"shape \(0, 12\)"),
    ("learn", lambda a: (a * 100).astype(np.int8), "holds int8, expected float32"),
    ("query", lambda a: a.astype(np.complex64), "holds complex64, expected float32"),
    ("base", lambda a: a > 0, "holds bool, expected float32"),
    ("learn", lambda a: put(a, 400, np.nan, 3), r"row 400 holds NaN.*--drop_bad_rows True"),
    ("base", lambda a: put(put(a, 7, np.inf), 3, np.nan, 0), r"rows 3, 7 hold NaN"),
    ("query", lambda a: put(a, slice(10, 30), -np.inf, 1), r"rows 10, 11, 12, 13, 14 \(and 15 more\) hold NaN"),
    ("learn", lambda a: put(a, slice(1, 3), 0), r"rows 1, 2 are zero.*--drop_bad_rows True"),
    ("query", lambda a: put(a, 49, 0), r"row 49 is zero"),
    ("base", lambda a: a * 2, r"rows 0, 1, 2, 3, 4 \(and 445 more\) have norm 2, expected 1.*--normalize True"),
    ("learn", lambda a: a[:, :7], r"7 columns, expected 12 \(the first number of --param_list"),
    ("base", lambda a: a[:, :7], "7 columns, expected 12"),
    ("query", lambda a: np.c_[a, a], "24 columns, expected 12"),
    ("learn", lambda a: a[:7], "has 7 vectors, fewer than --nlist 8"),
    ("learn", lambda a: a[:9], "too few for --ftopk 8"),
    ("learn", lambda a: np.tile(a[:7], (60, 1)), "7 distinct vectors among 420, fewer than --nlist 8"),
    ("gt", lambda a: a.astype(np.float64), "holds float64, expected int64"),
    ("gt", lambda a: put(a, 3, 450, 8), "row 3 holds 450, expected offsets 0 to 449"),
    ("gt", lambda a: put(a, 5, -2, 0), "row 5 holds -2, expected offsets"),
    ("gt", lambda a: put(a.astype(np.uint64), 5, 2**64 - 1, 0), "row 5 holds 18446744073709551615"),
    ("gt", lambda a: put(a, 9, 17), "row 9 names 17 more than once"),
    ("gt", lambda a: a[1:], r"has 49 rows, expected 50 \(one per query\)"),
    ("gt", lambda a: a * 0 - 1, "names no right answer"),
    *((part, gone, "is missing; .* holds ") for part in PARTS),
]  # fmt: skip


@pytest.mark.parametrize(("part", "how", "told"), FILES)
def test_wrong_file_is_refused_by_name(
    part: str, how: Change, told: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = change(data, part, how)
    error = refused(start(data), capsys)
    if "--ftopk" not in told:
        assert error.startswith(f"error: {part}: {path} ")
    assert re.search(told, error), error
    assert ";" in error  # what to do


CUT: list[Callable[[bytes], bytes]] = [lambda b: b[:-4], lambda b: b + b"\0", lambda b: b[:40], lambda b: b"!" + b[1:]]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", CUT, ids=["truncated", "trailing", "header cut", "magic"])
def test_damaged_file_is_refused_by_name(
    part: str, how: Callable[[bytes], bytes], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / f"{PARTS[part]}.npy"
    path.write_bytes(how(path.read_bytes()))
    assert refused(start(data), capsys).startswith(f"error: {part}: {path} ")


def test_all_missing_files_are_named_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("learn", "query", "gt"):
        change(data, part, gone)
    error = refused(start(data), capsys)
    assert error.startswith("error: learn, query, gt: ")
    assert f"{data / 'faces'} holds base.npy" in error
    error = refused(start(data, "--data_name", "facs"), capsys)
    assert f"the folder {data / 'facs'} does not exist" in error
    assert "faces/" in error


WORDS: list[tuple[str, str]] = [
    ("--data_name /etc", "--data_name /etc: expected a name below --data_path"),
    ("--data_name ../data/faces", "without '..'"),
    ("--learn_name faces/../learn_faces", "without '..'"),
    ("--learn_name /learn_faces", "--learn_name /learn_faces: expected a name below"),
    ("--learnname x", "did you mean --learn_name?"),
    ("--n-list=9", "did you mean --nlist?"),
    ("--zzz 1", "--help lists all"),
    ("--use_drop true", "--use_drop: 'true': expected True or False"),
    ("--normalize 1", "--normalize: '1': expected True or False"),
    ("--lr -0.1", "--lr -0.1: expected a number above 0"),
    ("--lr nan", "--lr nan: expected a number above 0"),
    ("--lr fast", "--lr: invalid float value: 'fast'"),
    ("--lr 1e30", "--lr 1e+30: expected a number above 0, at most 1000"),
    ("--epochs 100000", "--epochs 100000: expected at most 99999"),
    ("--epochs 99999999999", "--epochs 99999999999: expected at most 99999"),
    ("--warmup 99999999999", "--warmup 99999999999: expected at most 99999"),
    ("--start_epoch 100000", "--start_epoch 100000: expected at most 99999"),
    ("--scale 33554432", "--scale 33554432: expected at most 16777216"),
    ("--scale 4294967296", "--scale 4294967296: expected at most 16777216"),
    ("--scale 1000", "--scale 1000: expected a power of two from 1 to 16777216"),
    ("--scale 0", "--scale 0: expected 1 or more"),
    ("--checkpoint_minutes inf", "--checkpoint_minutes inf: expected a number above 0"),
    ("--batch_size 2049", "--batch_size 2049: learn has only 500 vectors"),
    ("--start_epoch 1", "no checkpoint of the end of epoch 1"),
    ("--drop_prop 1.0", "--drop_prop 1: expected 0 <= drop_prop < 1"),
    ("--drop_prop -0.1", "--drop_prop -0.1: expected"),
    ("--drop_prop nan", "--drop_prop nan: expected"),
    ("--percents 0 7.5", "--percents 7.5: expected 0 to 7"),
    ("--percents -1", "--percents -1: expected 0 to 7"),
    ("--percents nan", "--percents nan: expected 0 to 7"),
    ("--percents 0 3 --ftopk 3", "--percents 3: expected 0 to 2"),
    ("--nprobes 0 1", "--nprobes 0: expected 1 to nlist"),
    ("--nprobes 1 9", "--nprobes 9 is above nlist 8"),
    ("--ftopk 9", "--ftopk 9 is above nlist 8"),
    ("--ftopk 0", "--ftopk 0: expected 1 or more"),
    ("--nlist 499 --param_list 12 499 --ftopk 480", "too few for --ftopk 480"),
    ("--nlist 501 --param_list 12 501 --ftopk 500", "fewer than --nlist 501"),
    ("--nlist 99999999999 --param_list 12 99999999999", "--nlist 99999999999: expected at most 2147483647"),
    ("--param_list 12 4294967296 8", "--param_list 4294967296: expected widths of at most 2147483647"),
    ("--seed 4294967296", "--seed 4294967296: expected at most"),
    ("--metric cosine", "--metric: invalid choice: 'cosine', expected IP or L2; use --metric IP --normalize True"),
    ("--metric angular", "expected IP or L2; use --metric IP --normalize True"),
    ("--metric ip", "--metric: invalid choice: 'ip', expected IP or L2; use --metric IP"),
    ("--metric dot", "expected IP or L2; use --metric IP"),
    ("--metric l2", "expected IP or L2; use --metric L2"),
    ("--metric Euclidean", "expected IP or L2; use --metric L2"),
    ("--metric hamming", "--metric: invalid choice: 'hamming', expected IP or L2; correct it"),
    ("--metric L2 --normalize True", "--normalize True with --metric L2: expected --metric IP"),
    ("--apex_mode O3", "--apex_mode: invalid choice: 'O3'"),
    ("--gpu 77", "--gpu -1"),
    ("--gpu 77 --backend torch", "--gpu -1"),
    ("--gpu -2", "--gpu -2: expected -1 or more"),
    ("--eval True", "--eval True needs --ai_center"),
    ("--param_list 16 8", "12 columns, expected 16 (the first number of --param_list"),
    ("--param_list 12 16", "--param_list ends in 16, but --nlist is 8"),
]


@pytest.mark.parametrize(("words", "told"), WORDS)
def test_wrong_flag_is_refused_by_name(words: str, told: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = start(data)
    if words.startswith("--percents") or " --percents" in words:
        del flags[flags.index("--percents") : flags.index("--gpu")]
    assert told in refused([*flags, *words.split()], capsys)


def test_zeros_of_a_file_that_was_not_written_to_its_end_are_told(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As np.memmap leaves it whose writer was killed: IP refuses, L2 warns, a gt names row 0 many times."""
    told = "all rows from row 400 on (50 of 450) are zero, as in a file whose writing was interrupted"
    path = change(data, "base", lambda a: put(a, slice(400, 450), 0))
    assert f"base: {path}: {told}, expected unit norm under --metric IP; write it anew, or leave" in refused(
        start(data), capsys
    )
    change(data, "base", lambda a: put(a, slice(10, 12), 0))  # elsewhere too
    assert told in refused(start(data), capsys)
    change(data, "base", lambda a: put(a, 449, 1 / np.sqrt(12)))
    assert "are zero, expected unit norm" in refused(start(data), capsys)
    save_set(data, "faces", *make_faces(5, n_identities=50, images=10, dim=12, n_query=50))
    path = change(data, "gt", lambda a: put(a, slice(30, 50), 0))
    told = "all rows from row 30 on (20 of 50) are zero, as in a file whose writing was interrupted"
    assert f"gt: {path}: {told}, expected each offset at most once in a row; write it anew" in refused(
        start(data), capsys
    )


def centers_of(data: Path, array: np.ndarray) -> list[str]:
    (data / "centers").mkdir(exist_ok=True)
    np.save(data / "centers" / "ivfast.npy", array, allow_pickle=True)
    flags = f"--data_name faces --eval True --percents 0 --gpu -1 --ai_center {data}/centers/ivfast.npy"
    return ["--data_path", str(data), "--save_path", str(data.parent / "out"), *flags.split()]


CENTERS: list[tuple[Change, str, str]] = [
    (lambda a: a[:, :5], "", "12 columns, expected 5"),
    (lambda a: a[0], "", r"centers: .*shape \(12,\)"),
    (lambda a: a.astype(object), "", "centers: .*Python objects"),
    (lambda a: a.astype(np.int32), "", "centers: .*holds int32"),
    (lambda a: put(a, 2, np.nan, 1), "", "centers: .* row 2 holds NaN"),
    (lambda a: put(a, 3, 7.5), "", r"centers: .* row 3 has norm 25\.98, expected at most 1 under --metric IP"),
    (lambda a: a, "--learn_name learn_faces --ftopk 8", "10 vectors, of which 8 train, too few for --ftopk 8"),
    (lambda a: a, "--nlist 9", "--nlist 9, but .* has 8 centers"),
    (lambda a: a, "--param_list 12 9", "--param_list 12 9, but .* is 8 x 12"),
    (lambda a: a, "--resume True", "leave them out with --eval True"),
    (lambda a: a, "--nprobes 9", "--nprobes 9 is above nlist 8"),
    (lambda a: a, "--metric L2 --normalize True", "--normalize True with --metric L2"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "words", "told"), CENTERS)
def test_wrong_centers_are_refused(
    how: Change, words: str, told: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = centers_of(data, how(np.load(data / "faces" / "base.npy")[:8]))
    change(data, "learn", lambda a: a[:10])
    assert re.search(told, refused([*flags, *words.split()], capsys))


def test_kmeans_of_another_shape_beside_the_centers_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = np.load(data / "faces" / "base.npy")
    flags = centers_of(data, base[:8])
    np.save(data / "centers" / "kmeans.npy", base[:9])
    assert "kmeans.npy has shape (9, 12), expected (8, 12)" in refused(flags, capsys)
    assert "nowhere.npy is missing" in refused([*flags, "--ai_center", str(data / "nowhere.npy")], capsys)


def test_network_file_without_its_parts_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = centers_of(data, np.load(data / "faces" / "base.npy")[:8])
    about = {"schema": SCHEMA, "ivfast_sha256": file_hash(data / "centers" / "ivfast.npy"), "routers": {}}
    path = data / "centers" / "dcnet.safetensors"
    for text in (json.dumps(about), json.dumps([about])):
        save_file({"x": np.ones(3)}, path, {"ivfast": text})
        assert refused(flags, capsys).startswith(f"error: {path} ")


def test_save_path_that_is_a_file_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "out").write_text("mine")
    assert "--save_path" in refused(start(data), capsys)
    assert (data.parent / "out").read_text() == "mine"


PROCESS: list[tuple[str, str, str]] = [
    ("--lr -1", "", "--lr"),
    ("--gpu 77", "", "--gpu"),
    ("", "base", "base"),
    ("--data_name f\udcff", "", "base, query, gt"),  # a name that is no UTF-8
]


@pytest.mark.parametrize(("words", "part", "told"), PROCESS)
def test_process_exits_2_without_traceback(words: str, part: str, told: str, data: Path) -> None:
    if part:
        path = data / f"{PARTS[part]}.npy"
        os.truncate(path, path.stat().st_size - 4)
    command = [sys.executable, "run_dcnet.py", *start(data), *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {told}")
    out = data.parent / "out"
    assert not out.exists() or [entry.name for entry in out.iterdir()] == ["train.log"]


@pytest.mark.whole_run
def test_legal_but_odd_input_runs_with_warnings(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few vectors a bucket, a stale gt, other encodings: each named once, nothing refused."""
    change(data, "gt", lambda a: (a + 100) % 450)
    change(data, "base", lambda a: a.astype(">f8"))
    change(data, "query", np.asfortranarray)
    assert main(start(data, "--nlist", "16", "--param_list", "12", "16")) == 0
    told = capsys.readouterr().err
    assert told.count("31.2 vectors a bucket, 39 or more are recommended") == 1
    assert told.count("base.npy is stored as big-endian, float64; converted block by block") == 1
    assert told.count("query.npy is stored as Fortran order; converted block by block") == 1
    assert len(re.findall(r"warning: gt: its first answer is the exact nearest for \d of 50 queries", told)) == 1
    monkeypatch.setattr(intake, "judge_gt", partial(intake.judge_gt, most_searched=449))
    shutil.rmtree(data.parent / "out" / "checkpoints")
    assert main(start(data)) == 0
    assert "gt: not held against an exact search (450 base vectors" in capsys.readouterr().err
