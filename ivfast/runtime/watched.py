"""A process of several, watched by its parent: JAX's runtime ends it with a trace where another is lost.

The parent lets no line of that trace through, and says in one line what has happened.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from ivfast.runtime.errors import LOST
from ivfast.runtime.signals import STOPPING

WATCHED = "IVFAST_WATCHED"  # of a child's environment: two files, one ends when its parent is gone, one is its stderr
TRACE = re.compile(r"^[EFW]\d{4} .*(coordination_service\w*\.cc|\bclient\.h):|^\*\*\* Check failure")
APART = (
    "the processes of this run did not come together: start all of them within minutes of one another, process 0 on "
    "the host and port of --coordinator, where all can reach it, each with a --process_id of its own"
)


def is_watched() -> bool:
    """Whether this is such a child. From then on it ends where its parent is gone.

    What Python prints goes where it would have gone without a parent; the parent reads what libraries print.
    """
    if WATCHED not in os.environ:
        return False
    watch, errors = map(int, os.environ.pop(WATCHED).split())
    sys.stderr = os.fdopen(errors, "w", buffering=1, errors="backslashreplace")
    threading.Thread(target=_end_after, args=(watch,), daemon=True).start()
    return True


def _end_after(watch: int) -> None:
    os.read(watch, 1)
    os._exit(1)


def run_watched(say: Callable[[str], None]) -> int:
    """Run this command line again in a child, in a session of its own: a signal reaches it through here, once.

    say: prints a line
    returns: its exit code; 1 where JAX has ended it
    """
    read, write = os.pipe()  # `write` closes with this process, however that ends
    errors = os.dup(2)
    child = subprocess.Popen(  # noqa: S603, its own command line again
        [sys.executable, *sys.orig_argv[1:]], env=os.environ | {WATCHED: f"{read} {errors}"},
        stderr=subprocess.PIPE, text=True, errors="replace", pass_fds=(read, errors), start_new_session=True,
    )  # fmt: skip
    os.close(read)
    os.close(errors)

    handed_on: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        handed_on.append(number)
        child.send_signal(number)

    for number in STOPPING:
        signal.signal(number, hand_on)
    assert child.stderr is not None
    trace = ""
    for line in child.stderr:
        if trace or TRACE.match(line):
            trace += line
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
    code = child.wait()
    os.close(write)
    if code == -signal.SIGABRT and trace:
        say(f"error: {APART if 'RegisterTask' in trace else LOST}")
        return 1
    if -code in handed_on:  # while it waited for the others
        say(f"stopped by signal {-code}")
    elif code < 0:
        sys.stderr.write(trace)
        say(f"error: the process that trained was ended by signal {-code}")
    return code if code >= 0 else 128 - code
