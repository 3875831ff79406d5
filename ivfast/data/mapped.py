"""x of a large file, written down once as formulas see it: read by memory map, without a copy in memory."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ivfast.data.npy import open_array
from ivfast.data.vectors import Points, rows_per_block
from ivfast.runtime.cache import fingerprint
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import remove, write_beside
from ivfast.runtime.progress import Progress

NAME = re.compile(r"x\.[0-9a-f]{24}\.npy")  # by fingerprint


def x_path(points: Points, folder: Path) -> Path:
    """Where x of these points lies in the folder, once it is written."""
    return folder / f"x.{fingerprint(digest=points.vectors.digest, n=len(points), **points.space.facts)}.npy"


def map_points(points: Points, folder: Path, progress: Progress) -> Points:
    """The same points, the same bits, but x is read from a file in the folder: written now, or by an earlier call.

    raises: RunError where the disk has no room
    """
    path = x_path(points, folder)
    found = _opened(path)
    if found is None:
        _write(points, path, progress)
        found = open_array(path, "x")
    return replace(points, mapped=found.view(np.ndarray))


def remove_mapped(folder: Path) -> None:
    """Remove what `map_points` has written there. Who still reads it keeps what was mapped."""
    for path in folder.glob("x.*.npy"):
        if NAME.fullmatch(path.name):  # a user's file may be called x.train.npy
            remove(path)


def _opened(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        return open_array(path, "x")
    except UserError:  # damaged: write it anew
        return None


def _write(points: Points, path: Path, progress: Progress) -> None:
    n, dim = len(points), points.dim
    step = rows_per_block(dim)

    def write(beside: Path) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
        with beside.open("wb") as file, progress.bar(f"writing {points.vectors.name} as it is searched", n) as bar:
            np.lib.format.write_array_header_1_0(file, header | {"shape": (n, dim)})
            for start in range(0, n, step):
                block = points.x(slice(start, start + step))
                file.write(block.data)
                bar.advance(len(block))

    write_beside(path, write, 4 * n * dim)
