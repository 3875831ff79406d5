"""An index on disk: index.faiss, which plain FAISS reads, and beside it what searching by recall and adding take."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from safetensors import SafetensorError

from ivfast.index.calibration import Calibration
from ivfast.index.entries import stored_ids
from ivfast.index.fill import check_faiss_path, on_disk
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import copy_beside, file_hash, save_tensors, what_is, write_beside
from ivfast.runtime.tensors import read_tensors

SCHEMA = 1
FAISS_NAME, BESIDE_NAME, LISTS_NAME = "index.faiss", "index.safetensors", "index.ivfdata"
SHARED = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
DAMAGED = (RuntimeError, SafetensorError, OSError, LookupError, TypeError, ValueError)  # what reading either raises


class ProbesUse(NamedTuple):
    """How often buckets are probed by those who ask for the vectors stored; see ivfast.store.demand.Probes."""

    log_use: np.ndarray  # (nlist,) float32
    cost: np.ndarray  # (nlist,) float32


class Parts(NamedTuple):
    """What an index consists of beside its model."""

    faiss_index: faiss.IndexIVF
    calibration: Calibration
    probes_use: ProbesUse
    reach: np.ndarray  # (ids, 8) float32, see ivfast.index.place.reach_of
    about: dict[str, Any]


def save_index(folder: Path, parts: Parts) -> None:
    """Write index.faiss and index.safetensors, each complete or not at all.

    index.faiss is in place last: whoever finds none may write anew, since nothing is lost.

    raises: UserError where FAISS can't take the path
    """
    check_faiss_path(folder)
    faiss_index, calibration = parts.faiss_index, parts.calibration
    arrays = {
        name: np.ascontiguousarray(value)
        for name, value in (calibration._asdict() | parts.probes_use._asdict() | {"reach": parts.reach}).items()
        if isinstance(value, np.ndarray)
    }
    if (lists := on_disk(faiss_index)) is not None:
        source = Path(lists.filename)
        if (target := folder / source.name).resolve() != source.resolve():
            copy_beside(source, target)
    facts = parts.about | {"schema": SCHEMA, "width": calibration.width}

    def write(beside: Path) -> None:
        _write(faiss_index, beside)
        about = json.dumps(facts | {"faiss_sha256": file_hash(beside)}, sort_keys=True)
        save_tensors(folder / BESIDE_NAME, arrays, {"ivfast_index": about})

    write_beside(folder / FAISS_NAME, write)


def read_index(folder: Path, *, mapped: bool = False) -> Parts:
    """Read both files.

    mapped: whether lists stay in the file where that can be, so that many processes hold them once. None is changed
    raises: UserError where one is missing, damaged, or belongs to another
    """
    check_faiss_path(folder)
    path, beside = folder / FAISS_NAME, folder / BESIDE_NAME
    for file in (path, beside):
        if not file.is_file():
            what = what_is(file) or "missing"
            raise UserError(f"{file} is {what}: expected an index; make it with `ivfast index`, or name its folder")
    try:
        index, (arrays, about) = (_map_faiss if mapped else _read_faiss)(path), _read_beside(beside)
        if about["faiss_sha256"] != file_hash(path):
            raise ValueError(f"{beside.name} is of another {path.name}")
        calibration = Calibration(width=about["width"], **{name: arrays[name] for name in Calibration._fields[1:]})
        use = ProbesUse(arrays["log_use"], arrays["cost"])
        return Parts(index, calibration, use, arrays["reach"], about)
    except DAMAGED as problem:
        said = str(problem).strip().splitlines()[-1].split("Error: ")[-1][:200]
        if "mmap" in said:
            raise UserError(
                f"{folder}: the lists of its index cannot be mapped ({said}); copy the folder to a file system that "
                "has memory maps, the index is kept"
            ) from None
        raise UserError(f"{folder}: its index cannot be read ({said}); make it again with `ivfast index`") from None


def was_added_to(folder: Path, n: int | None) -> bool:
    """Whether vectors were added to the index in a folder after it was made.

    Of two files that belong together the metadata says so. Where a kill came between them the lists do: those on disk
    take nothing, and others are made with ids from 0 to n - 1.

    n: vectors that it was made of where only index.faiss is left; None: not known
    raises: UserError where it can't be told
    """
    path = folder / FAISS_NAME
    try:
        about = _read_beside(folder / BESIDE_NAME)[1]
        (n, _), next_id, belongs_to = about["built"], about["next_id"], about["faiss_sha256"]
        if next_id > n or belongs_to == file_hash(path):
            return next_id > n
    except DAMAGED:
        pass
    try:
        found = _read_faiss(path)
        as_made = on_disk(found) is not None or (n is not None and np.array_equal(stored_ids(found), np.arange(n)))
    except DAMAGED:
        as_made = False
    if not as_made:
        raise UserError(
            f"{path}: {BESIDE_NAME} beside it is missing, damaged or of another one, so that it can't be told whether "
            f"vectors were added; move {FAISS_NAME} elsewhere or remove it, then fit again"
        )
    return False


def _read_faiss(path: Path) -> Any:
    # lists on disk are looked for beside index.faiss, wherever both have been moved, and are not changed
    return faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY)


def _map_faiss(path: Path) -> Any:
    try:
        index: Any = faiss.read_index(str(path), SHARED)
    except RuntimeError:  # its file system has no memory maps, or it is damaged, which reading tells
        return _read_faiss(path)
    if (lists := on_disk(index)) is not None:
        lists.prefetch_nthread = 0  # threads that are started for each search
    return index


def _read_beside(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, metadata = read_tensors(path)
    about = json.loads(metadata["ivfast_index"])
    if about["schema"] != SCHEMA:
        raise ValueError(f"schema {about['schema']}, expected {SCHEMA}")
    return arrays, about


def _write(index: faiss.IndexIVF, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as problem:  # all that FAISS says of a disk
        raise OSError(str(problem).strip().splitlines()[-1][:200]) from None
