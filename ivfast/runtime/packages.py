"""Packages that are there but cannot be imported: which one it is, why, and what to do, in one line."""

import os
import subprocess
import sys
from functools import cache
from linecache import getline
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from ivfast.runtime.errors import StopRequestedError

PIP = {"faiss": "faiss-cpu", "lance": "pylance", "sklearn": "scikit-learn"}  # other names where they are installed from
OURS = ("ivfast", "ivfast_jax", "ivfast_torch", "run_dcnet", "__main__")
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
    """The package that an import failed in; "" where it is our own code.

    Of several it is the innermost that is not loaded: a library built for another NumPy fails inside NumPy, which is.
    """
    if file := getattr(problem, "filename", None) if isinstance(problem, SyntaxError) else None:
        return _at(file)
    frames = [
        (_package(frame.f_globals.get("__name__")), frame, line) for frame, line in walk_tb(problem.__traceback__)
    ]
    foreign = [package for package, _, _ in frames if package not in OURS and package not in sys.stdlib_module_names]
    if isinstance(problem, SyntaxError | ValueError) and "null bytes" in str(problem) and frames:
        _, frame, number = frames[-1]  # no file is named, and none of its lines ran: whoever imports it did
        words = getline(frame.f_code.co_filename, number).split()
        return _package(words[1]) if words[:1] in (["import"], ["from"]) else ""
    if foreign:
        return next((package for package in reversed(foreign) if package not in sys.modules), foreign[0])
    if isinstance(problem, ImportError):
        return _package(problem.name)
    if isinstance(problem, AttributeError) and isinstance(problem.obj, ModuleType):
        return _package(problem.obj.__name__)  # half removed: it is imported, but has nothing in it
    return ""


def is_wish(problem: BaseException) -> bool:
    """Whether somebody wants to stop: nothing that a package raised."""
    return isinstance(problem, KeyboardInterrupt | StopRequestedError)


def _package(module: Any) -> str:
    return str(module or "").partition(".")[0]


def _at(file: str) -> str:
    """The package that a file of Python's path belongs to."""
    for folder in sorted(filter(None, sys.path), key=len, reverse=True):
        if Path(file).is_relative_to(folder):
            return Path(file).relative_to(folder).parts[0].removesuffix(".py")
    return Path(file).stem


def told(problem: BaseException) -> str:
    """The line for what an import raised; raises it again where it is a mistake of our own, or a wish to stop."""
    package = culprit(problem)
    named = problem.name or "" if isinstance(problem, ImportError) else ""
    if is_wish(problem) or package in ("", *OURS) or _package(named) in OURS:
        raise problem
    if isinstance(problem, ModuleNotFoundError) and named and "." not in named:
        return f"{named} is not installed: pip install {PIP.get(named, named)}"
    return broken(package, reason(problem))


@cache
def why_not(*packages: str) -> str:
    """Why installed packages cannot be imported, "" where they can; tried in a process of its own.

    For packages whose import changes what others compute: numba sets the number of OpenMP's threads.
    """
    command = [sys.executable, "-P", "-c", f"import {', '.join(packages)}"]
    done = subprocess.run(  # noqa: S603, our own words
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}")[:LONGEST]
