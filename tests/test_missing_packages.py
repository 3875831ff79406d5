"""What is not installed: either backend runs alone, pictures are left out, and what a run would miss is said first.

A package counts as absent where sys.modules holds None for it: importing it fails, and find_spec finds nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ivfast.data.vectors import Vectors
from ivfast.network.backend import NEEDS, installed_backends
from ivfast.runtime.config import BACKENDS
from ivfast.runtime.errors import UserError
from ivfast.start.descent import MOST_EXACT, Means, check_descent
from ivfast.start.neighbors import SearchLimits
from run_dcnet import main
from tests.runs import flags, make_data

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
from run_dcnet import main
sys.exit(main(sys.argv[2:]))
"""
ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "matplotlib,pynndescent,numba,sklearn"
OTHERS = {"jax": f"torch,{EXTRAS}", "torch": f"jax,jaxlib,flax,optax,scipy,{EXTRAS}"}


def run_without(packages: str, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, packages, *argv]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # see the fixture of that name
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=one_thread)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), n_identities=150, n_query=60)


@pytest.mark.whole_run
@pytest.mark.parametrize("backend", OTHERS)
def test_a_backend_trains_and_evaluates_with_nothing_but_its_framework(
    backend: str, data: Path, tmp_path: Path
) -> None:
    done = run_without(OTHERS[backend], *flags(data, tmp_path, "--backend", backend, "--epochs", "2"))
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "ivfast.npy").shape == (32, 24)
    routers = {line["router"] for line in json.loads((tmp_path / "evaluation.json").read_text())["results"]}
    assert routers == {"kmeans", "centers", "net"}
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if "not installed" in line or "scipy" in line] == [
        "no recall_scanned.png and report.html, since matplotlib is not installed: pip install 'ivfast[report]'"
    ]
    assert not (tmp_path / "recall_scanned.png").exists()


def test_a_backend_without_its_framework_names_the_one_that_is_installed(data: Path, tmp_path: Path) -> None:
    done = run_without("jax", *flags(data, tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: --backend jax: jax is not installed; pip install jax flax optax, "
        "or choose --backend torch, which is installed"
    )


def test_backends_that_are_installed_are_told_the_default_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(NEEDS) == BACKENDS
    assert installed_backends() == ["jax", "torch"]
    monkeypatch.setitem(sys.modules, "optax", None)
    assert installed_backends() == ["torch"]


@pytest.mark.parametrize("large", ["learn", "base"])
def test_large_sets_are_refused_without_pynndescent_before_anything_is_computed(
    large: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    n_learn, n_base = (len(np.load(data / name, mmap_mode="r")) for name in ("learn_faces.npy", "faces/base.npy"))
    assert n_learn > n_base
    argv, limit = flags(data, tmp_path / "out"), n_learn - 1
    if large == "base":
        np.save(tmp_path / "few.npy", np.load(data / "learn_faces.npy")[: n_base // 2])
        (tmp_path / "faces").symlink_to(data / "faces")
        argv, limit = flags(tmp_path, tmp_path / "out", "--learn_name", "few"), n_base - 1
    monkeypatch.setattr("ivfast.train.admit.LIMITS", SearchLimits(exact_learn=limit))
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {large}: ")
    assert "not installed: pip install 'ivfast[large]', search them on a GPU" in error
    assert not (tmp_path / "out" / "cache").exists()


def test_an_accelerator_needs_no_pynndescent_up_to_where_it_searches_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynndescent", None)

    def vectors(n: int) -> Vectors:
        return Vectors("base", Path("base.npy"), np.broadcast_to(np.float32(0), (n, 1)))

    means = Means(search=lambda *_: (np.empty(0), np.empty(0)))
    check_descent(vectors(MOST_EXACT), means)
    with pytest.raises(UserError, match=r"'ivfast\[large\]', or use fewer vectors"):
        check_descent(vectors(MOST_EXACT + 1), means)
