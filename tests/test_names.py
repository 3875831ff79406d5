"""Names and paths of any letters: none is markup, a formula, too long, or the end of a run."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import ivfast
from ivfast.data.npy import open_array
from ivfast.data.synthetic import make_faces, save_set
from ivfast.front.command_line import main as front
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import Config, check
from ivfast.runtime.errors import ADVICE, UserError
from ivfast.runtime.files import LONGEST, as_name, part_of, user_path
from ivfast.runtime.progress import Progress
from run_dcnet import main

# markup, formulas, formats, quotes, ends of lines, letters in two parts, no text at all
EVIL = ["[red]x[/]", "[/]", "ba$$in", "{0} %s 100%", "q'\"", "two\nlines", "\t", "na\u0308her", "\U0001f600", "\udcff"]
LONG = "d" * 240
FLAGS = "--nlist 8 --param_list 24 8 --niter 3 --epochs 1 --warmup 0 --lr 2e-3 --percents 0 --ftopk 5 --gpu -1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same faces under many names."""
    folder = tmp_path_factory.mktemp("data")
    save_set(folder, "faces", *make_faces(5, n_identities=120, images=10, dim=24, n_query=40))
    for name in ("".join(EVIL), LONG, "a/b", "a_b"):
        shutil.copytree(folder / "faces", folder / name.replace("/", os.sep))
    return folder


def command(data: Path, out: Path, name: str, *more: str) -> list[str]:
    return [
        f"--save_path={out}", f"--data_path={data}", f"--data_name={name}", "--learn_name=learn_faces",
        *FLAGS.split(), *more,
    ]  # fmt: skip


@pytest.mark.whole_run
def test_no_name_costs_a_run_or_what_an_earlier_one_found(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = "".join(EVIL), tmp_path / "[/] out\udcff\n$$"
    assert main(command(data, out, f"{name}/")) == 0
    said = capsys.readouterr().err
    assert "not written anew" not in said
    assert "UserWarning" not in said  # of letters that a font lacks
    written = [line for line in said.splitlines() if line.startswith("written: ")]
    assert all("[/] out\\udcff\\n$$/" in line for line in written)
    assert len(written) == 3
    assert {"recall_scanned.png", "report.html"} <= {path.name for path in out.iterdir()}
    first = (out / "evaluation.json").read_bytes()
    assert json.loads(first)["data_name"] == name  # without the slash at its end
    again = ("--eval", "True", f"--ai_center={out / 'ivfast.npy'}")
    for other in (LONG, "a/b", "a_b", name):
        assert main(command(data, out, other, *again)) == 0
    kept = {json.loads(path.read_text())["data_name"]: path for path in out.glob("evaluation.*.json")}
    assert set(kept) == {name, LONG, "a/b", "a_b"}
    assert kept[name].read_bytes() == first
    assert all(len(os.fsencode(path.name)) < 143 for path in kept.values())
    log = (out / "train.log").read_text()
    assert all(line[:2] == "20" for line in log.splitlines())  # each with its date


@pytest.mark.whole_run
def test_names_are_no_markup_where_there_is_a_terminal(data: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, highlight=False, width=500)
    config = parse(command(data, tmp_path / "[/]:100:", "faces"))[0]
    ivfast.train_centers(config, Progress(console=console))
    assert "[/]:100:/ivfast.npy" in shown.getvalue()


def test_bars_and_notes_show_a_name_as_it_is(tmp_path: Path) -> None:
    shown = io.StringIO()
    progress = Progress(tmp_path, Console(file=shown, force_terminal=True, highlight=False, width=500))
    for name in EVIL:
        with progress.bar(f"writing {name}", 2) as bar:
            bar.advance(2)
        progress.note(f"written: {name}")
        plain = name.replace("\n", "\\n").replace("\t", "\\t").replace("\udcff", "\\udcff")
        assert f"writing {plain}" in shown.getvalue()
        assert f"written: {plain}\n" in shown.getvalue()
    assert len((tmp_path / "train.log").read_text().splitlines()) == len(EVIL)


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = Config("~/out", "~/data", "~x", (0.0,), ai_center="~/a.npy")  # type: ignore[arg-type]
    found = config.save_path, config.data_path, config.ai_center
    assert found == (tmp_path / "out", tmp_path / "data", tmp_path / "a.npy")
    assert config.data_name == "~x"  # a name below data_path
    given = parse(command(Path("~/data"), Path("~/out"), "x", "--eval=True", "--ai_center=~/a.npy"))[0]
    assert (given.save_path, given.data_path, given.ai_center) == found
    with pytest.raises(UserError, match=f"{tmp_path / 'none'}: no ivfast.npy"):
        ivfast.load("~/none")
    with pytest.raises(UserError, match=f"{tmp_path / 'none'}: no ivfast.npy"):
        ivfast.load_index("~/none")
    np.save("base.npy", np.ones((2, 3), np.float32))
    assert front(["convert", "~/base.npy", "~/base.fbin"]) == 0
    assert (tmp_path / "base.fbin").is_file()
    assert not (tmp_path / "~").exists()


def test_a_home_that_nobody_has_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(command(tmp_path, Path("~nobody_of_this_name/x"), "faces")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="no such home folder"):
        user_path("~nobody_of_this_name/x")


@pytest.mark.parametrize("flag", ["--save_path", "--data_path", "--ai_center", "--start"])
def test_an_empty_path_is_told_with_its_flag(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else it would be the folder at work."""
    assert main(command(tmp_path, tmp_path, "faces", f"{flag}=")) == 2
    assert f"error: argument {flag}: it is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["fit", "x.npy", "--save_path", ""], "--save_path"),
        (["fit", "x.npy", "--query", ""], "--query"),
        (["index", "", "x.npy"], "DIR"),
        (["report", "a", "--out", ""], "--out"),
    ],
)
def test_an_empty_path_is_told_by_the_other_command_too(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front(words) == 2
    assert f"error: argument {name}: it is empty" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800"])
def test_what_no_name_can_hold_is_a_user_s_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        user_path(text)
    with pytest.raises(UserError):
        ivfast.load(text)
    for data_name, learn_name, flag in ((text, "x", "--data_name"), ("x", text, "--learn_name")):
        with pytest.raises(UserError, match=f"^{flag}"):
            check(Config(tmp_path, tmp_path, data_name, (0.0,), learn_name))
    assert user_path("\udcff") == Path("\udcff")  # bytes that are no text: a name as others


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSPC])
def test_what_the_system_refuses_is_told_with_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "x/y")

    monkeypatch.setattr("ivfast.front.actions.fit", refuse)
    monkeypatch.setattr("ivfast.commands._run_training", refuse)
    for run, words in ((front, ["fit", "x.npy"]), (main, command(tmp_path, tmp_path, "x"))):
        assert run(words) == 1
        assert f"error: x/y: {os.strerror(number)}; {ADVICE[number]}\n" in capsys.readouterr().err


@pytest.mark.whole_run
def test_a_model_outlives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the rows that it set aside are not found, and an index is calibrated on what trained it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    base = np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32)
    model = ivfast.fit(base, 4, epochs=1, save_path="here", copies=0.0)
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert model._fitted is not None
    assert model._fitted.base_digest == model.points(base).vectors.digest
    model.index(base, 0.0, lists_file="~/lists.ivfdata").save("~/saved")
    assert len(ivfast.load_index("~/saved")) == len(base)
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"lists.ivfdata", "saved"}
    assert list((tmp_path / "else").iterdir()) == []


def test_a_fit_writes_over_no_file_that_it_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data" / "base.npy"
    path.parent.mkdir()
    rows = np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32)
    np.save(path, rows)
    assert front(["fit", str(path), "--save_path", str(tmp_path), "--nlist", "4", "--epochs", "1"]) == 2
    assert f"{path} lies where a fit writes" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(path), rows)


def test_a_path_that_faiss_cannot_take_is_told_before_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "base.npy", np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32))
    assert front(["fit", str(tmp_path / "base.npy"), "--save_path", str(tmp_path / "\udcff")]) == 2
    assert "bytes that are no UTF-8" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base.npy"]


def test_other_bytes_for_the_same_letters_are_pointed_out(tmp_path: Path) -> None:
    np.save(tmp_path / "na\u0308her.npy", np.ones((2, 3)))
    with pytest.raises(UserError, match=r"na\u0308her\.npy is there, whose letters are written in another way"):
        open_array(tmp_path / "n\u00e4her.npy", "base")


def test_a_value_that_begins_with_a_dash_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data_name", "-lead"]) == 2
    assert "--flag=VALUE" in capsys.readouterr().err
    assert front(["fit", "--", "-x.npy"]) == 2
    assert "-x.npy is missing" in capsys.readouterr().err


def test_a_link_to_nothing_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scratch").symlink_to(tmp_path / "gone")
    assert main(command(tmp_path, tmp_path / "scratch", "faces")) == 2
    assert f"is a link to {tmp_path / 'gone'}, which is not there" in capsys.readouterr().err


def test_a_text_becomes_a_name_that_any_file_system_takes_and_no_other_text_gets() -> None:
    texts = ["faces", "a.b", "na\u0308her", "a/b", "a_b", "a\nb", "", "\udcff", "\ud800", "e" * 300, "e" * 301]
    names = [as_name(text) for text in [*texts, "\U0001f600" * 80]]
    assert names[:3] == ["faces", "a.b", "na\u0308her"]  # as they were
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) <= LONGEST + 9
    assert not set("/\n") & set("".join(names))


def test_a_part_of_the_longest_name_is_no_longer(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".npy")
    part_of(path, ".merged").write_bytes(b"")
    path.write_bytes(b"")
    assert part_of(path).suffix == ".npy"
    assert part_of(path) != part_of(tmp_path / ("x" * 249 + ".npy"))
