"""Reading .safetensors files: by memory map, and by plain reads where the file system has none."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

METADATA = "__metadata__"  # the key of a header that is no tensor
LONGEST_HEADER = 100_000_000  # bytes; the library's own limit


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a file by name, and its metadata.

    raises: SafetensorError or ValueError where the file is damaged, OSError where it can't be read
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError:  # of a map, or of what the plain read says more clearly
        data = path.read_bytes()
    arrays = load(data)
    return arrays, json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get(METADATA, {})


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """What a file says of its tensors and itself, as it says it, and where their data begins, in bytes.

    raises: SafetensorError, ValueError, LookupError, TypeError or AttributeError where it is damaged, OSError where it
    can't be read
    """
    try:
        with safe_open(path, framework="numpy"):
            pass  # all of it is checked
    except OSError:  # no memory maps: what is read is checked below
        pass
    with path.open("rb") as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if length > min(LONGEST_HEADER, size - 8):
            raise SafetensorError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != METADATA]
    if max(ends, default=0) != size - 8 - length:
        raise SafetensorError(f"{max(ends, default=0)} bytes of data are promised, there are {size - 8 - length}")
    return header, 8 + length
