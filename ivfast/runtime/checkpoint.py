"""The state of a run on disk: complete or absent, verified on load, readable by both backends."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from ivfast.runtime.errors import UserError
from ivfast.runtime.files import remove, save_tensors
from ivfast.runtime.progress import Progress
from ivfast.runtime.tensors import read_tensors

KEEP = 2  # newest checkpoints
NAME = re.compile(r"epoch_([0-9]{5})_step_([0-9]{8,})\.safetensors")


class Saved(NamedTuple):
    """One moment of a run."""

    epoch: int  # finished epochs
    step: int  # steps done of the next epoch
    arrays: dict[str, np.ndarray]  # Backend.state_dict, and weights of the best epochs
    about: dict[str, Any]  # goal, choices, settings, hash of learn; plain JSON, see docs/formats.md


def checkpoint_folder(save_path: Path) -> Path:
    """Where checkpoints lie. A save_path is used when it isn't empty."""
    return save_path / "checkpoints"


def save_state(path: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write arrays, with JSON about them and a checksum of both under one metadata key."""
    body = {"about": about, "checksum": _checksum(arrays, about)}
    save_tensors(path, arrays, {"ivfast": json.dumps(body, sort_keys=True)})


def save_checkpoint(save_path: Path, saved: Saved) -> Path:
    """Write one checkpoint, then remove all but the newest two."""
    folder = checkpoint_folder(save_path)
    path = folder / f"epoch_{saved.epoch:05d}_step_{saved.step:08d}.safetensors"
    about = {"epoch": saved.epoch, "step": saved.step, **saved.about}
    save_state(path, saved.arrays, about)
    for old in checkpoints_in(save_path)[KEEP:]:
        remove(old)
    return path


def checkpoints_in(save_path: Path) -> list[Path]:
    """Checkpoints, newest first."""
    folder = checkpoint_folder(save_path)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_file()), reverse=True)


def load_newest(save_path: Path, progress: Progress) -> Saved:
    """The newest checkpoint that is whole; damaged ones are named.

    raises: UserError where there is none
    """
    lost = True
    for path in checkpoints_in(save_path):
        try:
            saved = _load(path)
        except UnreadableError as problem:
            progress.note(f"warning: {problem}; the one before it is used")
            lost = lost and not problem.kept
            continue
        progress.note(f"resuming from {path}")
        return saved
    advice = "leave --resume out to start anew" if lost else "mend what the warnings name, and resume again"
    raise UserError(f"--resume True: {checkpoint_folder(save_path)} holds no whole checkpoint; {advice}")


def load_epoch(save_path: Path, epoch: int) -> Saved:
    """The checkpoint at the end of one epoch.

    raises: UserError where there is none, listing those that are there
    """
    found = {}
    for path in checkpoints_in(save_path):
        match = NAME.fullmatch(path.name)
        assert match is not None
        if int(match[2]) == 0:
            found[int(match[1])] = path
    if epoch not in found:
        ends = ", ".join(str(e) for e in sorted(found)) or "none"
        raise UserError(
            f"--start_epoch {epoch}: no checkpoint of the end of epoch {epoch} in {checkpoint_folder(save_path)}; "
            f"there are: {ends}"
        )
    try:
        return _load(found[epoch])
    except UnreadableError as problem:
        advice = "mend that" if problem.kept else "continue from the newest that is whole with --resume True"
        raise UserError(f"--start_epoch {epoch}: {problem}; {advice}") from None


class UnreadableError(Exception):
    """A checkpoint that can't be used. kept: whether all of it may be there, behind a disk that refuses"""

    def __init__(self, said: str, *, kept: bool) -> None:
        super().__init__(said)
        self.kept = kept


def _load(path: Path) -> Saved:
    try:
        arrays, metadata = read_tensors(path)
        body = json.loads(metadata["ivfast"])
        about = body["about"]
        if body["checksum"] == _checksum(arrays, about):
            return Saved(about["epoch"], about["step"], arrays, about)
    except OSError as problem:
        raise UnreadableError(f"{path} cannot be read ({problem.strerror or problem})", kept=True) from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UnreadableError(f"{path} is damaged", kept=False)


def _checksum(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        value = arrays[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
