"""Tables of id, bucket and vector, in the order of buckets: Parquet files or a Lance dataset, range by range."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data.formats.rows import load_package
from ivfast.runtime.files import save_text
from ivfast.spread.given import Given, leave
from ivfast.spread.lists import read_lists

RANGE_BYTES = 256 << 20  # of vectors in one file of a table, about
ROW_GROUP = 1 << 16  # rows
PARQUET, LANCE = "parquet", "vectors.lance"  # a folder of files, and a dataset


class Shard(NamedTuple):
    """FAISS lists of a file, or of a piece of it."""

    path: str
    held: np.ndarray  # (nlist / 8,) uint8, a bit for each bucket that the file has entries in


class Range(NamedTuple):
    """Neighbouring buckets that make one file."""

    first: int
    last: int  # among them
    shards: tuple[str, ...]  # paths of those that may hold some of it, in the order of ids
    digest: str  # of all that decides about them

    @property
    def name(self) -> str:
        """Of its file, but for the suffix."""
        return f"buckets-{self.first:06d}-{self.last:06d}"


def check_packages(formats: Sequence[str], out: Path) -> None:
    """raises: UserError where a package lacks that tables are written with: before hours of work, not after them"""
    for name, module in (("parquet", "pyarrow.parquet"), ("lance", "lance.fragment")):
        if name in formats:
            load_package(module, f"--write {name}", out)


def ranges(sizes: np.ndarray, dim: int, shards: list[Shard], digest: str, n_bytes: int = RANGE_BYTES) -> list[Range]:
    """Neighbouring buckets of about so many bytes. sizes: (nlist,) entries; shards: in the order of ids"""
    most, starts, rows = max(1, n_bytes // (4 * dim + 12)), [0], 0
    for bucket, size in enumerate(sizes.tolist()):
        if rows and rows + size > most:
            starts.append(bucket)
            rows = 0
        rows += size
    within: list[list[str]] = [[] for _ in starts]
    for shard in shards:
        for number in np.flatnonzero(np.bitwise_or.reduceat(np.unpackbits(shard.held), starts)):
            within[number].append(shard.path)
    ends = [*starts[1:], len(sizes)]
    return [Range(start, end - 1, tuple(paths), digest) for start, end, paths in zip(starts, ends, within, strict=True)]


def write_parquet(given: Given, item: Range) -> str:
    """Write one file of the table; returns its name. Without compression of vectors, whose bits are noise."""
    path = Path(given.out) / PARQUET / f"{item.name}.parquet"
    done = given.part("parquet", ".txt", item.digest, item.first, item.last)
    if done.is_file() and path.is_file():
        return path.name
    pq = load_package("pyarrow.parquet", "base", path)

    def write(beside: Path) -> None:
        schema = _schema(given.model.dim, path)
        with pq.ParquetWriter(beside, schema, compression="none", use_dictionary=["bucket"]) as writer:
            for table in _tables(given, item, schema):
                writer.write_table(table, row_group_size=ROW_GROUP)

    path.parent.mkdir(parents=True, exist_ok=True)
    leave(path, write)
    save_text(done, path.name + "\n")
    return path.name


def write_lance(given: Given, item: Range) -> str:
    """Write one fragment of the dataset, which nobody sees before `commit_lance`; returns what Lance says of it."""
    path = Path(given.out) / LANCE
    done = given.part("lance", ".json", item.digest, item.first, item.last)
    if done.is_file() and _there(path, text := done.read_text(encoding="utf-8")):
        return text
    writing = load_package("lance.fragment", "base", path)
    pa, schema = load_package("pyarrow", "base", path), _schema(given.model.dim, path)
    batches = (batch for table in _tables(given, item, schema) for batch in table.to_batches())
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    found = writing.write_fragments(reader, str(path), schema=schema, mode="overwrite")
    text = json.dumps([fragment.to_json() for fragment in found])
    save_text(done, text)
    return text


def _there(path: Path, text: str) -> bool:
    """Whether a dataset still has the files of fragments that were written before."""
    return all(
        (path / "data" / file["path"]).is_file() for one in json.loads(text) for file in json.loads(_text(one))["files"]
    )


def commit_lance(given: Given, found: list[str]) -> None:
    """Make a dataset of what tasks wrote, in one step. found: of `write_lance`, in the order of buckets"""
    path = Path(given.out) / LANCE
    lance, schema = load_package("lance", "base", path), _schema(given.model.dim, path)
    fragments = [lance.FragmentMetadata.from_json(_text(one)) for text in found for one in json.loads(text)]
    lance.LanceDataset.commit(str(path), lance.LanceOperation.Overwrite(schema, fragments))


def _text(one: Any) -> str:
    return one if isinstance(one, str) else json.dumps(one)


def _schema(dim: int, path: Path) -> Any:
    pa = load_package("pyarrow", "base", path)
    fields = [("id", pa.int64()), ("bucket", pa.int32()), ("vector", pa.list_(pa.float32(), dim))]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def _tables(given: Given, item: Range, schema: Any) -> Iterator[Any]:
    """The rows of a range in order, ROW_GROUP at once, so that what is written goes by nothing else."""
    pa, dim = load_package("pyarrow", "base", Path(item.name)), given.model.dim
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n = 0

    def table(rows: int) -> Any:
        ids, buckets, vectors = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        waiting[:] = [(ids[rows:], buckets[rows:], vectors[rows:])]
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[:rows].ravel()), dim)
        return pa.Table.from_arrays([pa.array(ids[:rows]), pa.array(buckets[:rows]), column], schema=schema)

    for part in _entries(item, dim):
        waiting.append(part)
        n += len(part[0])
        while n >= ROW_GROUP:
            yield table(ROW_GROUP)
            n -= ROW_GROUP
    if n:
        yield table(n)


def _entries(item: Range, dim: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ids, buckets and vectors of each list of each shard, in the order of buckets and ids."""
    opened: list[Any] = [read_lists(Path(shard), faiss.IO_FLAG_MMAP) for shard in item.shards]
    for bucket in range(item.first, item.last + 1):
        for index in opened:
            if size := index.invlists.list_size(bucket):
                ids = faiss.rev_swig_ptr(index.invlists.get_ids(bucket), size).copy()
                codes = faiss.rev_swig_ptr(index.invlists.get_codes(bucket), size * index.code_size)
                yield ids, np.full(size, bucket, np.int32), codes.view(np.float32).reshape(size, dim).copy()
