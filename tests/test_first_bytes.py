"""Files under a wrong name are told by what they are, and what the message advises makes the array that was meant."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pytest
import torch

from ivfast.data.cleaning import scan
from ivfast.data.first_bytes import CONVERTED, recognise
from ivfast.data.formats import FORMATS, LANCE, open_rows
from ivfast.data.formats.answers import open_gt
from ivfast.data.formats.convert import convert
from ivfast.data.npy import open_array
from ivfast.data.vectors import open_vectors
from ivfast.data.wrong_types import in_other_order
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from tests.saving import save_bin, save_hdf5, save_parquet, save_tensor, save_vecs

X = (np.random.default_rng(5).standard_normal((23, 6)) * 40).astype(np.float32)
IDS = np.random.default_rng(6).permutation(60).reshape(20, 3).astype(np.int32)
Write = Callable[[Path], object]


def stored(write: Callable[[io.BytesIO], object]) -> Write:
    """What a function writes into an open file."""

    def write_path(path: Path) -> None:
        file = io.BytesIO()
        write(file)
        path.write_bytes(file.getvalue())

    return write_path


def raw(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("base.npy")
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("words.txt", "abc")


def arrow(path: Path) -> None:
    column = pa.table({"x": pa.array(list(X), pa.list_(pa.float32(), 6))})
    feather.write_feather(column, path, compression="uncompressed")


def arrow_stream(path: Path) -> None:
    with ipc.new_stream(path, pa.schema([("x", pa.int64())])):
        pass


def flat_index(path: Path) -> None:
    index = faiss.IndexFlatL2(6)
    index.add(X)
    faiss.write_index(index, str(path))


def table(delimiter: str, head: str = "") -> Write:
    def write(path: Path) -> None:
        with path.open("w") as file:
            np.savetxt(file, X, delimiter=delimiter, header=head, comments="")

    return write


# what is written, and words of the message; the advice makes X of it
MEANT: dict[str, tuple[Write, str]] = {
    "npz": (stored(lambda file: np.savez(file, vectors=X)), r"an archive of NumPy \(\.npz\)"),
    "npz, compressed": (stored(lambda file: np.savez_compressed(file, X)), r"an archive of NumPy \(\.npz\)"),
    "torch": (stored(lambda file: torch.save(torch.tensor(X), file)), "a file of torch.save"),
    "torch, old": (
        stored(lambda file: torch.save(torch.tensor(X), file, _use_new_zipfile_serialization=False)),
        "a file of torch.save",
    ),
    "hdf5": (lambda path: save_hdf5(path, X), "an HDF5 file"),
    "parquet": (lambda path: save_parquet(path, X), "a Parquet file"),
    "safetensors": (lambda path: save_tensor(path, X), "a safetensors file"),
    "fvecs": (lambda path: save_vecs(path, X), r"vectors as \.fvecs has them"),
    "fbin": (lambda path: save_bin(path, X), r"vectors as \.fbin has them"),
    "faiss": (flat_index, "a FAISS index"),
    "csv": (table(","), r"text of numbers \(CSV\)"),
    "csv with a header": (table(";", "a;b;c;d;e;f"), r"text of numbers \(CSV\)"),
    "tsv": (table("\t"), r"text of numbers \(CSV\)"),
    "text": (table(" "), r"text of numbers \(CSV\)"),
    "json": (lambda path: path.write_text(json.dumps(X.tolist())), "JSON text"),
    "no header": (lambda path: X.tofile(path), "none of the formats that are known by their first bytes"),
}
NAMES = {"np": np, "json": json, "torch": torch, "faiss": faiss}


def do(advice: str) -> None:
    """What the end of a message says."""
    if "mv " in advice or "ivfast convert" in advice:
        for command in advice[advice.index("mv ") if "mv " in advice else advice.index("ivfast ") :].split(" && "):
            words = shlex.split(command)
            if words[0] == "mv":
                os.rename(*words[1:])
            else:
                assert words[:2] == ["ivfast", "convert"]
                convert(*words[2:], column="vectors" if words[2].endswith(".safetensors") else None)
        return
    line = advice[advice.index("np.save(") :].split("; else")[0]
    exec(line.replace("DIM", "6"), NAMES)  # noqa: S102


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # json.load(open(..)) is what people type
@pytest.mark.parametrize("case", MEANT)
def test_a_file_under_the_name_npy_is_told_and_the_advice_makes_the_array(case: str, tmp_path: Path) -> None:
    write, told = MEANT[case]
    path = tmp_path / "base.npy"
    write(path)
    with pytest.raises(
        UserError, match=f"^base: {path} is no readable .npy array: it begins with .*; it is {told}; "
    ) as e:
        open_array(path, "base")
    assert "\n" not in str(e.value)
    do(str(e.value).split("; ", 2)[2])
    np.testing.assert_allclose(open_array(path, "base"), X, rtol=1e-6)


@pytest.mark.parametrize(
    ("save", "suffix", "type"), [(save_vecs, ".bvecs", "u1"), (save_bin, ".u8bin", "u1"), (save_bin, ".fbin", "f4")]
)
def test_bytes_and_floats_without_a_magic_are_told_apart(save, suffix: str, type: str, tmp_path: Path) -> None:
    save(tmp_path / "x.npy", np.abs(X).astype(type))
    with pytest.raises(UserError, match=rf"it is vectors as \{suffix} has them; mv \S+x\.npy \S+x\{suffix} && ivfast"):
        open_array(tmp_path / "x.npy", "base")


# what can't be turned into vectors by one line, or by a program that is not ours
TOLD: dict[str, tuple[Write, str]] = {
    "pickle": (raw(pickle.dumps([[1.0, 2.0], [3.0]])), "a pickle of Python.*where you trust"),
    "pickle, protocol 2": (raw(pickle.dumps({"x": [1.0]}, protocol=2)), "a pickle of Python"),
    "gzip": (raw(gzip.compress(b"abc" * 99)), "packed by gzip; unpack it: .*gunzip"),
    "bzip2": (raw(bz2.compress(b"abc" * 99)), "packed by bzip2"),
    "xz": (raw(lzma.compress(b"abc" * 99)), "packed by xz"),
    "zstd": (raw(pa.compress(b"abc" * 99, "zstd", asbytes=True)), "packed by zstd; unpack it: .*unzstd"),
    "zip": (zipped, "a ZIP archive; unpack it"),
    "tar": (tarred, "a tar archive; unpack it"),
    "arrow": (arrow, r"an Arrow \(Feather\) file; import pyarrow"),
    "arrow stream": (arrow_stream, "a stream of Arrow; import pyarrow"),
    "html": (raw(b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"), "an HTML page, .*download the file itself"),
    "xml": (raw(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "XML, .*download the file itself"),
    "json error": (raw(b'{"error": "Repository not found"}'), "JSON text"),
    "lfs": (
        raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"),
        "a pointer of Git LFS, .*git lfs pull",
    ),
    "annex": (raw(b"/annex/objects/SHA256E-s1--a\n"), "a pointer of git-annex"),
    "words": (raw(b"the vectors are elsewhere\n"), "plain text, which begins with 'the vectors are elsewhere"),
    "zeros": (raw(bytes(4096)), "nothing but zeros"),
    "matlab": (raw(b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200)), "a MATLAB file; .*loadmat"),
    "picture": (raw(b"\x89PNG\r\n\x1a\n" + bytes(50)), "a picture"),
}


@pytest.mark.parametrize("name", ["base.npy", "base.fvecs", "base.parquet", "base.bin"])
@pytest.mark.parametrize("case", TOLD)
def test_what_is_no_vectors_is_told_under_any_name(case: str, name: str, tmp_path: Path) -> None:
    write, told = TOLD[case]
    write(tmp_path / name)
    with pytest.raises(UserError, match=f"^base: {tmp_path}.*; it is {told}|: it is {told}") as refused:
        open_rows(tmp_path / name, name="base")
    assert "\n" not in str(refused.value)


def arrow_rows(path: Path) -> None:
    rows = pa.table({"x": pa.array(list(X), pa.list_(pa.float32(), 6))})
    with ipc.new_stream(path, rows.schema) as stream:
        stream.write_table(rows)


@pytest.mark.parametrize("write", [arrow, arrow_rows])
def test_what_is_advised_of_arrow_makes_parquet_of_it(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "base.npy")
    with pytest.raises(UserError, match=r"of Arrow|an Arrow") as refused:
        open_array(tmp_path / "base.npy", "base")
    line = str(refused.value).split("; ", 2)[2].split(", then ")[0]
    exec(line, {})  # noqa: S102
    np.testing.assert_array_equal(next(open_rows(tmp_path / "base.npy.parquet").blocks(23)), X)


@pytest.mark.parametrize("kind", ["Flat", "SQ8", "PQ2x4", "IVF2,Flat", "IVF2,PQ2x4", "IVF2,SQ8"])
def test_what_is_advised_of_a_faiss_index_makes_its_vectors(kind: str, tmp_path: Path) -> None:
    index = faiss.index_factory(6, kind)
    index.train(X)  # pyright: ignore[reportCallIssue]
    index.add(X)  # pyright: ignore[reportCallIssue]
    faiss.write_index(index, str(tmp_path / "base.npy"))
    with pytest.raises(UserError, match="it is a FAISS index; in Python import faiss, numpy as np; ") as refused:
        open_array(tmp_path / "base.npy", "base")
    exec(str(refused.value).split("in Python ")[1], {})  # noqa: S102
    assert np.abs(open_array(tmp_path / "base.npy", "base") - X).mean() < 10


@pytest.mark.parametrize("case", ["npz", "npz, compressed", "torch", "torch, old"])
def test_what_is_advised_runs_in_a_python_that_knows_no_names(case: str, tmp_path: Path) -> None:
    MEANT[case][0](tmp_path / "base.npy")
    with pytest.raises(UserError) as refused:
        open_array(tmp_path / "base.npy", "base")
    exec(str(refused.value).split("in Python ")[1], {})  # noqa: S102
    np.testing.assert_array_equal(open_array(tmp_path / "base.npy", "base"), X)


SWAPPED: list[tuple[Write, str, str]] = [
    (lambda path: save_bin(path, X), "x.fvecs", ".fbin"),
    (lambda path: save_vecs(path, X), "x.fbin", ".fvecs"),
    (lambda path: save_hdf5(path, X), "x.parquet", ".hdf5"),
    (lambda path: save_parquet(path, X), "x.safetensors", ".parquet"),
    (stored(lambda file: np.save(file, X)), "x.fvecs", ".npy"),
    (stored(lambda file: np.save(file, X)), "x.h5", ".npy"),
    (lambda path: save_vecs(path, X), "vectors", ".fvecs"),
]


@pytest.mark.parametrize(("write", "name", "right"), SWAPPED, ids=[f"{case[2]} as {case[1]}" for case in SWAPPED])
def test_one_format_under_the_name_of_another_is_renamed(write: Write, name: str, right: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(UserError, match=rf"; (rename it: )?mv \S+{name} ") as refused:
        open_rows(tmp_path / name)
    do(str(refused.value))
    assert (tmp_path / name).with_suffix(right).is_file()
    np.testing.assert_array_equal(np.load((tmp_path / name).with_suffix(".npy")), X)


@pytest.mark.parametrize("dim", [0x0280, 0x0380, 0x0480, 0x1F, 0x5A42])  # as a pickle begins, gzip, bzip2
def test_rows_whose_length_looks_like_a_magic_are_read(dim: int, tmp_path: Path) -> None:
    x = np.ones((3, dim), dtype=np.float32)
    save_vecs(tmp_path / "x.fvecs", x)
    np.testing.assert_array_equal(next(open_rows(tmp_path / "x.fvecs").blocks(9)), x)
    (tmp_path / "x.fvecs").write_bytes((tmp_path / "x.fvecs").read_bytes()[:-1])
    with pytest.raises(UserError, match="it is truncated"):
        open_rows(tmp_path / "x.fvecs")


@pytest.mark.parametrize(("save", "suffix"), [(save_vecs, ".ivecs"), (save_bin, ".ibin"), (save_hdf5, ".hdf5")])
def test_answers_under_another_name_come_with_the_command_that_reads_them(save, suffix: str, tmp_path: Path) -> None:
    path, answers = tmp_path / "gt.npy", IDS
    save(path, answers)
    with pytest.raises(UserError, match=r"^gt: .* it is ") as refused:
        open_gt(path)
    command = str(refused.value).split("; ", 2)[2]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)  # noqa: S602
    expected = np.zeros((2, 3)) if suffix == ".hdf5" else IDS  # its neighbors
    np.testing.assert_array_equal(open_gt(path), expected)
    if suffix != ".hdf5":
        os.rename(path.with_suffix(suffix), path)
        with pytest.raises(UserError, match=rf"answers \(gt\) as \{suffix} has them; name the file"):
            open_array(path, "base")


def test_answers_of_which_nothing_is_known_are_told_too(tmp_path: Path) -> None:
    (tmp_path / "gt.ivecs").write_bytes(gzip.compress(b"abc" * 99))
    with pytest.raises(UserError, match=r"^gt: .*no readable .ivecs file: it is packed by gzip"):
        open_gt(tmp_path / "gt.ivecs")


def test_what_lies_beside_a_missing_file_is_offered(tmp_path: Path) -> None:
    save_vecs(tmp_path / "base.fvecs", X)
    with pytest.raises(UserError, match=r"^base: \S+ is missing; .*; ivfast convert \S+base\.fvecs \S+base\.npy; or "):
        open_array(tmp_path / "base.npy", "base")
    (tmp_path / "learn").mkdir()
    np.save(tmp_path / "learn" / "part-0.npy", X)
    with pytest.raises(UserError, match=r"ivfast convert \S+learn \S+learn\.npy; or ") as refused:
        open_array(tmp_path / "learn.npy", "learn")
    do(str(refused.value).split("; or ")[0])
    np.testing.assert_array_equal(np.load(tmp_path / "learn.npy"), X)
    (tmp_path / "query.npy").mkdir()
    np.save(tmp_path / "query.npy" / "part-0.npy", X)
    with pytest.raises(UserError, match=r"a folder, expected a file.*mv \S+query.npy \S+query && ivfast") as refused:
        open_array(tmp_path / "query.npy", "query")
    do(str(refused.value).split("; or ")[0])
    np.testing.assert_array_equal(np.load(tmp_path / "query.npy"), X)
    save_vecs(tmp_path / "gt.ivecs", IDS)
    with pytest.raises(UserError, match=r"; python -c .*open_gt.*; or put the file there"):
        open_array(tmp_path / "gt.npy", "gt")


def test_an_empty_file_is_called_empty_under_any_name(tmp_path: Path) -> None:
    for suffix in FORMATS:
        (tmp_path / f"x{suffix}").touch()
        with pytest.raises(UserError, match="is empty"):
            open_rows(tmp_path / f"x{suffix}")


def test_what_is_offered_is_what_is_read() -> None:
    assert {*CONVERTED, ".npy"} == {*FORMATS, LANCE}


def test_what_cannot_be_read_is_not_recognised(tmp_path: Path) -> None:
    assert recognise(tmp_path / "absent") is None
    assert recognise(tmp_path) is None


def voids(type: Any) -> Write:
    """As np.save writes a type of ml_dtypes."""
    return lambda path: np.save(path, X.astype(type))


def test_bfloat16_is_named_and_converted(tmp_path: Path) -> None:
    path = tmp_path / "base.npy"
    for order in ("C", "F"):
        np.save(path, np.asarray(X, order=order).astype(ml_dtypes.bfloat16))
        with pytest.raises(UserError, match=r"holds <V2, expected float32; it looks like bfloat16") as refused:
            open_array(path, "base")
        do(str(refused.value))
        found = np.load(path)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, X.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.save(path, X.astype(ml_dtypes.bfloat16))
    with pytest.raises(UserError, match="gt holds row numbers"):
        open_array(path, "gt")


TYPES: dict[str, tuple[Write, str, np.ndarray | None]] = {
    "float8": (
        voids(ml_dtypes.float8_e4m3fn),
        "<V1, expected float32; it looks like float8",
        X.astype(ml_dtypes.float8_e4m3fn).astype(np.float32),
    ),
    "another float8": (voids(ml_dtypes.float8_e5m2), "<f1, expected float32; it looks like float8", None),
    "complex": (lambda path: np.save(path, X * (1 + 1j)), "complex64, .*real numbers", np.hstack([X, X])),
    "text": (lambda path: np.save(path, X.astype(str)), r"<U32, .*that is text", X),
    "bytes": (lambda path: np.save(path, X.astype("S")), r"\|S32, .*that is text", X),
    "booleans": (lambda path: np.save(path, X > 0), "bool, expected float32; save it", (X > 0).astype(np.float32)),
    "whole numbers": (lambda path: np.save(path, X.astype(int)), "int64, .*answers", np.trunc(X)),
    "long doubles": (lambda path: np.save(path, X.astype(np.longdouble)), "float128, expected float32; save it", X),
    "dates": (lambda path: np.save(path, X.astype("M8[D]")), "<M8.D., .*dates or times", None),
    "spans": (lambda path: np.save(path, X.astype("m8[s]")), "<m8.s., .*dates or times", None),
    "voids": (lambda path: np.save(path, np.zeros((3, 2), "V3")), r"\|V3, .*bytes without a type", None),
    "objects": (
        lambda path: np.save(path, np.array([*X, None], dtype=object)[:-1], allow_pickle=True),
        "Python objects .*where you trust the file",
        X,
    ),
    "records": (
        lambda path: np.save(path, np.array([tuple(row) for row in X], dtype=[(name, "f4") for name in "abcdef"])),
        r"records \(a structured array\)",
        X,
    ),
    "a field of vectors": (
        lambda path: np.save(
            path, np.array([(i, row) for i, row in enumerate(X)], dtype=[("i", "i8"), ("x", "f4", 6)])
        ),
        r"records \(a structured array\).*save the field",
        None,
    ),
}


@pytest.mark.parametrize("case", TYPES)
def test_other_types_are_named_with_what_to_do(case: str, tmp_path: Path) -> None:
    write, told, meant = TYPES[case]
    path = tmp_path / "base.npy"
    write(path)
    with pytest.raises(UserError, match=rf"^base: {path} holds {told}") as refused:
        open_rows(path, name="base")
    assert "np.save" in str(refused.value)
    if meant is not None:
        text = str(refused.value)
        exec(text[text.index("np.save('") :], {"np": np, "ml_dtypes": ml_dtypes})  # noqa: S102
        np.testing.assert_allclose(open_array(path, "base"), meant, rtol=1e-6)


SHAPES: list[tuple[tuple[int, ...], str, str]] = [
    ((12,), "base", r"np.stack, else use .reshape\(-1, DIM\)"),
    ((12,), "gt", r"one answer a query, use .reshape\(-1, 1\)"),
    ((1, 4, 3), "base", r"use .reshape\(4, 3\)"),
    ((4, 1, 3), "base", r"use .reshape\(4, 3\)"),
    ((4, 2, 3), "base", r"\(.mean\(axis=1\) is usual\), or a row of each vector \(.reshape\(-1, 3\)\)"),
    ((4, 0), "base", "write the vectors themselves"),
    ((), "base", "write the vectors themselves"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("type", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_vectors_with_bytes_in_the_other_order_are_told(type: str, metric: str, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(4), tmp_path / "base.npy"
    for rows in (rng.standard_normal((1000, 16)), rng.integers(0, 200, (1000, 16))):
        np.save(path, rows.astype(type).byteswap())
        with pytest.raises(UserError, match=rf"^base: {path} holds .* order \(endianness\); save its \.byteswap\(\)"):
            scan(open_vectors(path, "base", 16), metric, silent())
        np.save(path, np.load(path).byteswap())
        scan(open_vectors(path, "base", 16), "L2", silent())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("times", [1e-30, 1.0, 1e20, 1e30])
def test_numbers_of_odd_size_are_in_no_other_order(times: float) -> None:
    rows = np.random.default_rng(4).standard_normal((1000, 16)) * times
    for kind in (np.float32, np.float64):
        assert not in_other_order(rows.astype(kind))
    rows[7] = np.nan
    assert not in_other_order(rows.astype(np.float32))
    assert not in_other_order(np.round(rows / times).astype(np.float32) * np.float32(2.0**60))


@pytest.mark.parametrize(("shape", "name", "told"), SHAPES)
def test_other_shapes_are_told_what_makes_rows_of_them(
    shape: tuple[int, ...], name: str, told: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    with pytest.raises(UserError, match=told):
        open_array(tmp_path / "x.npy", name)


def test_sizes_that_a_header_promises_are_believed_before_what_it_looks_like(tmp_path: Path) -> None:
    """A truncated download keeps its own message."""
    save_bin(tmp_path / "x.fbin", X)
    data = (tmp_path / "x.fbin").read_bytes()
    (tmp_path / "x.fbin").write_bytes(data[:-4])
    with pytest.raises(UserError, match="it is truncated, or of another format"):
        open_rows(tmp_path / "x.fbin")
    assert struct.unpack("<II", data[:8]) == X.shape


def test_answers_as_text_keep_numbers_that_float32_would_round(tmp_path: Path) -> None:
    path, ids = tmp_path / "gt.npy", IDS.astype(np.int64) + 2**24 + 1
    path.write_text("\n".join(",".join(map(str, row)) for row in ids.tolist()))
    with pytest.raises(UserError, match="text of numbers") as refused:
        open_array(path, "gt")
    do(str(refused.value))
    np.testing.assert_array_equal(np.load(path), ids)
