"""Vectors and answers from files of any format: read as they were written by others, or refused in one line."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from ivfast.data.first_bytes import are_whole
from ivfast.data.formats import FORMATS, open_rows
from ivfast.data.formats.answers import open_gt
from ivfast.data.formats.folder import natural
from ivfast.data.formats.rows import READ_AS
from ivfast.runtime.errors import UserError
from tests.saving import (
    DIM,
    FLOATS,
    GT,
    N,
    hdf5,
    npy,
    save_backwards,
    save_bin,
    save_hdf5,
    save_lance,
    save_lists,
    save_packed,
    save_parquet,
    save_parquets,
    save_shards,
    save_tensor,
    save_vecs,
    table,
    values,
)

CASES: list[tuple[str, Callable[[Path, np.ndarray], object], list[str]]] = [
    ("x.npy", np.save, ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16"]),
    ("backwards.npy", save_backwards, ["float16", "float32", "int16"]),
    ("x.fvecs", save_vecs, ["float32"]),
    ("x.bvecs", save_vecs, ["uint8"]),
    ("x.fbin", save_bin, ["float32"]),
    ("x.u8bin", save_bin, ["uint8"]),
    ("x.i8bin", save_bin, ["int8"]),
    ("x.hdf5", save_hdf5, ["float16", "float32", "float64", "uint8"]),
    ("packed.h5", save_packed, ["float32"]),
    ("x.parquet", save_parquet, ["float16", "float32", "float64", "int8", "uint8"]),
    ("lists.parquet", save_lists, ["float32", "float64"]),
    ("x.safetensors", save_tensor, ["float16", "float32", "float64", "int8"]),
    ("x.lance", save_lance, ["float16", "float32"]),
    ("shards", save_shards, ["float16", "float32"]),
    ("parquets", save_parquets, ["float32"]),
]


@pytest.mark.parametrize(
    ("file", "save", "dtype"), [(file, save, dtype) for file, save, types in CASES for dtype in types]
)
def test_vectors_are_read_as_they_were_written_in_blocks_of_any_size(
    file: str, save: Callable[[Path, np.ndarray], object], dtype: str, tmp_path: Path
) -> None:
    x = values(dtype)
    save(tmp_path / file, x)
    rows = open_rows(tmp_path / file)
    assert (rows.path, rows.n, rows.dim, rows.dtype) == (tmp_path / file, N, DIM, dtype)
    for size in (1, 5, 9, N, 100):
        blocks = list(rows.blocks(size))
        assert [len(block) for block in blocks[:-1]] == [size] * ((N - 1) // size)
        assert all(block.dtype == READ_AS[dtype] and block.flags.c_contiguous for block in blocks)
        np.testing.assert_array_equal(np.concatenate(blocks).astype(np.float64), x.astype(np.float64))


def test_every_suffix_and_stored_type_has_a_case() -> None:
    assert {Path(file).suffix for file, _, _ in CASES} == {*FORMATS, ".lance", ""}
    assert {dtype for _, _, types in CASES for dtype in types} == READ_AS.keys() - {"bfloat16"}  # it has its own test


@pytest.mark.parametrize("stored", READ_AS)
def test_the_type_read_holds_every_stored_value(stored: str) -> None:
    if stored.endswith(("int8", "int16")):
        info = np.iinfo(stored)
        all_of_them = np.arange(info.min, info.max + 1)
        np.testing.assert_array_equal(all_of_them.astype(READ_AS[stored]).astype(np.int64), all_of_them)


def test_every_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    x = torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(torch.bfloat16).reshape(-1, 64)
    save_torch({"x": x}, tmp_path / "x.safetensors")
    rows = open_rows(tmp_path / "x.safetensors")
    assert rows.dtype == "bfloat16"
    np.testing.assert_array_equal(np.concatenate(list(rows.blocks(100))), x.float().numpy())


def test_suffixes_are_known_in_any_case(tmp_path: Path) -> None:
    save_bin(tmp_path / "X.FBIN", values("float32"))
    assert open_rows(tmp_path / "X.FBIN").n == N


def test_a_column_is_chosen_by_name(tmp_path: Path) -> None:
    x, y = values("float32"), values("float16")
    save_hdf5(tmp_path / "x.hdf5", x)
    test = open_rows(tmp_path / "x.hdf5", "test")
    np.testing.assert_array_equal(next(test.blocks(10)), x[:2] + 1)
    save_file({"a": x, "b": y}, tmp_path / "x.safetensors")
    both = table(x).append_column("b", pa.array(list(y), pa.list_(pa.float16(), DIM)))
    pq.write_table(both.rename_columns(["id", "tags", "a", "b"]), tmp_path / "x.parquet")
    for file in ("x.safetensors", "x.parquet"):
        np.testing.assert_array_equal(next(open_rows(tmp_path / file, "b").blocks(N)), y)
        with pytest.raises(UserError, match=r"more than one .*; choose by --column one of a \(.*\), b \(.*\)$"):
            open_rows(tmp_path / file)
        with pytest.raises(UserError, match=r"called c; choose one of a .*, b "):
            open_rows(tmp_path / file, "c")
    with pytest.raises(UserError, match="called tags, it is list"):
        open_rows(tmp_path / "x.parquet", "tags")


IN_ONE_FILE = [case for case in CASES if case[0] not in ("shards", "parquets", "x.lance")]


@pytest.mark.parametrize(("file", "save", "types"), IN_ONE_FILE)
def test_a_block_takes_little_memory_however_large_the_file(
    file: str, save: Callable[[Path, np.ndarray], object], types: list[str], tmp_path: Path
) -> None:
    x = np.zeros((6_000, 64), dtype=types[0])
    save(tmp_path / file, x)
    rows = open_rows(tmp_path / file)
    next(rows.blocks(50))  # what libraries keep from their first use
    tracemalloc.start()
    try:
        assert sum(len(block) for block in rows.blocks(50)) == len(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150_000  # bytes; the file has 384,000 or more, a block 25,600 at most


def test_a_block_is_there_before_later_rows_are_read(tmp_path: Path) -> None:
    """Their faults are found when it is their turn."""
    x = values("float32")
    save_vecs(tmp_path / "x.fvecs", x)
    with (tmp_path / "x.fvecs").open("r+b") as file:
        file.seek(20 * (4 + 4 * DIM))
        file.write(struct.pack("<i", 99))
    lists: list[object] = [*x.tolist()]
    lists[20] = None
    pq.write_table(pa.table({"x": pa.array(lists, pa.list_(pa.float32()))}), tmp_path / "x.parquet")
    for file, told in (("x.fvecs", "row 20 says 99 columns, expected 6"), ("x.parquet", "row 20 is null")):
        blocks = open_rows(tmp_path / file).blocks(8)
        np.testing.assert_array_equal(np.concatenate([next(blocks), next(blocks)]), x[:16])
        with pytest.raises(UserError, match=told):
            next(blocks)


def test_names_are_sorted_by_the_numbers_in_them() -> None:
    names = ["b-1", "a-10-2", "a-2-10", "a-2-9", "a"]
    assert sorted(names, key=natural) == ["a", "a-2-9", "a-2-10", "a-10-2", "b-1"]


SMALL = st.integers(0, 5)


@given(st.sampled_from(["fvecs", "bvecs", "fbin", "u8bin", "i8bin"]), SMALL, SMALL, st.integers(-2, 2), st.binary())
@settings(deadline=None, max_examples=200, database=None)
def test_a_flat_file_is_read_exactly_where_its_size_equation_holds(
    tmp_path_factory: pytest.TempPathFactory, kind: str, n: int, dim: int, off: int, content: bytes
) -> None:
    size = 4 if kind.startswith("f") else 1
    row = struct.pack("<i", dim) if kind.endswith("vecs") else b""
    head = b"" if row else struct.pack("<II", n, dim)
    body = (content + bytes(n * dim * size))[: n * dim * size]
    assume(not (size == 4 and are_whole(body)))  # which no float is
    rows = [body[at : at + dim * size] for at in range(0, len(body), max(1, dim * size))] or [b""] * n
    whole = head + b"".join(row + part for part in rows)
    path = tmp_path_factory.mktemp("flat") / f"x.{kind}"
    path.write_bytes(whole[:off] if off < 0 else whole + bytes(off))
    if n and dim and off == 0:
        found = np.concatenate(list(open_rows(path).blocks(2)))
        expected = np.frombuffer(body, {"f": "<f4", "b": "u1", "u": "u1", "i": "i1"}[kind[0]]).reshape(n, dim)
        np.testing.assert_array_equal(found, expected)
    else:
        with pytest.raises(UserError):
            open_rows(path)


def save_ibin(path: Path) -> None:
    save_bin(path, GT.astype(np.int32))


def save_ibin_with_distances(path: Path) -> None:
    save_ibin(path)
    with path.open("ab") as file:
        file.write(np.ones((2, 3), np.float32).tobytes())


ANSWERS = [
    ("gt.npy", npy(GT)),
    ("narrow.npy", npy(GT.astype(np.int32))),
    ("gt.ivecs", lambda path: save_vecs(path, GT.astype(np.int32))),
    ("ids.ibin", save_ibin),
    ("gt.ibin", save_ibin_with_distances),
    ("gt.hdf5", hdf5(train=FLOATS, neighbors=GT.astype(np.int32), ids=GT[:1])),
    ("only.h5", hdf5(train=FLOATS, answers=GT)),
]


@pytest.mark.parametrize(("file", "write"), ANSWERS)
def test_answers_are_read_as_they_were_written(file: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / file)
    found = open_gt(tmp_path / file)
    assert found.dtype.kind == "i"
    np.testing.assert_array_equal(found, GT)
