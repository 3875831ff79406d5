"""Packages that are there but cannot be imported: which one it is, why, and what to do, in one line."""

import os
import subprocess
import sys
from functools import cache
from traceback import walk_tb

PIP = {"faiss": "faiss-cpu", "lance": "pylance", "sklearn": "scikit-learn"}  # other names where they are installed from
OURS = ("ivfast", "ivfast_jax", "ivfast_torch", "run_dcnet", "importlib", "_frozen_importlib", "contextlib", "__main__")
LONGEST = 250  # letters of a reason


def reason(problem: BaseException) -> str:
    """What an import raised, in one line."""
    said = " ".join(str(problem).split())[:LONGEST]
    return f"{type(problem).__name__}: {said}" if said else type(problem).__name__


def broken(package: str, why: str, install: str | None = None) -> str:
    """The line for a package that is installed but cannot be imported. why: as of `reason`"""
    install = install or f"pip install --force-reinstall {PIP.get(package, package)}"
    return f"{package} is installed, but cannot be imported ({why}); install it anew: {install}"


def culprit(problem: BaseException) -> str:
    """The package that an import failed in; "" where it is our own code."""
    for frame, _ in walk_tb(problem.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in OURS:
            return package
    return (problem.name or "").partition(".")[0] if isinstance(problem, ImportError) else ""


def told(problem: Exception) -> str:
    """The line for what an import raised; raises it again where it is a mistake of our own."""
    package = culprit(problem)
    named = (problem.name or "").partition(".")[0] if isinstance(problem, ImportError) else ""
    if package in ("", *OURS) or named in OURS:
        raise problem
    if isinstance(problem, ModuleNotFoundError) and named:
        return f"{named} is not installed: pip install {PIP.get(named, named)}"
    return broken(package, reason(problem))


@cache
def why_not(package: str) -> str:
    """Why an installed package cannot be imported, "" where it can; tried in a process of its own.

    For packages whose import changes what others compute: numba sets the number of OpenMP's threads.
    """
    command = [sys.executable, "-P", "-c", f"import {package}"]
    done = subprocess.run(  # noqa: S603, our own words
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}")[:LONGEST]
