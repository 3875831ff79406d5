"""A base of many files for several tests: a model, files, and what one process makes of one file."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import ivfast
from ivfast.runtime.progress import silent
from ivfast.runtime.tensors import read_tensors
from ivfast.spread.maps import Here
from ivfast.spread.store import Stored, Wishes, store_files

N = 21_000  # more than one block
CUTS = (0, 700, 4100, 4101, 9000, 12_288, 15_000, 17_777, N)  # of eight files, one of a single row


@pytest.fixture(scope="session")
def fit_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a model and an index of what it was trained on."""

    @cache
    def of(metric: str) -> Path:
        folder, rows = tmp_path_factory.mktemp(f"fit_{metric}"), rows_of(3000, 1, metric)
        model = ivfast.fit(rows, nlist=24, metric=metric, epochs=1, save_path=folder, batch_size=256)
        model.index(rows, 0.8).save(folder)
        return folder

    return of


def base_of(metric: str) -> np.ndarray:
    """(N, DIM), of which a tenth trained."""
    rows = rows_of(N, 5, metric)
    rows[::10] = rows_of(3000, 1, metric)[: len(rows[::10])]
    rows[40:60] = rows[39]  # twins, whose keys are ties
    return rows


@pytest.fixture(scope="session")
def files_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Eight files; what changes them copies them."""

    @cache
    def of(metric: str) -> list[str]:
        return write_files(tmp_path_factory.mktemp(f"files_{metric}"), base_of(metric))

    return of


def write_files(folder: Path, base: np.ndarray) -> list[str]:
    """As .npy, cut at CUTS."""
    paths = [folder / f"part-{number}.npy" for number in range(len(CUTS) - 1)]
    for path, (start, end) in zip(paths, pairwise(CUTS), strict=True):
        np.save(path, base[start:end])
    return [str(path) for path in paths]


@pytest.fixture(scope="session")
def one_of(
    tmp_path_factory: pytest.TempPathFactory, fit_of: Callable[[str], Path]
) -> Callable[[str], tuple[Path, Stored]]:
    """The same base as one file, stored in this process: what all else is compared with."""

    @cache
    def of(metric: str) -> tuple[Path, Stored]:
        folder = tmp_path_factory.mktemp(f"one_{metric}")
        np.save(folder / "base.npy", base_of(metric))
        wishes = Wishes([str(folder / "base.npy")], 0.8, formats=("faiss", "parquet"))
        return folder / "out", store_files(fit_of(metric), folder / "out", wishes, Here(), silent())

    return of


def copied(path: str, folder: Path) -> str:
    """A copy, to be damaged."""
    return str(shutil.copy2(path, folder))


def kill_before(name: str) -> Callable[[Path, Path], None]:
    """What stands for os.replace in a process that is killed before a file of that name is in place."""
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise KeyboardInterrupt
        replace(source, target)

    return killed


def content(out: Path) -> dict[str, bytes]:
    """What is stored: FAISS lists, what a search by recall takes, and tables. Only index.faiss names its folder."""
    names = ["index.ivfdata", *(f"parquet/{path.name}" for path in (out / "parquet").glob("*.parquet"))]
    arrays = {name: value.tobytes() for name, value in read_tensors(out / "index.safetensors")[0].items()}
    return arrays | {name: (out / name).read_bytes() for name in names}


def same(one: Path, other: Path) -> bool:
    return content(one) == content(other)


def rows_of(n: int, seed: int, metric: str) -> np.ndarray:
    """See make_rows."""
    from tests.test_index import make_rows  # here, since conftest.py is read before pytest rewrites tests

    return make_rows(n, seed, metric)
