"""What is written over must be ivfast's own: a user's files under the same names end the work before it begins."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.config import Config
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import make_folder

MARK = ".ivfast"  # an empty file, in folders whose files are written anew
ELSE = "or choose another --save_path (--out)"
TRAINED = ("ivfast.npy", "kmeans.npy", "dcnet.safetensors")  # what a training writes into its save_path

EVALUATED = ("evaluation.json", "evaluation.csv", "recall_scanned.png", "data.json", "report.html")  # an evaluation
OURS = ("dcnet.safetensors", "fit.json", "index.safetensors", ".ivfast.lock")  # of these names others have none
SIGNS = (*OURS, MARK, f"data/{MARK}", f"converted/{MARK}")
LOGGED = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")  # how a line of train.log begins


def claim(folder: Path, names: Iterable[str], *, known: bool = False) -> None:
    """Make a folder for files of ours, and mark it, so that a later call knows them.

    names: files that will be written into it
    known: whether something else tells that they are ours
    raises: UserError where one of them is there, and is not known to be ours
    """
    mark = folder / MARK
    for name in names:
        if os.path.lexists(folder / name) and not (known or mark.is_file()):
            raise UserError(f"{folder / name} was not written by ivfast, but would be written over; move it, {ELSE}")
    make_folder(folder)
    mark.touch()


def refuse_not_ours(folder: Path, names: Iterable[str]) -> None:
    """Look whether files that will be written are there already in a folder where ivfast has left nothing.

    A log alone tells nothing of centers: of a user's own an evaluation may have been written there, or nothing at all.

    names: files that will be written into it
    raises: UserError where one of them is there, and nothing tells that it is ours
    """
    if any(os.path.lexists(folder / sign) for sign in SIGNS) or checkpoints_in(folder):
        return
    has_log = _has_log(folder / "train.log")
    for name in names:
        of_training = name in TRAINED
        if has_log and not of_training:
            continue
        if os.path.lexists(folder / name) and not os.path.isdir(folder / name):  # a folder is never replaced
            lacks = "dcnet.safetensors, no checkpoints" if of_training else "train.log"
            raise UserError(
                f"{folder / name} was not written by ivfast, as far as its folder tells (no {lacks}), but would be "
                f"written over; move it, {ELSE}"
            )


def _has_log(path: Path) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with path.open("rb") as file:
            return LOGGED.match(file.read(32)) is not None
    except OSError:
        return True  # nobody can tell


def refuse_in_the_way(save_path: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """raises: UserError where a folder lies where one of our files will be, or a file where one of our folders will"""
    for name in files:
        if os.path.isdir(save_path / name):
            raise UserError(f"{save_path / name} is a folder, expected a file or nothing; move it, {ELSE}")
    for name in folders:
        if os.path.lexists(save_path / name) and not os.path.isdir(save_path / name):
            raise UserError(f"{save_path / name} is no folder, expected one or nothing; move it, {ELSE}")


def refuse_own(config: Config) -> None:
    """raises: UserError where a training would write over a file that it reads, or finds no place for its own"""
    refuse_in_the_way(config.save_path, TRAINED, ("cache", "checkpoints"))
    data = config.data_path / config.data_name
    inputs = {name: data / f"{name}.npy" for name in ("base", "query", "gt")}
    inputs["learn"] = config.data_path / f"{config.learn_name}.npy"
    if config.query_log is not None:
        inputs["query_log"] = config.data_path / f"{config.query_log}.npy"
    if config.start is not None:
        inputs["--start"] = config.start
    for output in (config.save_path / name for name in TRAINED):
        for name, path in inputs.items():
            if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
                raise UserError(
                    f"{name}: {path} would be written over, since a run writes its {output.name} there; "
                    "choose another --save_path, or copy that file to another name"
                )


def refuse_among(source: Path, folder: Path, *, name: str) -> None:
    """raises: UserError where files written into a folder would lie among the shards of a source: they would be read"""
    if not os.path.isdir(source):
        return
    source, real = source.resolve(), folder.resolve()
    if real == source or (source.suffix.lower() == ".lance" and source in real.parents):
        raise UserError(f"{name}: {folder} is the source's own folder, whose files are read; choose another folder")
