"""Columns of lists, in Parquet files and Lance datasets: streamed batch by batch through pyarrow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivfast.data.formats.rows import NUMBERS, READ_AS, Rows, damaged, load_package, pick
from ivfast.runtime.errors import UserError

PROBLEMS = (OSError, ValueError, TypeError, RuntimeError, NotImplementedError)  # pyarrow's own derive from these
NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}  # what pyarrow calls them: what all else does
AHEAD = 16 << 20  # bytes: a dataset of 1 GB takes 76 MB of memory to read, and with the library's own 2 GB 381 MB
BATCH = 8192  # rows of a batch at most, since libraries read several ahead

Batches = Callable[[str, int], Iterator[Any]]  # column, rows at once -> record batches of that column alone


def open_parquet(path: Path, name: str, column: str | None) -> Rows:
    """One column of lists of equally many numbers.

    raises: UserError where the file is damaged, or none or several columns could be meant
    """
    pq = load_package("pyarrow.parquet", name, path)
    with damaged(name, path, *PROBLEMS), _mapped(pq, path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows

    def batches(chosen: str, rows_at_once: int) -> Iterator[Any]:
        with _mapped(pq, path) as file:
            yield from file.iter_batches(batch_size=rows_at_once, columns=[chosen])

    return _open_table(path, name, column, schema, n, batches)


def _mapped(pq: Any, path: Path) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except OSError:  # damaged, or on a file system without memory maps
        return pq.ParquetFile(path)


class Fragment(NamedTuple):
    """A part of a Lance dataset."""

    number: int
    version: int  # of the dataset


def open_lance(
    path: Path, name: str, column: str | None, fragment: Fragment | None = None, uri: str | None = None
) -> Rows:
    """One column of lists of equally many numbers, of the newest version of a Lance dataset.

    fragment: the part that is read; None: all of it
    uri: where it lies, if not at the path
    raises: UserError where it is damaged, or none or several columns could be meant
    """
    lance, uri = load_package("lance", name, path), uri or str(path)
    with damaged(name, path, *PROBLEMS):
        dataset = lance.dataset(uri, version=fragment and fragment.version)
        schema, version = dataset.schema, dataset.version
        n = dataset.get_fragment(fragment.number).count_rows() if fragment else dataset.count_rows()

    def batches(chosen: str, rows_at_once: int) -> Iterator[Any]:
        # of the version that was counted, since others may write meanwhile
        read = lance.dataset(uri, version=version)
        scanner = read.scanner(
            columns=[chosen], batch_size=rows_at_once, io_buffer_size=AHEAD, batch_readahead=2, fragment_readahead=1,
            fragments=[read.get_fragment(fragment.number)] if fragment else None,
        )  # fmt: skip
        yield from scanner.to_batches()

    return _open_table(path, name, column, schema, n, batches)


def _open_table(path: Path, name: str, column: str | None, schema: Any, n: int, batches: Batches) -> Rows:
    seen = {field.name: str(field.type) for field in schema}
    fit = [field.name for field in schema if _is_list(field.type, name, path) and _numbers(field.type) in READ_AS]
    chosen = pick(seen, fit, column, name, path, f"column of lists of {NUMBERS}")
    dtype, dim = _numbers(schema.field(chosen).type), getattr(schema.field(chosen).type, "list_size", None)
    if n == 0:
        raise UserError(f"{name}: {path} has no rows, expected some; name another file")

    def pieces(rows_at_once: int) -> Iterator[np.ndarray]:
        first = 0
        with damaged(name, path, *PROBLEMS):
            for batch in batches(chosen, min(rows_at_once, BATCH)):
                if batch.num_rows == 0:
                    continue
                found = _matrix(batch.column(0), dim, f"{name}: {path} column {chosen}", first)
                first += len(found)
                yield found

    if dim is None:  # lists of any length: as long as the first is
        dim = next(pieces(1), np.empty((0, 0))).shape[1]
    if dim == 0:
        raise UserError(f"{name}: {path} column {chosen} has lists of no numbers, expected some; name another file")
    return Rows(name, path, n, dim, dtype, pieces)


def _is_list(type: Any, name: str, path: Path) -> bool:
    types = load_package("pyarrow", name, path).types
    return types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type)


def _numbers(type: Any) -> str:
    """The type of what a list holds, by NumPy's name."""
    return NAMES.get(str(type.value_type), str(type.value_type))


def _matrix(column: Any, dim: int | None, where: str, first: int) -> np.ndarray:
    """A column of lists as (rows, dim); dim None: as long as the first list.

    first: number of its first row, for messages
    raises: UserError on missing lists or numbers, and lists of another length
    """
    n = len(column)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise UserError(f"{where} row {first + row} is null, expected a list of numbers; drop such rows first")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    dim = int(lengths[0]) if dim is None else dim
    wrong = lengths != dim
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"{where} row {first + row} has {lengths[row]} numbers, expected {dim} as in the first row")
    values = column.flatten()
    if values.null_count:
        at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise UserError(f"{where} row {first + at // dim} holds a null, expected numbers alone; drop such rows first")
    return values.to_numpy(zero_copy_only=False).reshape(n, dim)
