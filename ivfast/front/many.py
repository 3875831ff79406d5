"""What `ivfast index` and `ivfast evaluate` do with a base of many files."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ivfast.index.fill import try_kind
from ivfast.index.growth import Index
from ivfast.index.load import load
from ivfast.index.model import TrainedModel
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import PART, remove, save_array, user_path
from ivfast.runtime.lock import locked
from ivfast.runtime.own_files import MARK, claim, refuse_in_the_way
from ivfast.runtime.progress import Progress
from ivfast.spread.given import PARTS
from ivfast.spread.maps import HERE, spread_over, uses_ray
from ivfast.spread.queries import exact_answers
from ivfast.spread.sources import find_sources, stamp_of
from ivfast.spread.store import STORED_NAME, Wishes, store_files
from ivfast.spread.tables import LANCE, PARQUET
from ivfast.store.records import same_copies


def is_spread(options: argparse.Namespace) -> bool:
    """Whether a command names what only a base of many files has: several files, a URL, Ray, or a table.

    Without Ray (`--ray none`) one file is stored as ever; a folder is taken for its files wherever --ray is given.
    """
    on_ray = options.ray and (options.ray != HERE or os.path.isdir(options.base[0]))
    return len(options.base) > 1 or "://" in options.base[0] or bool(on_ray) or options.write != ["faiss"]


def index_files(options: argparse.Namespace, progress: Progress) -> None:
    """Store a base of many files."""
    fit, out = options.save_path.absolute(), options.out and options.out.absolute()
    if out is None or out.resolve() == fit.resolve():
        raise UserError(
            f"--out {'is missing' if out is None else out}: expected a folder other than that of the fit, whose index "
            "says who asks for the vectors of many files; name another one"
        )
    if options.kind.endswith("x4fs"):
        raise UserError(f"--kind {options.kind}: packed codes can't lie on disk, expected another kind for many files")
    if options.kind != "Flat" and set(options.write) != {"faiss"}:
        raise UserError(f"--kind {options.kind}: Parquet and Lance hold vectors as they are; leave --kind out")
    model = load(fit)
    refuse_copies(model, options.percents)
    try_kind(options.kind, model.dim)
    refuse_in_the_way(out, [STORED_NAME], [PARTS, PARQUET, LANCE])
    _refuse_own_folders(options, out)
    for folder in [PARTS] + [PARQUET] * ("parquet" in options.write):
        claim(out / folder, os.listdir(out / folder) if (out / folder).is_dir() else [])
    wishes = Wishes(options.base, options.percents, options.kind, options.column, tuple(options.write))
    _refuse_memory(options.base, options.ray)
    with locked(out, progress, "--out"), spread_over(options.ray) as over:
        for path in out.glob(f"{PART}*"):  # of a merge that was killed
            remove(path)
        stored = store_files(fit, out, wishes, over, progress)
    done = f"{stored.ranked:,} ranked and {stored.listed:,} put into lists now"
    progress.say(f"written: {out}, {stored.n:,} vectors, {stored.entries:,} entries ({done})")


def make_gt(made: Index, query: np.ndarray, options: argparse.Namespace, progress: Progress) -> np.ndarray:
    """The exact answers of queries over all files of a base, written into a file and handed back, (n, k) int64."""
    if not options.base:
        raise UserError("--base is missing: expected the files that the index was made of, for --make_gt; name them")
    if options.make_gt.suffix != ".npy":
        raise UserError(f"--make_gt {options.make_gt}: expected a name that ends in .npy; correct it")
    given = [options.query, *(Path(word) for word in options.base if "://" not in word)]
    if same := next((path for path in given if path and _is_same(path, options.make_gt)), None):
        raise UserError(f"--make_gt {options.make_gt}: would be written over {same}, which it is made of; name another")
    _refuse_memory(options.base, options.ray)
    fit = options.save_path.absolute()
    _check_files(fit, options.base, progress)
    with spread_over(options.ray) as over:
        found = exact_answers(fit, options.base, options.column, query, options.k, over, progress, len(made))
    save_array(options.make_gt, found.ids)
    progress.say(f"written: {options.make_gt}, {len(found.ids):,} queries with their {options.k} nearest")
    return found.ids


def refuse_copies(model: TrainedModel, copies: float | None) -> None:
    """raises: UserError where a base can't be stored with so many copies. copies: None: as the fit was trained for"""
    if copies is not None and not any(same_copies(copies, known) for known in model.copies):
        known = ", ".join(f"{number:g}" for number in model.copies)
        raise UserError(f"--percents {copies:g}: expected one of the fit's ({known}); choose one, or fit with it")


def refuse_no_index(folder: Path) -> None:
    """raises: UserError where `ivfast index` has written tables alone here, or has not come to its end"""
    if (folder / "ivfast.npy").exists() or not (folder / PARTS).is_dir():
        return
    if not (folder / STORED_NAME).is_file():
        raise UserError(f"{folder}: holds an index that is not finished; run the same `ivfast index` again, to its end")
    tables = [name for name in (PARQUET, LANCE) if (folder / name).exists()]
    raise UserError(
        f"{folder}: holds tables ({', '.join(tables)}) and no index, expected one; run the same `ivfast index` with "
        "faiss among what it is to --write"
    )


def _refuse_own_folders(options: argparse.Namespace, out: Path) -> None:
    """raises: UserError where files that are stored, or a user's own, lie where this command writes"""
    folders = [(out / name).resolve() for name in (PARTS, PARQUET, LANCE)]
    for word in options.base:
        path = Path(word).resolve()
        if "://" not in word and any(path.is_relative_to(folder) for folder in folders):
            raise UserError(f"base: {word} lies in a folder that --out {out} writes into; name another --out")
    if "lance" in options.write and (out / LANCE).exists() and not (out / PARTS / MARK).is_file():
        raise UserError(f"{out / LANCE} was not written by ivfast, but would be written over; name another --out")


def _check_files(folder: Path, words: Sequence[str], progress: Progress) -> None:
    """Warn of files that have changed since an index of many was made.

    raises: UserError where they are named in another order: ids count through them
    """
    if not (folder / STORED_NAME).is_file():
        return
    told = json.loads((folder / STORED_NAME).read_text(encoding="utf-8"))["files"]
    stored, sources = [file["file"] for file in told], find_sources(words)
    named = [str(source) for source in sources]
    if stored != named and sorted(stored) == sorted(named):
        at = next(i for i, (one, other) in enumerate(zip(stored, named, strict=True)) if one != other)
        expected, found = Path(stored[at]).name, Path(named[at]).name
        if expected == found:  # in different folders
            expected, found = stored[at], named[at]
        raise UserError(
            "--base: the files stand in another order than in the index, whose ids count through them: expected "
            f"{expected} as file {at + 1}, found {found}; name them in its order, or their folder for both"
        )
    if stored == named:
        stamps = [file.get("stamp") for file in told]  # earlier versions kept none
        changed = [s for s, stamp in zip(sources, stamps, strict=True) if stamp is not None and stamp_of(s) != stamp]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            progress.note(
                f"warning: {changed[0]}{more} has changed since the index was made, which may hold other vectors than "
                "those that are found now; make it again with the same `ivfast index`"
            )


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _refuse_memory(words: Sequence[str], address: str | None) -> None:
    """raises: UserError where tasks of Ray, which have processes of their own, would look for what lies in this one"""
    inside = next((word for word in words if word.startswith("memory://")), None)
    if inside is not None and uses_ray(address):
        raise UserError(f"base: {inside} lies in the memory of this process, which tasks of Ray can't see; --ray none")


def one_path(options: argparse.Namespace) -> Path:
    """The only file of a command that is not about many."""
    return user_path(options.base[0])
