"""What is written over must be ivfast's own: a user's files under the same names end the work before it begins."""

import os
from collections.abc import Iterable
from pathlib import Path

from ivfast.runtime.errors import UserError

MARK = ".ivfast"  # an empty file, in folders whose files are written anew


def claim(folder: Path, names: Iterable[str], *, known: bool = False) -> None:
    """Make a folder for files of ours, and mark it, so that a later call knows them.

    names: files that will be written into it
    known: whether something else tells that they are ours
    raises: UserError where one of them is there, and is not known to be ours
    """
    mark = folder / MARK
    for name in names:
        if os.path.lexists(folder / name) and not (known or mark.is_file()):
            raise UserError(
                f"{folder / name} was not written by ivfast, but would be written over; move it, or choose another "
                "--save_path or --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
