"""Files of vectors and answers that cannot be right: each is refused in one line that says what was found."""

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from ivfast.data.formats import open_rows
from ivfast.data.formats.answers import open_gt
from ivfast.runtime.errors import UserError
from tests.saving import (
    FLOATS,
    GT,
    INTEGERS,
    cut,
    hdf5,
    npy,
    parquet,
    raw,
    save_bin,
    save_hdf5,
    save_parquet,
    save_tensor,
    save_vecs,
    values,
)


def unwritten(path: Path, **layout: object) -> None:
    """A dataset of a terabyte that nobody wrote."""
    with h5py.File(path, "w") as file:
        file.create_dataset("train", (1 << 20, 1 << 18), "f4", **layout)


def elsewhere(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("train", (2, 3), "f4", external=[("other.bin", 0, 24)])


def linked(path: Path) -> None:
    save_hdf5(path.with_name("other.h5"), FLOATS)
    with h5py.File(path, "w") as file:
        file["train"] = h5py.ExternalLink("other.h5", "train")


def folder(**files: np.ndarray) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.mkdir()
        for name, array in files.items():
            np.save(path / f"{name}.npy", array)

    return write


def also(shards: list[str], *others: str, write: Callable[[Path], object] = Path.touch) -> Callable[[Path], object]:
    """A folder of shards of these names, and of other files."""

    def write_all(path: Path) -> None:
        folder()(path)
        for name in shards:
            (save_parquet if name.endswith(".parquet") else np.save)(path / name, FLOATS)
        for name in others:
            write(path / name)

    return write_all


OF_3 = [f"x-0000{i}-of-00003.parquet" for i in range(3)]


def mixed(path: Path) -> None:
    folder(a=FLOATS)(path)
    save_parquet(path / "b.parquet", FLOATS)


GT32 = GT.astype(np.int32)
ROW = FLOATS[:1].astype(np.float32)
WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absent": ("x.fvecs", lambda _: None, "is missing"),
    "a pipe": ("x.fvecs", os.mkfifo, "is a pipe, expected a file"),
    "no suffix": ("vectors", raw(b"x"), r"ends in no suffix, expected \.npy, \.fvecs"),
    "suffix nearly right": ("x.fvec", raw(b"x"), r"ends in \.fvec \(did you mean \.fvecs\?\)"),
    "answers for vectors": ("x.ivecs", raw(b"x"), r"holds answers \(gt\) by its suffix"),
    "no known suffix": ("x.csv", raw(b"x"), r"ends in \.csv, expected \.npy, .*\.lance, or a folder of \.npy or"),
    "npy: complex": ("x.npy", npy(FLOATS.astype(np.complex64)), "holds complex64, expected float32"),
    "npy: integers": ("x.npy", npy(INTEGERS), "holds int64"),
    "npy: booleans": ("x.npy", npy(INTEGERS > 9), "holds bool"),
    "npy: text": ("x.npy", npy(np.array([["a"]])), "holds <U1"),
    "npy: one row": ("x.npy", npy(FLOATS[0]), r"shape \(6,\)"),
    "npy: truncated": ("x.npy", cut(np.save, 1, "float32"), "is truncated"),
    "fvecs: empty": ("x.fvecs", raw(b""), "is empty"),
    "fvecs: truncated": ("x.fvecs", cut(save_vecs, 4, "float32"), "it is truncated, has rows of unequal length"),
    "fvecs: dim 0": ("x.fvecs", raw(bytes(40)), "row 0 says 0 columns"),
    "fvecs: dim -1": ("x.fvecs", raw(b"\xff" * 40), "row 0 says -1 columns"),
    "fvecs: huge dim": ("x.fvecs", raw(b"\xff\xff\xff\x7f" * 9), "row 0 says 2147483647 columns"),
    "bvecs as fvecs": ("x.fvecs", lambda path: save_vecs(path, values("uint8")), r"it is vectors as \.bvecs"),
    "ivecs as fvecs": (
        "x.fvecs",
        lambda path: save_vecs(path, GT32),
        r"it is answers \(gt\) as \.ivecs has them; name",
    ),
    "ivecs as fvecs, zeros first": (
        "x.fvecs",
        lambda path: save_vecs(path, np.array([[0, 0], [5, 1 << 26]], np.int32)),
        r"it holds whole numbers of 32 bits, as \.ivecs and \.ibin have them, .* nearly 0; name",
    ),
    "ibin as fbin": ("x.fbin", lambda path: save_bin(path, GT32), r"it is answers \(gt\) as \.ibin has them; name"),
    "bvecs as fvecs, of a size that fits": (
        "x.fvecs",
        lambda path: save_vecs(path, np.arange(32 * 5, dtype=np.uint8).reshape(32, 5)[:24]),
        r"it is vectors as \.bvecs has them; mv",
    ),
    "bvecs as fvecs, of 8 columns": (
        "x.fvecs",
        lambda path: save_vecs(path, np.arange(30 * 8, dtype=np.uint8).reshape(30, 8)),
        r"it is vectors as \.bvecs has them; mv",
    ),
    "bvecs as fvecs, of 2 columns": (
        "x.fvecs",
        lambda path: save_vecs(path, np.arange(4 * 2, dtype=np.uint8).reshape(4, 2)),
        r"it is vectors as \.bvecs has them; mv",
    ),
    "fvecs as bvecs, of a size that fits": (
        "x.bvecs",
        lambda path: save_vecs(path, np.ones((3, 8), np.float32)),
        r"it is vectors as \.fvecs has them; mv",
    ),
    "fvecs: not written to its end": (
        "x.fvecs",
        lambda path: (save_vecs(path, ROW), os.truncate(path, 28 * 5000)),
        "holds nothing but zeros from row 1 on, as a file whose writing was interrupted; copy",
    ),
    "fbin: cut in the header": ("x.fbin", raw(bytes(7)), "is truncated: 7 bytes"),
    "fbin: truncated": ("x.fbin", cut(save_bin, 1, "float32"), "makes 560 bytes, the file has 559"),
    "fbin: bytes too many": ("x.fbin", raw(struct.pack("<II", 1, 1) + bytes(5)), "makes 12 bytes, the file has 13"),
    "fbin: no rows": ("x.fbin", raw(struct.pack("<II", 0, 6)), "0 rows of 6 columns"),
    "fbin: dim 0": ("x.fbin", raw(struct.pack("<II", 6, 0)), "6 rows of 0 columns"),
    "fbin: huge": ("x.fbin", raw(b"\xff" * 8), "4294967295 rows of 4294967295 columns"),
    "u8bin as i8bin of other size": ("x.i8bin", lambda path: save_bin(path, ROW), r"it is vectors as \.fbin"),
    "hdf5: no such file": ("x.hdf5", raw(b"\x01" * 99), "cannot be read"),
    "hdf5: truncated": ("x.hdf5", cut(save_hdf5, 300, "float32"), "cannot be read .*truncated"),
    "hdf5: nothing in it": ("x.hdf5", hdf5(), "has no two-dimensional dataset.* it holds nothing"),
    "hdf5: text": ("x.hdf5", hdf5(train=[["a"]]), r"it holds train \(object \(1, 1\)\)"),
    "hdf5: complex": ("x.hdf5", hdf5(train=FLOATS * 1j), "it holds train .complex128"),
    "hdf5: no rows": ("x.hdf5", hdf5(train=FLOATS[:0]), r"it holds train \(float64 \(0, 6\)\)"),
    "hdf5: several": ("x.hdf5", hdf5(a=FLOATS, b=ROW), r"choose by --column one of a \(float64 \(23, 6\)\), b "),
    "hdf5: in another file": ("x.hdf5", elsewhere, "in other files"),
    "hdf5: linked": ("x.hdf5", linked, "it holds nothing"),
    "hdf5: never written": ("x.hdf5", unwritten, "holds 0 of the 1,099,511,627,776 bytes"),
    "hdf5: no chunk": ("x.hdf5", lambda path: unwritten(path, chunks=(1 << 10, 1 << 10)), "holds 0 of the 262,144 chu"),
    "parquet: truncated": ("x.parquet", cut(save_parquet, 1, "float32"), "cannot be read"),
    "parquet: empty": ("x.parquet", raw(b""), "is empty"),
    "parquet: no rows": ("x.parquet", parquet([], pa.list_(pa.float32())), "has no rows"),
    "parquet: no lists": ("x.parquet", parquet([1.0, 2.0]), r"it holds id \(int64\), x \(double\)"),
    "parquet: strings": ("x.parquet", parquet([["a"], ["b"]]), r"x \(list<element: string>\)"),
    "parquet: null row": ("x.parquet", parquet([[1.0], None]), "column x row 1 is null"),
    "parquet: null first": ("x.parquet", parquet([None, [1.0]]), "column x row 0 is null"),
    "parquet: null": ("x.parquet", parquet([[1.0, 2.0], [1.0, None]]), "column x row 1 holds a null"),
    "parquet: null in a fixed size": (
        "x.parquet",
        parquet([[1.0, 2.0], [None, 2.0]], pa.list_(pa.float32(), 2)),
        "column x row 1 holds a null",
    ),
    "parquet: unequal": ("x.parquet", parquet([[1.0, 2.0], [1.0]]), "row 1 has 1 numbers, expected 2"),
    "parquet: dim 0": ("x.parquet", parquet([[], []], pa.list_(pa.float32())), "lists of no numbers"),
    "safetensors: empty": ("x.safetensors", raw(b""), "is empty"),
    "safetensors: truncated": ("x.safetensors", cut(save_tensor, 1, "float32"), "cannot be read"),
    "safetensors: integers": (
        "x.safetensors",
        lambda path: save_file({"ids": INTEGERS}, path),
        r"it holds ids \(I64 \(23, 6\)\)",
    ),
    "lance: none": ("x.lance", lambda path: path.mkdir(), "cannot be read"),
    "folder: empty": ("shards", lambda path: path.mkdir(), "that holds nothing, expected shards"),
    "folder: of folders": (
        "db",
        lambda path: (path / "x.lance").mkdir(parents=True),
        r"that holds x\.lance/, expected",
    ),
    "folder: of two kinds": ("shards", mixed, r"holds a\.npy, b\.parquet, expected shards"),
    "folder: dims": ("shards", folder(a=FLOATS, b=FLOATS[:, :5]), r"b\.npy holds 5 columns of float64, expected 6 of"),
    "folder: types": ("shards", folder(a=FLOATS, b=ROW), r"b\.npy holds 6 columns of float32, expected 6 of float64"),
    "folder: one of three lacks": (
        "shards",
        also(["part-0-of-3.npy", "part-2-of-3.npy"]),
        r"lacks part-1-of-3\.npy: 2 of the 3 shards are there that their names count; copy",
    ),
    "folder: of Hugging Face": ("shards", also(OF_3[1:2]), rf"lacks {OF_3[0]}, {OF_3[2]}: 1 of the 3 shards"),
    "folder: the last lacks": (
        "shards",
        also(["a-1-of-3.npy", "a-2-of-3.npy"]),
        r"lacks a-0-of-3.npy \(or a-3-of-3.npy",
    ),
    "folder: counted from 1": ("shards", also(["a_1_of_3.npy", "a_3_of_3.npy"]), r"lacks a_2_of_3\.npy: 2 of the 3"),
    "folder: of two series": ("shards", also([*OF_3, "y-00000-of-00002.parquet"]), "lacks y-00001-of-00002.parquet: 1"),
    "folder: nearly all lack": (
        "shards",
        also(["a-5-of-999999999.npy"]),
        r"lacks a-0-of-999999999\.npy, .*, a-12-of-999999999\.npy and 999,999,986 more: 1 of the 999,999,999 shards",
    ),
    "folder: fvecs too": ("shards", also(["a.npy"], "b.fvecs"), r"/b\.fvecs lies among 1 shards that end in \.npy and"),
    "folder: lance too": ("shards", also(["a.npy"], "b.lance", write=Path.mkdir), r"/b\.lance lies among 1 shards"),
    "folder: one packed": ("shards", also(["p-0.npy", "p-1.npy"], "p-2.npz"), r"/p-2\.npz lies among 2 shards"),
    "folder: one half loaded": ("shards", also(["p-0.npy"], "p-1.npy.part"), r"/p-1\.npy\.part lies among 1 shards"),
    "folder: a pipe": (
        "shards",
        also(["p-0.npy"], "p-1.npy", write=os.mkfifo),
        r"/p-1\.npy is a pipe, expected a file",
    ),
    "folder: a broken link": (
        "shards",
        also(["p-0.npy"], "p-1.npy", write=lambda path: path.symlink_to("blob")),
        r"/p-1\.npy is a link to blob, which is not there",
    ),
    "folder: a bad shard": ("shards", folder(a=FLOATS, b=FLOATS[0]), r"b\.npy has shape \(6,\)"),
}


@pytest.mark.parametrize(
    "names",
    [
        OF_3,
        ["a-1-of-2.npy", "a-2-of-2.npy"],
        ["a-00-of-2.npy", "a-01-of-2.npy", "readme-of-a.npy"],
        ["part-0.npy", "part-2.npy", "part-0.json", "part-1.json", "part-0.csv", "notes.md", "labels.csv"],
    ],
)
def test_a_folder_that_is_whole_is_read(names: list[str], tmp_path: Path) -> None:
    shards = [name for name in names if name.endswith((".npy", ".parquet"))]
    also(shards, *(name for name in names if name not in shards))(tmp_path / "shards")
    assert open_rows(tmp_path / "shards").n == len(shards) * len(FLOATS)


def test_small_floats_are_no_whole_numbers(tmp_path: Path) -> None:
    x = np.zeros((300, 4), np.float32)
    x[7] = 1e-40, -1e-30, 0, 1e-38
    for name, save in (("x.fvecs", save_vecs), ("x.fbin", save_bin)):
        save(tmp_path / name, x)
        np.testing.assert_array_equal(next(open_rows(tmp_path / name).blocks(300)), x)


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_or_odd_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    file, write, told = WRONG[case]
    write(tmp_path / file)
    with pytest.raises(UserError, match=f"^base: {tmp_path}.*{told}") as refused:
        list(open_rows(tmp_path / file, name="base").blocks(10))
    assert "\n" not in str(refused.value)


def test_a_column_is_refused_where_there_are_none(tmp_path: Path) -> None:
    save_bin(tmp_path / "x.fbin", values("float32"))
    with pytest.raises(UserError, match="has no columns to choose a from"):
        open_rows(tmp_path / "x.fbin", "a")


@pytest.mark.parametrize(("module", "file"), [("h5py", "x.h5"), ("pyarrow.parquet", "x.parquet"), ("lance", "x.lance")])
def test_a_package_that_lacks_is_named_with_the_command(
    module: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).mkdir() if file == "x.lance" else (tmp_path / file).write_bytes(b"\x01")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'{file} needs .*{module}.*; pip install "ivfast\[formats\]"$'):
        open_rows(tmp_path / file)


WRONG_ANSWERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absent": ("gt.ivecs", lambda _: None, "is missing"),
    "a folder": ("gt.npy", lambda path: path.mkdir(), "a folder, expected a file"),
    "vectors": ("gt.fvecs", lambda path: save_vecs(path, ROW), r"ends in \.fvecs \(did you mean \.ivecs\?\)"),
    "floats": ("gt.npy", npy(FLOATS), "holds float64, expected int64"),
    "truncated": ("gt.ivecs", cut(save_vecs, 1, "float32"), "is truncated"),
    "half of the distances": ("gt.ibin", raw(struct.pack("<II", 2, 2) + bytes(24)), "makes 24 bytes, the file has 32"),
    "no integers": ("gt.hdf5", hdf5(train=FLOATS), "has no two-dimensional dataset of integers"),
    "several": ("gt.hdf5", hdf5(a=GT, b=GT), "more than one .*choose by --column one of a .*, b "),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_what_holds_no_answers_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    file, write, told = WRONG_ANSWERS[case]
    write(tmp_path / file)
    with pytest.raises(UserError, match=f"^gt: .*{told}"):
        open_gt(tmp_path / file)
