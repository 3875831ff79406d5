"""File systems that lack what a local disk has: memory maps, locks, permissions, fsync, a count of free bytes."""

import errno
import mmap
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ivfast.data.formats import open_rows
from ivfast.data.formats.convert import convert
from ivfast.data.mapped import remove_mapped
from ivfast.data.npy import check_whole, map_of, open_array
from ivfast.data.vectors import open_vectors
from ivfast.evaluate import run
from ivfast.index.fill import empty_index, fill_on_disk
from ivfast.runtime import checkpoint, lock, tensors
from ivfast.runtime.cache import cached
from ivfast.runtime.checkpoint import Saved, checkpoints_in, load_newest, save_checkpoint
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.files import PART, free_space, part_of, remove_leftovers, save_array, save_text, write_beside
from ivfast.runtime.progress import silent
from ivfast.start.descent_process import write_graph
from ivfast.train import together
from run_dcnet import main
from tests.conftest import Notes, points_of
from tests.runs import ROOT, flags, make_data

UNSUPPORTED = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EIO]
NO_MAP = [errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EACCES]
usage = namedtuple("usage", "total used free")


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


class TestLocks:
    """Only a lock that is held means another run."""

    @pytest.mark.parametrize("number", UNSUPPORTED)
    def test_a_lock_that_is_not_offered_costs_a_warning(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(lock.fcntl, "flock", refuse(number))
        progress = Notes()
        with lock.locked(tmp_path, progress):
            assert str(os.getpid()) in (tmp_path / ".ivfast.lock").read_text()
        (told,) = progress.told
        assert told.startswith(f"warning: {tmp_path / '.ivfast.lock'} cannot be locked ({os.strerror(number)}): ")
        assert "in use" not in told
        assert list(tmp_path.iterdir()) == []

    def test_what_another_run_left_there_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(lock.fcntl, "flock", refuse(errno.ENOLCK))
        (tmp_path / ".ivfast.lock").write_text('{"pid": 7, "host": "there"}')
        progress = Notes()
        with lock.locked(tmp_path, progress):
            pass
        assert progress.told[0].endswith("it was left by process 7 on there, which may be at work still")

    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES])
    def test_a_lock_of_another_process_is_refused(self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(lock.fcntl, "flock", refuse(number))
        with pytest.raises(UserError, match="in use by another process"), lock.locked(tmp_path, silent()):
            pass

    def test_files_numbered_anew_at_every_look_end_no_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(lock, "_still_there", lambda *_: False)
        progress = Notes()
        with lock.locked(tmp_path, progress):
            pass
        assert len(progress.told) == 1

    def test_a_lock_that_cannot_be_removed_costs_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with lock.locked(tmp_path, silent()):
            monkeypatch.setattr(Path, "unlink", refuse(errno.ESTALE))

    def test_without_fcntl_and_its_signals_everything_is_imported_and_one_warning_is_given(self, tmp_path: Path):
        code = (
            "import sys, signal\n"
            "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
            "del signal.SIGHUP, signal.SIGUSR1\n"
            "import ivfast.front.command_line, ivfast.commands\n"
            "from ivfast.runtime.lock import locked\n"
            "from ivfast.runtime.progress import Progress\n"
            "from ivfast.runtime.signals import handled\n"
            "from pathlib import Path\n"
            f"with handled(), locked(Path({str(tmp_path)!r}), Progress()): pass"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stderr.count("\n") == 1
        assert "cannot be locked (this system has no fcntl)" in done.stderr


class TestWriting:
    """What a file system does not offer is left out, and what it refuses is told."""

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
    def test_fsync_that_is_not_offered_loses_nothing(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(os, "fsync", refuse(number))
        save_text(tmp_path / "x.txt", "new")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.txt": "new"}

    def test_a_folder_that_cannot_be_opened_is_not_synced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        opened = os.open
        monkeypatch.setattr(
            os, "open", lambda path, *more: refuse(errno.EACCES)() if Path(path).is_dir() else opened(path, *more)
        )
        save_text(tmp_path / "x.txt", "new")
        assert (tmp_path / "x.txt").read_text() == "new"

    def test_permissions_that_are_not_offered_lose_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Path, "chmod", refuse(errno.EPERM))
        save_array(tmp_path / "x.npy", np.ones((2, 3)))
        assert np.load(tmp_path / "x.npy").shape == (2, 3)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_a_disk_that_refuses_is_an_error_and_keeps_the_old(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        save_text(tmp_path / "x.txt", "old")
        monkeypatch.setattr(os, "fsync", refuse(number))
        with pytest.raises(RunError, match=os.strerror(number)):
            save_text(tmp_path / "x.txt", "new")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.txt": "old"}

    @pytest.mark.parametrize("found", [usage(0, 0, 0), OSError(errno.ENOSYS, "no")])
    def test_free_space_that_is_not_told_is_not_known(
        self, found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def ask(_: Path) -> Any:
            if isinstance(found, OSError):
                raise found
            return found

        monkeypatch.setattr(shutil, "disk_usage", ask)
        assert free_space(tmp_path) is None
        np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
        convert(tmp_path / "x.npy", tmp_path / "x.fbin")
        assert (tmp_path / "x.fbin").stat().st_size == 8 + 24

    def test_a_full_disk_is_not_an_unknown_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
        assert free_space(tmp_path) == 0

    def test_lists_that_the_disk_has_no_room_for_are_refused_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """FAISS writes them by memory map: a full disk would end the process."""
        rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
        index = empty_index(rows[:2], "L2", "Flat", rows, 1)
        everyone = np.arange(50)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 2 * 50 * (32 + 8) - 1))
        with pytest.raises(RunError, match="4,000 bytes are needed, 3,999 are free"):
            fill_on_disk(index, points_of(rows).vectors, everyone, everyone % 2, everyone, tmp_path / "lists", silent())
        assert list(tmp_path.iterdir()) == []


class TestOwnFilesOnly:
    """What is removed was written by ivfast."""

    USERS = (
        ".env.1.json",
        ".my.notes.2024.csv",
        ".x.7.npy",
        "x.train.npy",
        "kept.safetensors",
        "epoch_1_step_2.safetensors",
    )

    def test_leftovers_are_removed_and_what_a_user_put_there_stays(self, tmp_path: Path):
        own = [part_of(tmp_path / folder / "x.npy") for folder in (".", "cache", "checkpoints", "data", "converted")]
        deep = part_of(tmp_path / "mine" / "deep" / "x.npy")  # of another tool's run, perhaps at work
        users = [tmp_path / folder / name for folder in (".", "cache", "checkpoints") for name in self.USERS]
        for path in (*own, deep, *users):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        remove_leftovers(tmp_path)
        remove_mapped(tmp_path / "cache")
        assert not any(path.exists() for path in own)
        assert all(path.exists() for path in (deep, *users))

    def test_every_half_written_file_is_one_that_is_known(self, tmp_path: Path):
        seen = []

        def write(path: Path) -> None:
            seen.append(path.name)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_beside(tmp_path / "x.npy", write)
        assert seen[0].startswith(PART)

    def test_old_checkpoints_go_and_nothing_else(self, tmp_path: Path):
        folder = tmp_path / "checkpoints"
        (folder / "epoch_00000_step_00000000.safetensors").mkdir(parents=True)  # none that we wrote
        for name in self.USERS:
            (folder / name).write_bytes(b"x")
        for epoch in range(1, 5):
            save_checkpoint(tmp_path, Saved(epoch, 0, {"x": np.ones(3, np.float32)}, {}))
        assert [path.name[:11] for path in checkpoints_in(tmp_path)] == ["epoch_00004", "epoch_00003"]
        assert len(list(folder.iterdir())) == 3 + len(self.USERS)

    def test_a_damaged_cache_is_computed_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "x.key.npz").write_bytes(b"half")
        monkeypatch.setattr(Path, "unlink", refuse(errno.EPERM))
        found = [cached(tmp_path, "x", "key", lambda: {"x": np.ones(3)})[1] for _ in range(2)]
        assert found == [False, True]


@pytest.fixture(params=NO_MAP)
def no_maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be mapped: NumPy's errors carry the number, those of safetensors only say it."""
    number = request.param

    def no_safe_open(path: Path, **_: object) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"No such file or directory: {path}")
        raise OSError(f"{os.strerror(number)} (os error {number})")

    monkeypatch.setattr(mmap, "mmap", refuse(number))
    monkeypatch.setattr(tensors, "safe_open", no_safe_open)


class TestWithoutMaps:
    """Files are read where they cannot be mapped."""

    @pytest.mark.usefixtures("no_maps")
    def test_arrays_are_read(self, tmp_path: Path):
        rows = np.arange(12, dtype=">f8").reshape(3, 4)
        np.save(tmp_path / "x.npy", rows)
        found = open_array(tmp_path / "x.npy", "base")
        np.testing.assert_array_equal(found, rows)
        assert type(found) is np.ndarray
        assert open_vectors(tmp_path / "x.npy", "base", 4).was_read

    def test_memory_that_is_not_there_is_no_reason_to_save_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        np.save(tmp_path / "x.npy", np.ones((2, 3)))
        monkeypatch.setattr(np, "load", refuse(errno.ENOMEM))
        with pytest.raises(UserError, match=r"Cannot allocate memory.*need not be saved anew"):
            open_array(tmp_path / "x.npy", "base")

    @pytest.mark.usefixtures("no_maps")
    def test_checkpoints_are_read(self, tmp_path: Path):
        arrays = {"x": np.arange(3, dtype=np.float32), "y": np.array(2.0)}
        save_checkpoint(tmp_path, Saved(3, 0, arrays, {"goal": "ä"}))
        found = load_newest(tmp_path, silent())
        assert (found.epoch, found.about["goal"]) == (3, "ä")
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array, strict=True)

    @pytest.mark.usefixtures("no_maps")
    @pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
    def test_tensors_are_read(self, dtype: str, tmp_path: Path):
        rows = np.arange(12).reshape(3, 4).astype(dtype)
        save_file({"a": np.ones(5, np.float32), "rows": rows, "z": np.ones(3)}, tmp_path / "x.safetensors", {"k": "v"})
        (found,) = open_rows(tmp_path / "x.safetensors").blocks(10)
        np.testing.assert_array_equal(found, rows)
        header, begin = tensors.read_header(tmp_path / "x.safetensors")
        assert header[tensors.METADATA] == {"k": "v"}
        assert (tmp_path / "x.safetensors").stat().st_size == begin + 20 + rows.nbytes + 24

    @pytest.mark.usefixtures("no_maps")
    @pytest.mark.parametrize("content", [
        b"", b"\x05", b"\xff" * 20, b"\x02\x00\x00\x00\x00\x00\x00\x00[]", b"\x01\x00\x00\x00\x00\x00\x00\x00{",
    ])  # fmt: skip
    def test_damaged_tensors_are_one_line(self, content: bytes, tmp_path: Path):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read" if content else "is empty"):
            open_rows(tmp_path / "x.safetensors")

    @pytest.mark.usefixtures("no_maps")
    @pytest.mark.parametrize("change", [-1, 1])
    def test_tensors_of_another_length_than_the_file_are_one_line(self, change: int, tmp_path: Path):
        path = tmp_path / "x.safetensors"
        save_file({"x": np.ones((3, 4), np.float32)}, path)
        path.write_bytes(path.read_bytes()[:-1] if change < 0 else path.read_bytes() + b"\0")
        with pytest.raises(UserError, match="cannot be read"):
            open_rows(path)

    def test_parquet_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "x.parquet")
        monkeypatch.setattr(pa, "memory_map", refuse(errno.ENODEV))
        original = pq.ParquetFile
        monkeypatch.setattr(
            pq,
            "ParquetFile",
            lambda path, memory_map=False: refuse(errno.ENODEV)() if memory_map else original(path),
        )
        (found,) = open_rows(tmp_path / "x.parquet").blocks(10)
        np.testing.assert_array_equal(found, [[1, 2], [3, 4]])

    def test_descent_reads_its_points(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
        monkeypatch.setattr("ivfast.start.descent_process._descend", lambda x, _: x.astype(np.int32))
        monkeypatch.setattr(mmap, "mmap", refuse(errno.ENODEV))
        write_graph(str(tmp_path / "x.npy"), str(tmp_path / "graph.npy"), "", 2)
        np.testing.assert_array_equal(np.load(tmp_path / "graph.npy"), [[0, 1], [2, 3], [4, 5]])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_a_disk_refuses_to_read_is_not_called_damaged(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, Saved(3, 0, {"x": np.ones(3, np.float32)}, {}))
    monkeypatch.setattr(checkpoint, "read_tensors", refuse(number))
    progress = Notes()
    with pytest.raises(UserError, match="mend what the warnings name, and resume again") as told:
        load_newest(tmp_path, progress)
    assert "anew" not in str(told.value)
    assert os.strerror(number) in progress.told[0]
    with pytest.raises(UserError, match="mend that"):
        checkpoint.load_epoch(tmp_path, 3)


class TestCutShort:
    """Reading a map beyond the end of its file would end the process by SIGBUS."""

    def test_every_view_of_a_mapped_file_that_was_cut_is_told(self, tmp_path: Path):
        path = tmp_path / "x.npy"
        np.save(path, np.ones((4096, 8), np.float32))
        vectors = open_vectors(path, "base", 8)
        views = [vectors.rows, vectors.rows.view(np.ndarray), vectors.rows[5:9], np.asarray(vectors.rows).T]
        for view in views:
            check_whole(view, "base")
        np.testing.assert_array_equal(vectors.raw(slice(4095, None)), np.ones((1, 8)))
        os.truncate(path, 8192)
        for view in views:
            with pytest.raises(RunError, match=r"base: .*x.npy was cut short while it was read \(8,192 bytes"):
                check_whole(view, "base")
        with pytest.raises(RunError, match="cut short"):
            vectors.raw(slice(4095, None))

    def test_a_file_that_another_takes_the_place_of_is_whole(self, tmp_path: Path):
        path = tmp_path / "x.npy"
        np.save(path, np.ones((4096, 8), np.float32))
        vectors = open_vectors(path, "base", 8)
        (tmp_path / "other").write_bytes(b"")
        os.replace(tmp_path / "other", path)
        assert vectors.raw(slice(4095, None)).sum() == 8

    def test_arrays_in_memory_are_no_maps(self):
        for array in (np.ones(3), np.ones(3)[1:], np.frombuffer(b"1234", np.uint8)):
            assert map_of(array) is None
            check_whole(array, "x")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


SHORT = ("--epochs", "2", "--param_list", "24", "32", "--percents", "0")


@pytest.mark.whole_run
def test_learn_that_is_cut_short_while_it_trains_ends_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    original = together.run_chunks

    def cut(*args: Any) -> Any:
        os.truncate(folder / "learn_faces.npy", 4096)
        return original(*args)

    monkeypatch.setattr(together, "run_chunks", cut)
    assert main(flags(folder, tmp_path / "out", *SHORT)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: learn: {folder / 'learn_faces.npy'} was cut short while it was read (4,096 bytes")


@pytest.mark.whole_run
@pytest.mark.parametrize("name", ["base", "gt"])
def test_what_is_cut_short_before_it_is_evaluated_ends_in_one_line(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    path = folder / "faces" / f"{name}.npy"

    original = run.make_settings

    def cut(*args: Any) -> Any:
        found = original(*args)
        os.truncate(path, 128)
        return found

    monkeypatch.setattr(run, "make_settings", cut)
    assert main(flags(folder, tmp_path / "out", *SHORT)) == 1
    assert f"error: {name}: {path} was cut short" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out" / "ivfast.npy").is_file()
