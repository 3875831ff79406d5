"""The wheel holds the packages and nothing else, and says what it needs. `make wheel` installs and runs it."""

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

import ivfast

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ivfast", "ivfast_jax", "ivfast_torch")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: what an earlier build left beside the sources would get in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    no_cache = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "tests", "benchmarks", "parity_tests", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=no_cache)
    for name in ("pyproject.toml", "README.md", "LICENSE", "run_dcnet.py", "conftest.py"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(opened.read(name))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=\[; ]", line)[0].lower() for line in requirements}


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
        licenses = [name for name in opened.namelist() if name.endswith("/LICENSE")]
    modules = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert found == modules | {"run_dcnet.py", "ivfast/py.typed", "ivfast/evaluate/page/style.css"}
    assert len(licenses) == 1


def test_wheel_is_for_every_system_and_the_pythons_that_are_tested(wheel: Path, metadata: Message) -> None:
    assert wheel.name == f"ivfast-{ivfast.__version__}-py3-none-any.whl"
    assert metadata["Version"] == ivfast.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    said = re.findall(r"Python :: (3\.\d+)$", "\n".join(metadata.get_all("Classifier", [])), flags=re.MULTILINE)
    tried = re.findall(r"\b3\.\d+\b", (ROOT / ".ci" / "wheel.sh").read_text(encoding="utf-8"))
    assert said == tried == ["3.11", "3.12", "3.13"]


def test_wheel_brings_both_commands(wheel: Path) -> None:
    with ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("entry_points.txt"))
        commands = opened.read(name).decode().splitlines()
    assert {"run_dcnet = run_dcnet:main", "ivfast = ivfast.__main__:main"} <= set(commands)


def test_what_not_every_run_needs_is_an_extra(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist", [])
    core = names([line for line in required if "extra ==" not in line])
    assert core == {"faiss-cpu", "numpy", "rich", "safetensors", "jax", "flax", "optax"}
    assert {"torch", "large", "report", "docs"} <= set(metadata.get_all("Provides-Extra", []))
    for extra in set(re.findall(r"ivfast\[(\w+)\]", "".join(p.read_text() for p in (ROOT / "ivfast").rglob("*.py")))):
        assert extra in PROJECT["optional-dependencies"], f"a message says to install ivfast[{extra}]"


def test_version_is_told_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    code = "import ivfast, run_dcnet, sys; print(ivfast.__file__); run_dcnet.main(['--version'])"
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(wheel / "ivfast" / "__init__.py"), f"ivfast {ivfast.__version__}"]


def test_every_requirement_has_its_version_in_the_tested_set() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines if not line.startswith("#")]
    assert len(pins) == len(set(pins))
    required = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    assert names(required) - set(pins) == {"ivfast"}
