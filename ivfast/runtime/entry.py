"""From a shell to a command: what the process lacks is mended, and packages that can't be imported end in one line."""

import os
import sys
from contextlib import suppress
from importlib import import_module
from signal import SIGINT

from ivfast.runtime.packages import told
from ivfast.runtime.quota import name_threads


def run(module: str, argv: list[str] | None) -> int:
    """Run `main` of a module, which is imported first.

    argv: None: the words of the shell, in a process that is ours
    returns: its exit code; 2 where a package can't be imported
    """
    if argv is None:
        _open_standard_files()
        name_threads()
    try:
        main = import_module(module).main
    except KeyboardInterrupt:  # handlers of our own are not there yet
        print("stopped by SIGINT", file=sys.stderr)  # noqa: T201
        return 128 + SIGINT
    except BaseException as problem:  # whatever a broken package raises, Rust's panics and SystemExit too
        print(f"error: {told(problem)}", file=sys.stderr)  # noqa: T201, rich may be what is broken
        return 2
    try:
        return main(argv)
    finally:
        if argv is None:
            _flush()


def _open_standard_files() -> None:
    """A file that is opened while 0, 1 or 2 is closed gets that number, and what C libraries print goes into it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _flush() -> None:
    """Now, since Python complains at its end where whoever read (`| head`) is gone."""
    out = sys.stdout
    if out is None:
        return
    try:
        out.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
