"""Files of a base, and packages that read them: empty ones, a server's, what lacks, lists that stay in a file."""

import json
import sys
from pathlib import Path
from typing import Any

import faiss
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import ivfast
from ivfast.front.command_line import parse
from ivfast.index.files import read_index
from ivfast.index.fill import on_disk
from ivfast.index.load import put_together
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.spread.asking import find_looks, rank_block
from ivfast.spread.maps import Here
from ivfast.spread.queries import exact_answers
from ivfast.spread.sources import count_rows, expanded, find_sources
from ivfast.spread.store import STORED_NAME, Wishes, store_files
from tests.conftest import Notes
from tests.many_files import N, base_of, same
from tests.test_index import DIM, make_rows
from tests.test_spread import brute

pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("spread")]


def test_a_file_of_no_rows_holds_nothing(tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any):
    """As exports leave them: empty shards among others, at the end too."""
    empty = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array([], pa.float32()), DIM)})
    pq.write_table(empty, tmp_path / "none.parquet")
    pq.write_table(pa.table({"vector": pa.array([], pa.list_(pa.float32()))}), tmp_path / "lists.parquet")
    np.save(tmp_path / "none.npy", np.empty((0, DIM), np.float32))
    none = [str(tmp_path / name) for name in ("none.parquet", "lists.parquet", "none.npy")]
    words = [none[0], *files_of("L2")[:3], none[1], *files_of("L2")[3:], none[2]]
    out = tmp_path / "out"
    assert store_files(fit_of("L2"), out, Wishes(words, 0.8, formats=("faiss", "parquet")), Here(), silent()).n == N
    assert same(out, one_of("L2")[0])
    told = json.loads((out / STORED_NAME).read_text())["files"]
    assert [file["rows"] for file in told if file["file"] in none] == [0, 0, 0]
    query = make_rows(5, 9, "L2")
    found = exact_answers(fit_of("L2"), words, None, query, 10, Here(), silent())
    np.testing.assert_array_equal(found.ids, brute(query, base_of("L2"), 10, "L2")[1])
    with pytest.raises(UserError, match="base: found 0 rows, expected 2 or more"):
        store_files(fit_of("L2"), tmp_path / "next", Wishes(none), Here(), silent())


def test_files_of_a_url_are_numbered_as_those_of_a_folder():
    memory = fsspec.filesystem("memory")
    for number in (10, 9, 100):
        memory.pipe(f"/shards/part-{number}.npy", b"")
    found = [source.where for source in find_sources(["memory://shards/part-*.npy"])]
    assert found == [f"memory:///shards/part-{number}.npy" for number in (9, 10, 100)]


def test_a_pattern_that_the_shell_left_is_in_natural_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("part-10.npy", "part-9.npy", "part-100.npy", "odd[1].npy", "odd1.npy"):
        (tmp_path / name).touch()
    assert expanded(["part-*.npy", "s3://bucket/*"]) == [*(f"part-{n}.npy" for n in (9, 10, 100)), "s3://bucket/*"]
    assert expanded(["odd[1].npy", "none-?.npy"]) == ["odd[1].npy", "none-?.npy"]
    for words in (["index", "fit"], ["evaluate", "out", "--query", "q.npy", "--base"]):
        assert parse([*words, "part-1*.npy"]).base == ["part-10.npy", "part-100.npy"]


class Server(MemoryFileSystem):
    """A server of HTTP as fsspec shows one: nothing tells that a file has changed but what its headers say."""

    def __init__(self) -> None:
        super().__init__(global_store=False, skip_instance_cache=True)
        self.headers: dict[str, str] = {}

    def unstrip_protocol(self, name: str) -> str:
        return f"http:/{name}"

    def ukey(self, path: str) -> str:
        return path

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        found = super().info(path, **more)
        return {"name": path, "type": found["type"], "size": found["size"], **self.headers}


def test_a_file_that_a_server_changes_is_noticed(
    tmp_path: Path, fit_of: Any, files_of: Any, monkeypatch: pytest.MonkeyPatch
):
    server, notes = Server(), Notes()
    monkeypatch.setattr("ivfast.spread.sources.file_system", lambda url: (server, url.removeprefix("http:/")))
    for number in range(2):
        server.pipe(f"/host/{number}.npy", Path(files_of("L2")[0]).read_bytes())
    wishes = Wishes([f"http://host/{number}.npy" for number in range(2)], 0.8)

    def stored(**headers: str) -> int:
        server.headers = headers
        return store_files(fit_of("L2"), tmp_path, wishes, Here(), notes).ranked

    assert [stored(ETag="a"), stored(ETag="a"), stored(ETag="b")] == [1400, 0, 1400]
    assert not any("is not noticed" in note for note in notes.told)
    assert stored() == 1400
    (told,) = [note for note in notes.told if "is not noticed" in note]
    assert told.startswith("warning: http://host/0.npy (and 1 more): its server says neither ETag nor Last-Modified")


def test_parquet_of_a_url_is_counted_by_its_end(monkeypatch: pytest.MonkeyPatch):
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(7 * DIM, np.float32)), DIM)})
    with fsspec.open("memory://counted/some.parquet", "wb") as file:
        pq.write_table(table, file)
    (source,) = find_sources(["memory://counted/some.parquet"])
    monkeypatch.setattr("ivfast.spread.sources.local_copy", lambda *_: pytest.fail("the file was copied"))
    assert count_rows(source, None) == 7


@pytest.mark.parametrize(("name", "module"), [("parquet", "pyarrow.parquet"), ("lance", "lance.fragment")])
def test_a_package_that_lacks_is_told_before_the_work(
    name: str, module: str, tmp_path: Path, fit_of: Any, files_of: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"^--write {name}: .* needs a package that is not there"):
        store_files(fit_of("L2"), tmp_path, Wishes(files_of("L2"), formats=("faiss", name)), Here(), silent())
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_an_index_that_stays_in_its_file_ranks_the_same(metric: str, fit_of: Any):
    fit, rows = fit_of(metric), base_of(metric)[:3000]
    mapped = put_together(ivfast.load(fit), read_index(fit, mapped=True))
    assert on_disk(mapped.faiss_index) is not None
    index = ivfast.load_index(fit)
    looks = find_looks(index)
    for one, other in zip(*(rank_block(each, looks, rows, 500, 0.8) for each in (index, mapped)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_index_that_cannot_be_mapped_is_read(fit_of: Any, monkeypatch: pytest.MonkeyPatch):
    read = faiss.read_index

    def without_maps(path: str, flags: int) -> Any:
        if flags & faiss.IO_FLAG_MMAP:
            raise RuntimeError("Error: 'ptr != MAP_FAILED' failed: could not mmap")
        return read(path, flags)

    monkeypatch.setattr("faiss.read_index", without_maps)
    assert on_disk(read_index(fit_of("L2"), mapped=True).faiss_index) is None
