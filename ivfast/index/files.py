"""An index on disk: index.faiss, which plain FAISS reads, and beside it what searching by recall and adding take."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from safetensors import SafetensorError, safe_open

from ivfast.index.calibration import Calibration
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_tensors, write_beside

SCHEMA = 1
FAISS_NAME, BESIDE_NAME, LISTS_NAME = "index.faiss", "index.safetensors", "index.ivfdata"


class ProbesUse(NamedTuple):
    """How often buckets are probed by those who ask for the vectors stored; see ivfast.store.demand.Probes."""

    log_use: np.ndarray  # (nlist,) float32
    cost: np.ndarray  # (nlist,) float32


class Parts(NamedTuple):
    """What an index consists of beside its model."""

    faiss_index: faiss.IndexIVF
    calibration: Calibration
    probes_use: ProbesUse
    about: dict[str, Any]


def save_index(
    folder: Path, faiss_index: faiss.IndexIVF, calibration: Calibration, probes_use: ProbesUse, about: dict[str, object]
) -> None:
    """Write index.faiss and index.safetensors, each complete or not at all."""
    arrays = {
        name: np.ascontiguousarray(value)
        for name, value in (calibration._asdict() | probes_use._asdict()).items()
        if isinstance(value, np.ndarray)
    }
    write_beside(folder / FAISS_NAME, lambda beside: faiss.write_index(faiss_index, str(beside)))
    facts = about | {"schema": SCHEMA, "width": calibration.width, "ntotal": faiss_index.ntotal}
    save_tensors(folder / BESIDE_NAME, arrays, {"ivfast_index": json.dumps(facts, sort_keys=True)})


def read_index(folder: Path) -> Parts:
    """Read both files.

    raises: UserError where one is missing, damaged, or belongs to another
    """
    path, beside = folder / FAISS_NAME, folder / BESIDE_NAME
    for file in (path, beside):
        if not file.is_file():
            raise UserError(f"{file} is missing: expected an index; make it with `ivfast index`, or name its folder")
    try:
        index: Any = faiss.read_index(str(path))
        with safe_open(beside, framework="numpy") as opened:
            about = json.loads((opened.metadata() or {})["ivfast_index"])
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if about["schema"] != SCHEMA or about["ntotal"] != index.ntotal:
            raise ValueError(f"of schema {about['schema']}, {about['ntotal']} entries where {index.ntotal} lie")
        calibration = Calibration(width=about["width"], **{name: arrays[name] for name in Calibration._fields[1:]})
        return Parts(index, calibration, ProbesUse(arrays["log_use"], arrays["cost"]), about)
    except (RuntimeError, SafetensorError, OSError, LookupError, TypeError, ValueError) as problem:
        said = str(problem).strip().splitlines()[-1][:200]
        raise UserError(f"{folder}: its index cannot be read ({said}); make it again with `ivfast index`") from None
