"""What is said of a file that is not there: what lies beside it, and which command would make it."""

import os
from pathlib import Path
from unicodedata import normalize

from ivfast.data.first_bytes import CONVERTED, OF_ANSWERS, answers_line, quoted
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import A_FOLDER, A_PIPE, what_is


def missing(absent: dict[str, Path]) -> UserError:
    """What to raise for files that are not there, or are none, by what messages call them."""
    names = ", ".join(absent)
    folders = dict.fromkeys(path.parent for path in absent.values())
    if shut := next((path for path in absent.values() if _is_shut(path)), None):
        return UserError(
            f"{names}: {shut} cannot be looked at (Permission denied): a folder above it may be listed at most, not "
            f"entered; give permission (chmod u+x {shut.parent})"
        )
    there = "; ".join(_what_is_there(folder) for folder in folders)
    for path in absent.values():
        if path.name.endswith(".npy.npy") and os.path.isfile(path.with_suffix("")):
            return UserError(f"{names}: {_how(absent)}; {path.stem} is there: leave one .npy out of the name")
        if same := _of_other_bytes(path):
            there += f"; {same} is there, whose letters are written in another way (Unicode NFC, NFD): copy that name"
    return UserError(f"{names}: {_how(absent)}; {there}; {_from_others(absent)}{_do_with(absent)}")


def _how(absent: dict[str, Path]) -> str:
    """Which of them are missing, and which are no files."""
    gone = [str(path) for path in absent.values() if not what_is(path)]
    parts = [f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing"] if gone else []
    parts += [f"{path} is {what}, expected a file" for path in absent.values() if (what := what_is(path))]
    return ", ".join(parts)


def _do_with(absent: dict[str, Path]) -> str:
    for path in absent.values():
        if (what := what_is(path)) == A_PIPE:
            copied = quoted(path.with_stem(f"{path.stem}_copy"))
            return f"files are read more than once: write into one what comes out of it (cat {quoted(path)} > {copied})"
        if what and what != A_FOLDER:
            return "put the file there, or name another one"
    return "put the file there, or correct its name where it is given"


def _is_shut(path: Path) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        pass
    return False


def _of_other_bytes(path: Path) -> Path | None:
    """A file of the same letters: an umlaut is one character, or a vowel and a mark. macOS takes both as one name."""
    found = Path(path.anchor)
    for part in path.parts[bool(path.anchor) :]:
        if not os.path.lexists(found / part):
            try:
                names = os.listdir(found)
            except OSError:
                return None
            part = next((name for name in names if normalize("NFC", name) == normalize("NFC", part)), part)
        found /= part
    return found if found != path and os.path.isfile(found) else None


def _from_others(absent: dict[str, Path]) -> str:
    """The commands that make absent .npy files of what lies beside them, in other formats or as shards."""
    found = []
    for name, path in absent.items():
        if path.suffix != ".npy":
            continue
        if name == "gt":
            others = [path.with_suffix(suffix) for suffix in OF_ANSWERS]
            found += [answers_line(other, path) for other in others if os.path.isfile(other)]
            continue
        folder = path.with_suffix("")
        if os.path.isdir(path):
            found.append(f"mv {quoted(path, folder)} && ivfast convert {quoted(folder, path)}")
        others = [other for suffix in CONVERTED if os.path.exists(other := path.with_suffix(suffix))]
        others += [folder] if _holds_shards(folder) else []
        found += [f"ivfast convert {quoted(other, path)}" for other in others]
    return "".join(f"{line}; or " for line in found)


def _holds_shards(folder: Path) -> bool:
    """Whether it is a folder of shards, and no data set."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError:
        return False
    return "gt.npy" not in names and any(name.endswith((".npy", ".parquet")) for name in names)


def _what_is_there(folder: Path) -> str:
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in os.scandir(folder))
    except OSError as problem:
        return f"{folder} cannot be listed ({problem.strerror})"
    return f"{folder} holds {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}"
