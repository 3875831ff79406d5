"""A user's own files are never written over: where they lie among ivfast's outputs, they are refused."""

import os
import stat
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from ivfast.data.formats.convert import convert
from ivfast.front.actions import INDEX_FILES, open_file
from ivfast.front.command_line import main as front
from ivfast.front.fit import fit
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_text
from ivfast.runtime.lock import locked
from ivfast.runtime.own_files import EVALUATED, TRAINED, refuse_not_ours
from ivfast.runtime.progress import silent
from run_dcnet import main


def rows_of(n: int = 1500, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("name", ["base.npy", "query.npy", "gt.npy"])
def test_a_data_set_in_the_folder_of_a_fit_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "out" / "data" / name
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    np.save(tmp_path / "learn.npy", rows_of())
    words = ["--save_path", str(tmp_path / "out"), "--nlist", "4", "--epochs", "1"]
    assert front(["fit", str(tmp_path / "learn.npy"), *words]) == 2
    assert f"error: {own} was not written by ivfast" in capsys.readouterr().err
    assert own.read_bytes() == b"mine"
    assert [path.name for path in own.parent.iterdir()] == [name]


def test_a_fit_writes_over_what_a_killed_fit_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ivfast.front.fit.train_centers", killed)
    for _ in range(2):  # the second one comes as far: neither train.log nor fit.json is there yet
        with pytest.raises(KeyboardInterrupt):
            fit(rows_of(), 4, epochs=1, save_path=tmp_path)


@pytest.mark.parametrize("name", ["base", "query"])
def test_a_converted_file_that_is_a_user_s_own_is_refused(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows_of(20))
    assert front(["convert", str(tmp_path / "x.npy"), str(tmp_path / "x.fvecs")]) == 0
    for _ in range(2):
        open_file(tmp_path / "x.fvecs", tmp_path / "ours", None, silent(), name)
    own = tmp_path / "out" / "converted" / f"{name}.npy"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(UserError, match="was not written by ivfast"):
        open_file(tmp_path / "x.fvecs", tmp_path / "out", None, silent(), name)
    assert own.read_bytes() == b"mine"


FLAGS = "--data_name s --nlist 4 --param_list 8 4 --epochs 1 --warmup 0 --percents 0 --niter 3 --ftopk 3 --gpu -1"


@pytest.mark.parametrize("output", ["ivfast.npy", "kmeans.npy"])
@pytest.mark.parametrize("name", ["learn", "base", "--start"])
def test_an_input_that_is_an_output_is_refused(
    output: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, others = tmp_path / output, tmp_path / "learn.npy"
    (tmp_path / "s").mkdir()
    for path in (own, others):
        np.save(path, rows_of())
    if name == "base":
        (tmp_path / "s" / "base.npy").symlink_to(own)
    learn = output[:-4] if name == "learn" else "learn"
    words = [f"--save_path={tmp_path}", f"--data_path={tmp_path}", f"--learn_name={learn}", *FLAGS.split()]
    assert main(words + [f"--start={own}"] * (name == "--start")) == 2
    said = capsys.readouterr().err
    assert f"error: {name}: " in said
    assert "would be written over" in said
    np.testing.assert_array_equal(np.load(own), rows_of())


NAMES = [*TRAINED, *EVALUATED, *INDEX_FILES]
# a run knows these by their names alone
SIGN = {"dcnet.safetensors", "index.safetensors"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SIGN])
def test_a_user_s_file_of_our_name_in_a_new_save_path_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, learn = tmp_path / "out", tmp_path / "learn.npy"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    (out / "notes.txt").write_text("mine")
    np.save(learn, rows_of())
    run = [f"--save_path={out}", f"--data_path={tmp_path}", "--learn_name=learn", *FLAGS.split()]
    of_centers = [
        f"--save_path={out}",
        f"--data_path={tmp_path}",
        *["--data_name", "s", "--percents", "0", "--eval", "True"],
    ]
    commands = [(front, ["fit", str(learn), "--save_path", str(out), "--nlist", "4"])]
    if name not in INDEX_FILES:
        commands.append((main, run))
    if name in EVALUATED:
        commands.append((main, [*of_centers, "--gpu=-1", f"--ai_center={learn}"]))
    else:
        monkeypatch.setattr("ivfast.front.actions.load", None)
        commands.append((front, ["index", str(tmp_path / "model"), str(learn), "--out", str(out)]))
    for command, words in commands:
        assert command(words) == 2
        said = capsys.readouterr().err
        assert f"error: {out / name} was not written by ivfast, as far as its folder tells (no " in said
        assert "move it, or choose another --save_path" in said
        assert {path.name for path in out.iterdir()} == {name, "notes.txt"}
        assert (out / name).read_bytes() == b"mine"


def test_a_fit_in_python_keeps_a_user_s_file(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"report\.html was not written by ivfast"):
        fit(rows_of(), 4, epochs=1, save_path=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("sign", "text", "known"),
    [
        ("train.log", "2026-11-29 23:52:00 threads", ["evaluation.json", "report.html"]),  # of an evaluation
        ("train.log", "epoch 1 loss 0.3", []),
        ("metrics.jsonl", "{}", []),
        ("checkpoints/best.pt", "", []),
        (".ivfast.lock", "", NAMES),
        ("dcnet.safetensors", "", NAMES),
        ("data/.ivfast", "", NAMES),
        ("checkpoints/epoch_00001_step_00000017.safetensors", "", NAMES),
    ],
)
def test_what_a_run_has_left_is_known(sign: str, text: str, known: list[str], tmp_path: Path) -> None:
    refuse_not_ours(tmp_path, NAMES)
    (tmp_path / sign).parent.mkdir(exist_ok=True)
    (tmp_path / sign).write_text(text)
    for name in ("ivfast.npy", "kmeans.npy", "evaluation.json", "report.html"):
        (tmp_path / name).touch()
        with nullcontext() if name in known else pytest.raises(UserError, match=f"{name} was not written by ivfast"):
            refuse_not_ours(tmp_path, NAMES)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["ivfast.npy", "fit.json", "index.faiss", "checkpoints", "cache", "data", "converted"])
def test_what_is_in_the_way_is_told_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ivfast.front.fit.admit", None)
    path = tmp_path / "out" / name
    path.mkdir(parents=True)
    if path.suffix == "":
        path.rmdir()
        path.touch()
    np.save(tmp_path / "learn.npy", rows_of())
    assert front(["fit", str(tmp_path / "learn.npy"), "--save_path", str(tmp_path / "out"), "--nlist", "4"]) == 2
    assert f"error: {path} is {'a' if path.suffix else 'no'} folder, expected" in capsys.readouterr().err


def test_a_user_s_lock_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "notes.txt")
    with locked(tmp_path, silent()):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "notes.txt"}


@pytest.mark.parametrize("target", ["s/p-0.npy", "s/all.npy", "s/all.fbin", "link/all.npy"])
def test_nothing_is_converted_into_a_folder_of_shards(target: str, tmp_path: Path) -> None:
    shards = tmp_path / "s"
    shards.mkdir()
    (tmp_path / "link").symlink_to(shards)
    for i in range(2):
        np.save(shards / f"p-{i}.npy", rows_of(20))
    with pytest.raises(UserError, match="the source's own folder"):
        convert(shards, tmp_path / target)
    assert sorted(path.name for path in shards.iterdir()) == ["p-0.npy", "p-1.npy"]
    np.testing.assert_array_equal(np.load(shards / "p-0.npy"), rows_of(20))


def test_a_fit_is_not_written_among_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "p-0.npy", rows_of())
    assert front(["fit", str(tmp_path), "--save_path", str(tmp_path), "--nlist", "4"]) == 2
    assert "the source's own folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p-0.npy"]


def test_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "x.npy"
    os.mkfifo(pipe)
    np.save(tmp_path / "base.npy", rows_of(20))
    with pytest.raises(UserError, match="is a pipe, expected a file or nothing"):
        convert(tmp_path / "base.npy", pipe)
    with pytest.raises(UserError, match="is a pipe, expected a file or nothing"):
        save_text(pipe, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
