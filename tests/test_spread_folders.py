"""A folder of a base of many files: nothing of another base is taken for its own, nothing of a user's is lost."""

import json
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ivfast
from ivfast.front.command_line import main
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.lock import locked
from ivfast.runtime.progress import silent
from ivfast.spread.maps import Here
from ivfast.spread.store import STORED_NAME, Wishes, store_files
from tests.conftest import Notes
from tests.many_files import base_of, kill_before, rows_of

pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("spread")]


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two small files."""
    for i, rows in enumerate(np.split(base_of("L2")[:800], 2)):
        np.save(tmp_path / f"in-{i}.npy", rows)
    return [str(tmp_path / f"in-{i}.npy") for i in range(2)]


@pytest.fixture
def other(tmp_path: Path) -> list[str]:
    """Two of another base, of as many rows."""
    for i, rows in enumerate(np.split(base_of("L2")[800:1600], 2)):
        np.save(tmp_path / f"other-{i}.npy", rows)
    return [str(tmp_path / f"other-{i}.npy") for i in range(2)]


def store(fit: Path, out: Path, words: list[str], *formats: str, **more: Any) -> None:
    store_files(fit, out, Wishes(words, 0.8, formats=formats or ("faiss",), **more), Here(), silent())


def index(fit: Path, out: Path, words: list[str], *more: str) -> int:
    return main(["index", str(fit), *words, "--out", str(out), "--ray", "none", *more])


def ids_in(table: Path) -> np.ndarray:
    return np.unique(
        np.concatenate([pq.read_table(path)["vector"].combine_chunks().flatten() for path in table.glob("*")])
    )


def test_two_columns_of_a_file_are_two_bases(tmp_path: Path, fit_of: Any) -> None:
    rows = {name: rows_of(600, seed, "L2") for name, seed in (("a", 5), ("b", 6))}
    table = {name: pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]) for name, x in rows.items()}
    pq.write_table(pa.table(table), tmp_path / "both.parquet")
    for column in "ab":
        store(fit_of("L2"), tmp_path / "out", [str(tmp_path / "both.parquet")], column=column)
        found = ivfast.load_index(tmp_path / "out").search(rows[column][:50], k=1, nprobe=24)[0]
        np.testing.assert_array_equal(found[:, 0], np.arange(50))


def test_tables_are_of_the_base_that_was_named_last(
    tmp_path: Path, fit_of: Any, two: list[str], other: list[str]
) -> None:
    for words in (two, other, two):
        store(fit_of("L2"), tmp_path / "out", words, "faiss", "parquet")
    expected = np.unique(np.concatenate([np.load(path) for path in two]))
    np.testing.assert_array_equal(ids_in(tmp_path / "out" / "parquet"), expected)


def test_a_base_that_was_not_stored_to_its_end_leaves_no_word_of_the_one_before(
    tmp_path: Path, fit_of: Any, two: list[str], other: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(fit_of("L2"), tmp_path / "out", two)
    with monkeypatch.context() as patch:
        patch.setattr("ivfast.spread.store.save_json", stop)
        with pytest.raises(RunError, match="stopped"):
            store(fit_of("L2"), tmp_path / "out", other)
    assert not (tmp_path / "out" / STORED_NAME).exists()
    store(fit_of("L2"), tmp_path / "out", two)
    found = ivfast.load_index(tmp_path / "out").search(np.load(two[1])[:50], k=1, nprobe=24)[0]
    np.testing.assert_array_equal(found[:, 0], 400 + np.arange(50))


def stop(*_: Any) -> None:
    raise RunError("stopped")


def test_a_format_of_another_base_does_not_stay_beside(
    tmp_path: Path, fit_of: Any, two: list[str], other: list[str]
) -> None:
    store(fit_of("L2"), tmp_path / "out", two)
    with pytest.raises(UserError, match=r"holds index\.faiss of another base"):
        store(fit_of("L2"), tmp_path / "out", other, "parquet")
    assert json.loads((tmp_path / "out" / STORED_NAME).read_text())["n"] == 800


def test_files_in_the_folders_that_are_written_are_kept(
    tmp_path: Path, fit_of: Any, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    words = [str(Path(path).rename(parts / f"lists-{i}.npy")) for i, path in enumerate(two)]
    assert index(fit_of("L2"), tmp_path, words) == 2
    assert "lies in a folder that --out" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere.npy"
    np.save(elsewhere, rows_of(600, 5, "L2"))
    assert index(fit_of("L2"), tmp_path, [str(elsewhere)] * 2) == 2
    assert "was not written by ivfast" in capsys.readouterr().err
    assert all(Path(word).is_file() for word in words)


@pytest.fixture
def searching(tmp_path: Path, fit_of: Any, two: list[str]) -> list[str]:
    """The words that make a gt of twenty queries, but for its name and the files of the base, which is stored."""
    np.save(tmp_path / "q.npy", rows_of(20, 7, "L2"))
    store(fit_of("L2"), tmp_path / "out", two)
    return ["evaluate", str(tmp_path / "out"), "--query", str(tmp_path / "q.npy"), "--ray", "none", "--make_gt"]


def test_answers_are_not_written_over_what_they_are_made_of(
    tmp_path: Path, two: list[str], searching: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words, query = searching, tmp_path / "q.npy"
    for target in (str(query), two[0]):
        assert main([*words, target, "--base", *two]) == 2
        assert "would be written over" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "gt.npy"), "--base", *reversed(two)]) == 2
    said = capsys.readouterr().err
    assert "another order" in said
    assert "expected in-0.npy as file 1, found in-1.npy" in said
    assert main([*words, str(tmp_path / "gt.npy"), "--base", str(tmp_path / "in-*.npy")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_files_that_have_changed_since_are_named(
    tmp_path: Path, two: list[str], searching: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(two[1], np.load(two[1])[::-1])
    os.utime(two[1], ns=(1, 1))
    words = [*searching, str(tmp_path / "gt.npy")]
    assert main([*words, "--base", *two]) == 0
    assert f"warning: {two[1]} has changed since the index was made" in capsys.readouterr().err


def test_a_folder_without_a_finished_index_says_what_it_holds(
    tmp_path: Path, fit_of: Any, two: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "q.npy", rows_of(20, 7, "L2"))
    store(fit_of("L2"), tmp_path / "tables", two, "parquet")
    with monkeypatch.context() as patch:
        patch.setattr("ivfast.spread.store.find_border", stop)
        with pytest.raises(RunError, match="stopped"):
            store(fit_of("L2"), tmp_path / "half", two)
    told = {"tables": "holds tables (parquet) and no index", "half": "holds an index that is not finished"}
    for name, said in told.items():
        assert main(["evaluate", str(tmp_path / name), "--query", str(tmp_path / "q.npy")]) == 2
        assert said in capsys.readouterr().err


def test_a_file_that_is_named_twice_is_told(tmp_path: Path, fit_of: Any, two: list[str]) -> None:
    notes = Notes()
    stored = store_files(fit_of("L2"), tmp_path / "out", Wishes([*two, two[0]], 0.8), Here(), notes)
    assert stored.n == 1200
    assert any(note.startswith(f"warning: {two[0]} is named more than once") for note in notes.told)


def test_an_index_that_cannot_say_who_asks_is_refused(tmp_path: Path, fit_of: Any, two: list[str]) -> None:
    store(fit_of("L2"), tmp_path / "out", two)
    with pytest.raises(UserError, match="name the folder of the fit"):
        store(tmp_path / "out", tmp_path / "next", two)
    model = ivfast.load(fit_of("L2"))
    model.save(tmp_path / "codes")
    model.index(rows_of(3000, 1, "L2"), 0.8, kind="SQ8").save(tmp_path / "codes")
    with pytest.raises(UserError, match="holds SQ8 codes, expected vectors as they are"):
        store(tmp_path / "codes", tmp_path / "next", two)


@pytest.mark.parametrize("what", ["looks-*", "empty-*"])
def test_damaged_parts_are_named(what: str, tmp_path: Path, fit_of: Any, two: list[str], other: list[str]) -> None:
    store(fit_of("L2"), tmp_path / "out", two)
    (part,) = (tmp_path / "out" / "parts").glob(what)
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(RunError, match="damaged"):
        store(fit_of("L2"), tmp_path / "out", other)


def test_what_a_killed_merge_left_is_removed(tmp_path: Path, fit_of: Any, two: list[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".ivfast-part.index.1.merged.ivfdata").write_bytes(b"0" * 100)
    assert index(fit_of("L2"), out, two) == 0
    assert not list(out.glob(".ivfast-part.*"))
    assert isinstance(faiss.read_index(str(out / "index.faiss")), faiss.IndexIVF)


def test_an_index_killed_between_its_files_goes_on(
    tmp_path: Path, fit_of: Any, two: list[str], other: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only index.faiss and its lists are there, which take no vectors, so that none is lost."""
    out, beside = tmp_path / "out", tmp_path / "out" / "index.safetensors"
    assert index(fit_of("L2"), out, other) == 0
    with monkeypatch.context() as killed:
        killed.setattr("ivfast.runtime.files.os.replace", kill_before("index.faiss"))
        with pytest.raises(KeyboardInterrupt):
            index(fit_of("L2"), out, two)
    assert index(fit_of("L2"), out, two) == 0
    whole = beside.read_bytes()
    beside.unlink()
    assert index(fit_of("L2"), out, two) == 0
    assert beside.read_bytes() == whole


def test_a_folder_at_work_is_told_by_its_flag(
    tmp_path: Path, fit_of: Any, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "out", silent()):
        assert index(fit_of("L2"), tmp_path / "out", two) == 2
    said = capsys.readouterr().err
    assert f"--out {tmp_path / 'out'} is in use by process" in said
    assert "choose another --out" in said
