"""Opening .npy files from strangers: an array of exactly the file's size, or one clear error."""

import ast
import io
import os
import re
import socket
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_dcnet
from ivfast.data.first_bytes import recognise
from ivfast.data.formats import open_rows
from ivfast.data.formats.answers import open_gt
from ivfast.data.missing import missing
from ivfast.data.npy import MAGIC, open_array
from ivfast.front.command_line import main as front
from ivfast.runtime.errors import UserError
from tests.imports import ROOT, modules

N_MUTATED = 10_000
SLACK = 64 << 10  # bytes for headers, buffers and messages; 50 KiB seen, of the first call


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(text: str, data: bytes = b"", version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """A file whose header is written by hand."""
    padded = text.encode("latin1") + b"\n"
    n_length = 2 if version == b"\x01\x00" else 4
    return MAGIC + version + (len(padded) if length is None else length).to_bytes(n_length, "little") + padded + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


PLAIN = npy(np.arange(6, dtype=np.float32).reshape(2, 3))
SIX = PLAIN[-24:]
WRONG = {
    "empty": (b"", "is empty"),
    "wrong magic": (b"\x93NUMPX" + PLAIN[6:], "begins with"),
    "a zip archive": (b"PK\x03\x04" + PLAIN, "begins with .* it is a ZIP archive"),
    "cut in the magic": (PLAIN[:4], "begins with"),
    "cut in the version": (PLAIN[:9], "version"),
    "version 9": (PLAIN[:6] + b"\x09\x00" + PLAIN[8:], "version"),
    "cut in the header": (PLAIN[:60], "header of"),
    "header of 4 GB": (with_header(header(), SIX, b"\x02\x00", 0xFFFFFFFF), "header of 4294967295 bytes"),
    "header longer than the file": (with_header(header(), SIX, length=9000), "header of 9000 bytes"),
    "truncated": (PLAIN[:-1], "is truncated"),
    "data all gone": (PLAIN[:-24], "is truncated"),
    "trailing byte": (PLAIN + b"\x00", "has 1 bytes too many"),
    "two arrays in one file": (PLAIN + PLAIN, f"has {len(PLAIN)} bytes too many"),
    "forged rows": (with_header(header(shape="(1000000000000, 3)"), SIX), "promises too much"),
    "forged columns": (with_header(header(shape="(2, 1000000000000000)"), SIX), "promises too much"),
    "product beyond 64 bits": (with_header(header(shape=f"({2**32}, {2**32})"), b""), "promises too much"),
    "product that is 0 in 64 bits": (with_header(header(shape=f"({2**40}, {2**40})"), b""), "promises too much"),
    "forged type": (with_header(header("'<f8'"), SIX), "promises too much"),
    "negative rows": (with_header(header(shape="(-2, 3)"), SIX), "header is"),
    "rows with 5000 digits": (with_header(header(shape=f"({'9' * 5000}, 3)"), SIX), "header is"),
    "shape that is no tuple": (with_header(header(shape="(6)"), SIX), "header is"),
    "order that is no word": (with_header(header(order="'yes'"), SIX), "header is"),
    "a key too many": (with_header(header()[:-1] + "'x': True, }", SIX), "header is"),
    "a key twice": (with_header("{'descr': '<f4', 'descr': '<f4', 'shape': (2, 3), }", SIX), "header is"),
    "code as header": (with_header("__import__('os').system('true')", SIX), "header is"),
    "9,000 brackets": (with_header("(" * 9000, SIX), "header is"),
    "9,000 minus signs": (with_header(header(shape="(" + "-" * 9000 + "1, 3)"), SIX), "header is"),
    "object": (with_header(header("'|O'"), SIX), "Python objects"),
    "structured": (with_header(header("[('a', '<f4')]"), SIX), "holds records"),
    "structured with objects": (with_header(header("[('a', '|O')]"), SIX), "holds records"),
    "structured, cut": (with_header("{'descr': [('a', '<f4'", SIX), "holds records"),
    "text": (npy(np.array([["a", "b"]])), "holds <U1"),
    "bytes": (npy(np.array([[b"a", b"b"]])), r"holds \|S1"),
    "dates": (npy(np.array([["2020-01-01"]], dtype="M8[D]")), "holds <M8"),
    "type of no size": (with_header(header("'<f3'"), SIX), "holds <f3"),
    "0-D": (npy(np.array(1.0)), r"shape \(\)"),
    "1-D": (npy(np.ones(6)), r"shape \(6,\)"),
    "3-D": (npy(np.ones((1, 2, 3))), r"shape \(1, 2, 3\)"),
    "zero rows": (npy(np.ones((0, 3))), r"shape \(0, 3\)"),
    "zero columns": (npy(np.ones((3, 0))), r"shape \(3, 0\)"),
    "zero rows of forged columns": (with_header(header(shape="(0, 1000000000000)")), "shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_file_that_cannot_be_right_is_refused_by_name(case: str, tmp_path: Path) -> None:
    content, told = WRONG[case]
    path = tmp_path / "odd.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^base: .*odd\.npy .*{told}") as refused:
        open_array(path, "base")
    assert "\n" not in str(refused.value)
    assert "np.save" in str(refused.value) or "unpack it" in str(refused.value)


def test_pickled_array_is_refused_and_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.save(tmp_path / "odd.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="Python objects"):
        open_array(tmp_path / "odd.npy", "learn")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "|i1", "<i8", ">i8", "<u2", "|b1", "<c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_plain_number_type_opens_as_saved(dtype: str, order, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    found = open_array(tmp_path / "a.npy", "a")
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_format_version_opens(version: tuple[int, int], tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with (tmp_path / "a.npy").open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy advises against version 3 where 1 is enough
        np.lib.format.write_array(file, array, version=version)
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy", "a"), array)


def test_headers_of_other_writers_open(tmp_path: Path) -> None:
    for text in (
        "{'shape': (2, 3), 'descr': '<f4', 'fortran_order': False}",
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
        header(shape="(2, 3,)"),
    ):
        (tmp_path / "a.npy").write_bytes(with_header(text, SIX))
        assert open_array(tmp_path / "a.npy", "a").shape == (2, 3)


def no_file(what: str, path: Path) -> None:
    """Put something at a path that is no file."""
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    else:
        path.symlink_to(path.parent / "nowhere")


NO_FILES = ["a folder", "a pipe", "a socket", r"a link to \S+/nowhere, which is not there"]


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_called_what_it_is(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    no_file(what, path)
    todo = r"write into one what comes out of it \(cat \S+a\.npy > \S+a_copy\.npy\)$" if what == "a pipe" else ""
    readers: list[Any] = [open_array, lambda path, name: open_gt(path, name=name)]
    readers += [lambda path, name: open_rows(path, name=name)] * (what != "a folder")  # of which it reads all files
    for read in readers:
        with pytest.raises(UserError, match=rf"^query: {path} is {what}, expected a file; .*{todo}"):
            read(path, "query")
    assert recognise(path) is None


@pytest.mark.parametrize("name", ["a.npy", "a" * 5000])
def test_what_is_not_there_is_called_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^query: \S* is missing; "):
        open_array(tmp_path / name, "query")


def test_missing_files_are_told_from_those_that_are_none(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.npy" for name in ("base", "query", "gt")}
    os.mkfifo(paths["query"])
    told = str(missing(paths))
    assert told.startswith(f"base, query, gt: {paths['base']}, {paths['gt']} are missing, {paths['query']} is a pipe, ")


def test_a_name_that_ends_in_npy_twice_is_told_what_was_meant(tmp_path: Path) -> None:
    """--learn_name and --query_log are names without .npy, which is easily forgotten."""
    assert "leave one .npy out" not in str(missing({"query_log": tmp_path / "log.npy.npy"}))
    np.save(tmp_path / "log.npy", np.ones((2, 2), np.float32))
    assert "log.npy.npy is missing; log.npy is there: leave one .npy out of the name" in str(
        missing({"query_log": tmp_path / "log.npy.npy"})
    )


@pytest.mark.parametrize("what", NO_FILES)
def test_no_command_waits_for_what_is_no_file(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever files are read: a pipe that is opened waits until somebody writes into it."""
    names = ["learn.npy", "s/base.npy", "s/query.npy", "s/gt.npy", "a.npy", "target", "fit/ivfast.npy"]
    for path in (tmp_path / name for name in names):
        path.parent.mkdir(exist_ok=True)
        no_file(what, path)
    x, a, folder, out = (str(tmp_path / name) for name in ("x.npy", "a.npy", "fit", "out"))
    np.save(x, np.ones((4, 2), np.float32))
    run = ["--data_path", str(tmp_path), "--data_name", "s", "--percents", "0", "--gpu", "-1", "--save_path", out]
    training = [
        *run,
        *["--learn_name", "learn", "--nlist", "2", "--param_list", "2", "2", "--epochs", "1", "--warmup", "0"],
    ]
    for main, words, told in (
        (run_dcnet.main, training, f"learn, base, query, gt: {tmp_path / 'learn.npy'} is {what}, expected a file"),
        (run_dcnet.main, [*training, "--start", a], f"centers: {a} is {what}, expected a file"),
        (run_dcnet.main, [*run, "--eval", "True", "--ai_center", a], f"centers: {a} is {what}, expected a file"),
        (front, ["fit", a, "--save_path", out], a),
        (front, ["fit", x, "--query", a, "--save_path", out], a),
        (front, ["fit", x, "--save_path", out, "--start", a], a),
        (front, ["fit", x, "--save_path", out, "--start", folder], f"start {folder}: ivfast.npy is {what}"),
        (front, ["convert", a, str(tmp_path / "y.npy")], a),
        (front, ["convert", x, str(tmp_path / "target")], "target ends in no suffix"),
        (front, ["index", folder, x], f"{folder}: ivfast.npy is {what}"),
        (front, ["evaluate", folder, "--query", x], f"{folder}: ivfast.npy is {what}"),
    ):
        assert main(words) == 2, words
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if line.startswith("error: ")] == said[-1:]
        assert re.search(told, said[-1])


def test_a_folder_that_cannot_be_entered_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names can be listed, so that "missing" beside "holds base.npy" would be no help."""
    (tmp_path / "base.npy").touch()
    look = os.stat

    def stat(path: Any, *more: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("base.npy"):
            raise PermissionError(13, "Permission denied", path)
        return look(path, *more, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(UserError, match=rf"cannot be looked at.*chmod u\+x {tmp_path}"):
        open_array(tmp_path / "base.npy", "base")


def test_a_link_that_goes_in_a_circle_is_no_trouble_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "round.npy").symlink_to(tmp_path / "round.npy")
    with pytest.raises(UserError, match=r"a\.npy is missing; .* holds round, round.npy;"):
        open_array(tmp_path / "a.npy", "a")
    (tmp_path / "round.npy").unlink()
    np.save(tmp_path / "p-0.npy", np.ones((3, 2), np.float32))
    assert open_rows(tmp_path).n == 3


READERS = {
    "load",
    "memmap",
    "open_memmap",
    "fromfile",
    "loadtxt",
    "genfromtxt",
    "fromregex",
    "read_array",
    "DataSource",
}

LOADERS = ("np", "numpy", "jnp", "torch", "pickle")


def readers_of(module: Path) -> set[str]:
    """Ways of opening a file that a module names, on whatever; `.load` on NumPy, torch and pickle alone."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
            found |= READERS & {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and (node.attr != "load" or ast.unparse(node.value) in LOADERS):
            found |= READERS & {node.attr}
    return found


def test_no_other_module_opens_npy_files() -> None:
    """What SECURITY.md promises of them holds only of what goes through open_array. The cache is a .npz."""
    opening = {name: found for name, path in modules(ROOT).items() if (found := readers_of(path))}
    own = {"ivfast.start.descent_process": {"load"}}  # handed to it
    assert opening == {"ivfast.data.npy": {"load"}, "ivfast.runtime.cache": {"load"}} | own


TELLING = [
    b"9",
    b"-1",
    b"0",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x00",
    b"'|O'",
    b"(",
    b")",
    b"L",
    b"99999999999",
    b"{",
]
SWAPS = [
    (b"<f4", b">f4"), (b"<f4", b"<f2"), (b"<f4", b"<f8"), (b"<f4", b"|O8"), (b"<f4", b"|i1"), (b"<f4", b"<U9"),
    (b"False", b"True "), (b"(5, 7)", b"(7, 5)"), (b"(5, 7)", b"(35,)"), (b"(5, 7)", b"(0, 7)"),
    (b"(5, 7)", b"(50000000000, 7)"), (b"(5, 7)", b"(1, 35)"), (b"\x01\x00", b"\x02\x00"), (b"\x01\x00", b"\x03\x00"),
    (b"<f4", b"|f4"), (b"<f4", b"=i4"), (b"<f4", b"<u4"),
    (b"'shape': ", b"'shape':  "), (b"), } ", b")}   "), (b"<f4', ", b"<f4' ,"),
]  # fmt: skip


def mutated(start: bytes, drawn: bytes) -> bytes:
    """The file with one to three changes, three drawn bytes each: what, where, how.

    Bytes of the header are set, deleted, repeated or replaced by telling ones; seldom the size changes.
    """
    content = bytearray(start)
    for kind, at, how in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=False):
        at = min(at % 130, len(content))
        n = 1 + how % 8
        if kind % 8 == 0:
            content[at : at + 1] = bytes([how])
        elif kind % 8 == 1:
            del content[at : at + n]
        elif kind % 8 == 2:
            content[at:at] = content[at : at + n]
        elif kind % 8 == 3:
            word = TELLING[how % len(TELLING)]
            content[at : at + len(word)] = word
        elif kind % 8 < 7:
            content = bytearray(bytes(content).replace(*SWAPS[how % len(SWAPS)], 1))
        elif how < 50:
            del content[at + how :]
        else:
            content += bytes(at)
    return bytes(content)


def test_ten_thousand_mutated_headers_neither_crash_nor_allocate_beyond_the_file(tmp_path: Path) -> None:
    start = npy(np.arange(35, dtype=np.float32).reshape(5, 7))
    path = tmp_path / "mutated.npy"
    opened: list[bool] = []

    @given(st.binary(min_size=3, max_size=9))
    @settings(derandomize=True, deadline=None, max_examples=N_MUTATED, database=None)
    def open_mutated(drawn: bytes) -> None:
        content = mutated(start, drawn)
        file.seek(0)
        file.write(content)
        file.truncate()
        tracemalloc.start()
        try:
            found = open_refused(path)
            largest = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert largest < len(content) + SLACK
        opened.append(found is not None)
        if found is not None:
            assert found.ndim == 2
            assert 0 not in found.shape
            assert 0 < len(content) - found.nbytes <= 10_012
            np.array(found)  # every byte can be read

    with path.open("w+b", buffering=0) as file:  # kept open: a disk may flush what is truncated and closed
        open_mutated()
    assert len(opened) >= N_MUTATED
    assert 100 < sum(opened) < N_MUTATED / 2  # both ends are reached


def open_refused(path: Path) -> np.ndarray | None:
    """The array, or None where it was refused in one line."""
    try:
        return open_array(path, "fuzz")
    except UserError as refused:
        text = str(refused)
    assert len(text) < 1000
    assert "\n" not in text
    return None
