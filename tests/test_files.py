"""Files: complete or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ivfast.runtime.cache import cached
from ivfast.runtime.errors import RunError
from ivfast.runtime.files import save_array, save_json, save_tensors, save_text, write_beside


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def write(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(RunError, match="disk full after 4 bytes"):
        write_beside(path, write)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


SAVES: list[tuple[Callable[[Path], object], int]] = [
    (lambda path: save_array(path, np.ones((3, 5))), 120),
    (lambda path: save_text(path, "näher"), 6),
    (lambda path: save_json(path, [1]), 7),
    (lambda path: save_tensors(path, {"x": np.ones(7, np.float32)}, {}), 28),
    (lambda path: cached(path.parent, "x", "key", lambda: {"x": np.ones(9)}), 72),
]


@pytest.mark.parametrize(("save", "n_bytes"), SAVES)
def test_failed_write_tells_the_bytes_needed(
    save: Callable[[Path], object], n_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=rf"No space left on device after \d+ bytes; {n_bytes} bytes are needed"):
        save(tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []


def test_failed_first_write_leaves_no_file(tmp_path: Path):
    def write(beside: Path) -> None:
        beside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_beside(tmp_path / "new.npy", write)
    assert list(tmp_path.iterdir()) == []


def test_old_file_is_whole_while_the_new_one_is_written(tmp_path: Path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    seen = []

    def write(beside: Path) -> None:
        beside.write_text("new")
        seen.append((path.read_text(), beside.parent, beside.suffix, beside == path))

    write_beside(path, write)
    assert seen == [("old", tmp_path, ".json", False)]
    assert path.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_absent_folders_are_made(tmp_path: Path):
    save_text(tmp_path / "a" / "b" / "note.txt", "näher")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "näher".encode()


def test_arrays_are_saved_in_c_order_with_their_type(tmp_path: Path):
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    save_array(tmp_path / "x.npy", array)
    loaded = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert loaded.dtype == np.float32
    assert loaded.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(loaded, array)


def test_pickled_arrays_are_refused_and_leave_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="pickle"):
        save_array(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_has_not(tmp_path: Path, value: float):
    save_json(tmp_path / "x.json", {"a": [1.5, None]})
    with pytest.raises(ValueError, match="JSON compliant"):
        save_json(tmp_path / "x.json", {"a": value})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.5, None]}
