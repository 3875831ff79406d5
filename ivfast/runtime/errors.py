"""What a user did wrong, in one line."""

import errno

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


def no_memory(problem: MemoryError) -> str:
    """The line for an array that the machine has no room for."""
    said = " ".join(str(problem).split())
    return (
        f"not enough memory{f': {said}' if said else ''}; use a smaller --param_list, --batch_size or --nlist, fewer "
        "vectors, or a machine with more memory"
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
