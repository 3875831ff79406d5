"""What a user did wrong, in one line."""

import errno
import re

ADVICE = {
    errno.EACCES: "give permission, or name another --save_path",
    errno.EPERM: "give permission, or name another --save_path",
    errno.EROFS: "name another --save_path, where files can be written",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ENOSPC: "make room, or name another --save_path",
    errno.EDQUOT: "make room, or name another --save_path",
}  # what to do where the system refuses


LOST = (
    "another process of this run is gone or can't be reached; start all processes again with --resume True: the run "
    "goes on from its last checkpoint, with as many processes as you like"
)


class UserError(Exception):
    """Raised where the fact is known, caught in `main` alone, which prints it and exits 2.

    The message names the flag or file, what was found, what was expected and what to do.
    """


class RunError(Exception):
    """A run that cannot go on through no fault of its input: `main` prints it and exits 1."""


LACKING = re.compile(
    "RESOURCE_EXHAUSTED|out of memory|(can't|cannot|could not|unable to|failed to) allocate|bad_alloc|ALLOC_FAILED",
    re.IGNORECASE,
)  # what JAX and torch, CUDA and FAISS say, whose errors of many kinds are of one type
SAID = 200  # letters of what they say, which may be pages


def no_memory(problem: BaseException) -> str | None:
    """The line for what a machine or an accelerator has no room for; None of any other problem.

    Frameworks have errors of their own for it, which are told by their words: none is imported to ask for its types.
    """
    said = " ".join(str(problem).split())
    if not isinstance(problem, MemoryError) and not (isinstance(problem, RuntimeError) and LACKING.search(said)):
        return None
    said = said if len(said) <= SAID else f"{said[:SAID]}.."
    return (
        f"not enough memory{f': {said}' if said else ''}; use a smaller --batch_size, --valid_batch_size, --param_list "
        "or --nlist, fewer vectors, or a machine with more memory"
    )


class StopRequestedError(BaseException):
    """A signal of ivfast.runtime.signals: `main` exits with 128 plus its number.

    No Exception, so that a library that survives its own errors does not take this for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def in_words(problem: Exception) -> str:
    """What is told of an error: of the system's own ones, which say nothing of it, also what to do."""
    if isinstance(problem, OSError) and problem.errno in ADVICE:
        where = f"{problem.filename}: " if problem.filename else ""
        return f"{where}{problem.strerror}; {ADVICE[problem.errno]}"
    return str(problem)
