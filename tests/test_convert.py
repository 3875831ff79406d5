"""Vectors written in another format: what others read is what was there, and nothing is lost on the way."""

import shutil
import struct
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from ivfast.data.formats import open_rows
from ivfast.data.formats.convert import TARGETS, convert, write_npy, write_rows
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.progress import Progress
from tests.saving import DIM, FLOATS, INTEGERS, N, save_bin, save_hdf5, save_parquets, values


def load_vecs(path: Path, type: str) -> np.ndarray:
    data, rows = path.read_bytes(), []
    while data:
        (dim,) = struct.unpack("<i", data[:4])
        end = 4 + dim * np.dtype(type).itemsize
        rows.append(np.frombuffer(data[4:end], type))
        data = data[end:]
    return np.array(rows)


def load_bin(path: Path, type: str) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data[8:], type).reshape(struct.unpack("<II", data[:8]))


def load_hdf5(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.array(file["train"])


LOADERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": np.load,
    ".fvecs": lambda path: load_vecs(path, "<f4"),
    ".bvecs": lambda path: load_vecs(path, "u1"),
    ".fbin": lambda path: load_bin(path, "<f4"),
    ".u8bin": lambda path: load_bin(path, "u1"),
    ".i8bin": lambda path: load_bin(path, "i1"),
    ".hdf5": load_hdf5,
    ".h5": load_hdf5,
    ".parquet": lambda path: np.array(pq.read_table(path)["vectors"].to_pylist()),
    ".safetensors": lambda path: load_file(path)["vectors"],
}


def test_every_target_is_read_back() -> None:
    assert LOADERS.keys() == TARGETS.keys()


@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_others_read_is_what_was_there(suffix: str, dtype: str, tmp_path: Path) -> None:
    x = (np.round(FLOATS / 2) if "8" in (TARGETS[suffix].dtype or "") else FLOATS).astype(dtype)
    x = np.abs(x) if TARGETS[suffix].dtype == "uint8" else x
    np.save(tmp_path / "x.npy", x)
    path = tmp_path / f"new{suffix}"
    told = convert(tmp_path / "x.npy", path)
    assert (told.n, told.dim, told.dtype) == (N, DIM, dtype)
    expected = x.astype(TARGETS[suffix].dtype or dtype)  # float64 is rounded in .fvecs and .fbin
    found = LOADERS[suffix](path)
    assert found.dtype == expected.dtype or suffix == ".parquet"
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(next(open_rows(path).blocks(N)), expected)
    assert open_rows(path).dtype == expected.dtype.name
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.npy", path.name}


@pytest.mark.parametrize("target", ["x.npy", "x.bvecs", "x.u8bin", "x.fbin", "x.parquet"])
def test_bytes_keep_their_values_everywhere(target: str, tmp_path: Path) -> None:
    x = INTEGERS.astype(np.uint8)
    save_bin(tmp_path / "source.u8bin", x)
    convert(tmp_path / "source.u8bin", tmp_path / target)
    np.testing.assert_array_equal(LOADERS[Path(target).suffix](tmp_path / target), x)


def test_blocks_of_any_size_make_the_same_file(tmp_path: Path) -> None:
    x = values("float32")
    for suffix in TARGETS.keys() - {".bvecs", ".u8bin", ".i8bin", ".parquet", ".hdf5", ".h5"}:
        for size in (1, 7, N):
            blocks = (x[start : start + size] for start in range(0, N, size))
            write_rows(blocks, N, DIM, x.dtype, tmp_path / f"{size}{suffix}")
        assert len({(tmp_path / f"{size}{suffix}").read_bytes() for size in (1, 7, N)}) == 1


def test_a_folder_of_shards_becomes_one_npy_file_with_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivfast.runtime.progress.PLAIN_SECONDS", 0.0)
    x = values("float16")
    save_parquets(tmp_path / "shards", x)
    with (tmp_path / "shown.txt").open("w") as shown:
        progress = Progress(None, Console(file=shown))
        monkeypatch.setattr("ivfast.data.formats.convert.rows_per_block", lambda _: 10)
        write_npy(open_rows(tmp_path / "shards"), tmp_path / "deep" / "base.npy", progress)
    found = np.load(tmp_path / "deep" / "base.npy")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, x)
    assert f"writing base.npy: 10 of {N} rows" in (tmp_path / "shown.txt").read_text()


LOSSES = [
    ([[0.0, 1.0], [2.0, 0.5]], "x.bvecs", r"holds uint8, which has no 0\.5 \(row 1 of the source\)"),
    ([[0.0, 256.0]], "x.u8bin", r"no 256\.0 \(row 0"),
    ([[0.0, -1.0]], "x.u8bin", r"no -1\.0"),
    ([[0.0, 128.0]], "x.i8bin", r"holds int8, which has no 128\.0"),
    ([[0.0, np.nan]], "x.bvecs", "no nan"),
    ([[0.0, np.inf]], "x.i8bin", "no inf"),
    ([[0.0, 1e300]], "x.fvecs", r"holds float32, which has no 1e\+300"),
]


@pytest.mark.parametrize(("x", "target", "told"), LOSSES)
def test_a_format_that_would_lose_a_value_is_refused(
    x: list[list[float]], target: str, told: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.array(x))
    (tmp_path / target).write_text("old")
    with pytest.raises(UserError, match=f"^target: .*{told}"):
        convert(tmp_path / "x.npy", tmp_path / target)
    assert (tmp_path / target).read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.npy", target}


def test_nan_and_infinity_stay_in_float_formats(tmp_path: Path) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, -0.0]])
    np.save(tmp_path / "x.npy", x)
    convert(tmp_path / "x.npy", tmp_path / "x.fbin")
    assert LOADERS[".fbin"](tmp_path / "x.fbin").tobytes() == x.astype(np.float32).tobytes()


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "x.hdf5", FLOATS)
    for target, told in (
        ("x.hdf5", "is the source itself"),
        ("y.csv", r"ends in \.csv, expected \.npy, "),
        ("y.lance", r"ends in \.lance, expected"),
    ):
        with pytest.raises(UserError, match=f"^target: .*{told}"):
            convert(tmp_path / "x.hdf5", tmp_path / target)
    with pytest.raises(UserError, match=r"^source: .*absent\.npy is missing"):
        convert(tmp_path / "absent.npy", tmp_path / "y.npy")
    convert(tmp_path / "x.hdf5", tmp_path / "y.npy", "test")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), FLOATS[:2] + 1)


@pytest.mark.parametrize("n", [N - 1, N + 1])
@pytest.mark.parametrize("suffix", [".npy", ".hdf5", ".parquet"])
def test_other_than_the_announced_rows_leave_no_file(n: int, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="that were announced"):
        write_rows([FLOATS], n, DIM, FLOATS.dtype, tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", FLOATS)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 1000))
    with pytest.raises(RunError, match=r"66,640 bytes are needed, 1,000 are free"):
        convert(tmp_path / "x.npy", tmp_path / "new" / "x.npy")
    assert not (tmp_path / "new").exists()
