"""What a file is by its first bytes, whatever its name says, and how an .npy file is made of it."""

import codecs
import os
import re
import shlex
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ivfast.data.text import of_text

LOOKED_AT = 1024  # bytes at the start
TEXT = 1 << 20  # bytes at the start of a text, so that whole lines are seen
WIDEST = 65_536  # columns of a row, beyond which a length before it is no length
WHOLE = 1 << 27  # as float32 such bits are below 1e-33, so they are whole numbers
CONVERTED = (".fvecs", ".bvecs", ".fbin", ".u8bin", ".i8bin", ".hdf5", ".h5", ".parquet", ".safetensors", ".lance")
OF_ANSWERS = (".ivecs", ".ibin", ".hdf5", ".h5")  # what open_gt reads


class Kind(NamedTuple):
    """What a file turned out to be."""

    what: str  # with its article
    suffix: str = ""  # under which ivfast reads it; "" where it does not
    code: str = ""  # Python that makes an array of the file, which it calls FILE
    do: str = "name the file of the vectors"  # where there is neither

    def advice(self, path: Path, name: str) -> str:
        """How the file at path, which messages call name, becomes an .npy file."""
        target, right = path.with_suffix(".npy"), path.with_suffix(self.suffix)
        if self.suffix == ".npy":
            return f"rename it: mv {quoted(path, right)}"
        if self.suffix:
            renamed = "" if path.suffix == self.suffix else f"mv {quoted(path, right)} && "
            if name != "gt" and self.suffix in (".ivecs", ".ibin"):
                return self.do
            if name != "gt":
                return f"{renamed}ivfast convert {quoted(right, target)}"
            return f"{renamed}{answers_line(right, target)}" if self.suffix in OF_ANSWERS else self.do
        named = {"FILE": repr(str(path)), "TARGET": repr(str(target))}
        code, do = (re.sub("FILE|TARGET", lambda word: named[word[0]], text) for text in (self.code, self.do))
        if name == "gt":  # float32 would round row numbers above 2^24
            code, do = (text.replace("float32", "int64").replace(".float()", ".long()") for text in (code, do))
        return f"in Python {with_imports(save_line(target, code))}" if code else do


TORCH = Kind("a file of torch.save", code="torch.load(FILE, weights_only=True).float().numpy()")
UNTOLD = Kind(
    "none of the formats that are known by their first bytes",
    do="where it holds numbers alone (of tofile or memmap), np.save(TARGET, np.fromfile(FILE, 'float32').reshape(-1, "
    "DIM)); else copy it anew, or save it anew with np.save",
)
MODULES = ("csv", "faiss", "h5py", "json", "scipy.io", "torch")  # that code may name
ARROW = (
    "import pyarrow.feather, pyarrow.parquet; pyarrow.parquet.write_table({}, FILE + '.parquet'), then `ivfast "
    "convert` reads that"
)


def _packed(what: str, suffix: str, program: str) -> Kind:
    return Kind(what, do=f"unpack it: add {suffix} to its name, then {program}")


MAGIC: list[tuple[bytes, Kind]] = [
    (b"\x93NUMPY", Kind("an .npy array", ".npy")),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", ".hdf5")),
    (b"PAR1", Kind("a Parquet file", ".parquet")),
    (b"ARROW1", Kind("an Arrow (Feather) file", do=ARROW.format("pyarrow.feather.read_table(FILE)"))),
    (b"FEA1", Kind("a Feather file", do=ARROW.format("pyarrow.feather.read_table(FILE)"))),
    (b"\x1f\x8b", _packed("packed by gzip", ".gz", "gunzip")),
    (b"\x28\xb5\x2f\xfd", _packed("packed by zstd", ".zst", "unzstd")),
    (b"BZh", _packed("packed by bzip2", ".bz2", "bunzip2")),
    (b"\xfd7zXZ\x00", _packed("packed by xz", ".xz", "unxz")),
    (b"\x04\x22\x4d\x18", _packed("packed by lz4", ".lz4", "unlz4")),
    (b"7z\xbc\xaf\x27\x1c", _packed("a 7z archive", ".7z", "7z x")),
    (b"Rar!", _packed("a RAR archive", ".rar", "unrar x")),
    (b"PK\x05\x06", Kind("an empty ZIP archive")),
    (b"version https://git-lfs", Kind("a pointer of Git LFS, not the file itself", do="fetch it: git lfs pull")),
    (b"/annex/objects/", Kind("a pointer of git-annex, not the file itself", do="fetch it: git annex get")),
    *(
        (magic, Kind("a FAISS index", code="faiss.read_index(FILE).reconstruct_n()"))
        for magic in (b"IxF", b"IxP", b"IxS", b"IwF", b"IwP", b"IwS")
    ),
    (b"MATLAB 7.3", Kind("a MATLAB 7.3 file", code="h5py.File(FILE)['NAME'][:].T")),
    (b"MATLAB", Kind("a MATLAB file", code="scipy.io.loadmat(FILE)['NAME']")),
    (b"SQLite format 3", Kind("a SQLite database")),
    (b"%PDF", Kind("a PDF")),
    (b"\x89PNG", Kind("a picture (PNG)")),
    (b"\xff\xd8\xff", Kind("a picture (JPEG)")),
    (b"GGUF", Kind("a GGUF model")),
    (b"ORC", Kind("an ORC file")),
    (b"Obj\x01", Kind("an Avro file")),
]


def quoted(*paths: Path) -> str:
    """Paths as a shell takes them."""
    return " ".join(shlex.quote(str(path)) for path in paths)


def with_imports(line: str) -> str:
    """A line of Python with the modules that it names."""
    named = [module for module in MODULES if re.search(rf"\b{re.escape(module)}\.", line)]
    return f"import {', '.join([*named, 'numpy as np'])}; {line}"


def save_line(target: Path, code: str) -> str:
    """The Python that saves what `code` makes."""
    return f"np.save({str(target)!r}, {code})"


def answers_line(path: Path, target: Path) -> str:
    """The command that makes an .npy file of answers in another format."""
    code = (
        f"import numpy as np; from ivfast.data.formats.answers import open_gt; "
        f"np.save({str(target)!r}, open_gt({str(path)!r}))"
    )
    return f"python -c {shlex.quote(code)}"


def recognise(path: Path) -> Kind | None:
    """What the file is; None where nothing tells."""
    try:
        if not os.path.isfile(path):  # a pipe would wait forever
            return None
        with path.open("rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(LOOKED_AT)
            known = _of_magic(head) or _of_layout(file, head, size) or _of_habits(head, size)
            return known or _of_text(file, head, size)
    except OSError:
        return None


def _of_magic(head: bytes) -> Kind | None:
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(head)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    return _packed("a tar archive", ".tar", "tar -xf") if head[257:262] == b"ustar" else None


def _of_habits(head: bytes, size: int) -> Kind | None:
    """What has no magic that nothing else begins with."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _of_pickle(head)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= size - 8:
        return Kind("a safetensors file", ".safetensors")
    if head[:4] == b"\xff" * 4 and head[8:12] == b"\x10\0\0\0":
        return Kind("a stream of Arrow", do=ARROW.format("pyarrow.ipc.open_stream(FILE).read_all()"))
    if len(head) == LOOKED_AT and not any(head):
        return Kind("nothing but zeros where it begins, as a download that was never finished", do="copy it anew")
    return None


def _of_zip(head: bytes) -> Kind:
    """By the name of the first file in it."""
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")
    if first.endswith(".npy"):
        return Kind("an archive of NumPy (.npz)", code=f"np.load(FILE)[{first.removesuffix('.npy')!r}]")
    if "/" in first and first.split("/")[1] in ("data.pkl", "byteorder", "version", ".format_version"):
        return TORCH
    return _packed("a ZIP archive", ".zip", "unzip")


def _of_pickle(head: bytes) -> Kind | None:
    if head[2:14].startswith(b"\x8a\x0al\xfc\x9cF\xf9"):
        return TORCH  # as it was written before version 1.6
    if (head[1] >= 4 and head[2:3] != b"\x95") or head[2:4] == b"\0\0":
        return None  # a number of rows or columns that begins so
    return Kind(
        "a pickle of Python, which can run any code and is never loaded",
        do="where you trust who wrote it, load it with pickle and write its rows with np.save",
    )


def _of_text(file: BinaryIO, head: bytes, size: int) -> Kind | None:
    if _decoded(head) is None:
        return None
    file.seek(0)
    text = _decoded(file.read(TEXT)) or _decoded(head) or ""
    low = text[:300].lower()
    if low.startswith(("<!doctype html", "<html", "<head", "<body")):
        page = "an HTML page, as a server sends it in place of a file (an error, a login, a question)"
        return Kind(page, do="download the file itself")
    if low.startswith("<"):
        return Kind("XML, as a server sends it where a file can't be had", do="download the file itself")
    found = of_text(text, whole=size <= len(text.encode()))
    return Kind(found.what, code=found.code)


def _decoded(data: bytes) -> str | None:
    """Bytes as text, without spaces before it; None of what is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data).lstrip()  # the last letter may be cut
    except UnicodeDecodeError:
        return None
    return None if not text or re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text) else text


def _of_layout(file: BinaryIO, head: bytes, size: int) -> Kind | None:
    """Formats without a magic: what their sizes must be, they are."""
    if len(head) < 16:
        return None
    dim, columns = (int.from_bytes(head[at : at + 4], "little") for at in (0, 4))
    for suffix, stride in ((".bvecs", 4 + dim), (".fvecs", 4 + 4 * dim)):  # of 2 and 8 columns both may fit
        if 0 < dim <= WIDEST and size % stride == 0 and size > stride:
            file.seek(stride)
            if file.read(4) == head[:4]:
                return _answers(".ivecs") if suffix == ".fvecs" and are_whole(head[4:stride]) else _vectors(suffix)
    if 0 < columns <= WIDEST and dim > 0:
        itemsize, rest = divmod(size - 8, dim * columns)
        if rest == 0 and itemsize == 8 and are_whole(head[8 : 8 + 4 * dim * columns]):
            return _answers(".ibin")
        if rest == 0 and itemsize == 4:
            return _answers(".ibin") if are_whole(head[8 : 8 + 4 * dim * columns]) else _vectors(".fbin")
        if rest == 0 and itemsize == 1:
            return _vectors(".u8bin")
    return None


def _vectors(suffix: str) -> Kind:
    return Kind(f"vectors as {suffix} has them", suffix)


def _answers(suffix: str) -> Kind:
    return Kind(f"answers (gt) as {suffix} has them", suffix)


def are_whole(data: bytes) -> bool:
    """Whether float32 can't be meant: the bits of whole numbers of 32 bits below 2^27, not all of them 0."""
    found = np.frombuffer(data[: len(data) // 4 * 4], "<i4")
    return bool((np.abs(found.astype(np.int64)) < WHOLE).all() and (found > 0).any())
