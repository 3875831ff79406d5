"""What `ivfast index` and `ivfast evaluate` do with a base of many files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ivfast.index.fill import try_kind
from ivfast.index.growth import Index
from ivfast.index.load import load
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_array, user_path
from ivfast.runtime.lock import locked
from ivfast.runtime.own_files import claim, refuse_in_the_way
from ivfast.runtime.progress import Progress
from ivfast.spread.given import PARTS
from ivfast.spread.maps import spread_over, uses_ray
from ivfast.spread.queries import exact_answers
from ivfast.spread.store import STORED_NAME, Wishes, store_files
from ivfast.spread.tables import LANCE, PARQUET


def is_spread(options: argparse.Namespace) -> bool:
    """Whether a command names what only a base of many files has: several files, a URL, Ray, or a table."""
    return len(options.base) > 1 or "://" in options.base[0] or bool(options.ray) or options.write != ["faiss"]


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
    try_kind(options.kind, load(fit).dim)
    refuse_in_the_way(out, [STORED_NAME], [PARTS, PARQUET, LANCE])
    for folder in [PARTS] + [PARQUET] * ("parquet" in options.write):
        claim(out / folder, [])
    wishes = Wishes(options.base, options.percents, options.kind, options.column, tuple(options.write))
    _refuse_memory(options.base, options.ray)
    with locked(out, progress), spread_over(options.ray) as over:
        stored = store_files(fit, out, wishes, over, progress)
    done = f"{stored.ranked:,} ranked and {stored.listed:,} put into lists now"
    progress.say(f"written: {out}, {stored.n:,} vectors, {stored.entries:,} entries ({done})")


def make_gt(made: Index, query: np.ndarray, options: argparse.Namespace, progress: Progress) -> np.ndarray:
    """The exact answers of queries over all files of a base, written into a file and handed back, (n, k) int64."""
    if not options.base:
        raise UserError("--base is missing: expected the files that the index was made of, for --make_gt; name them")
    if options.make_gt.suffix != ".npy":
        raise UserError(f"--make_gt {options.make_gt}: expected a name that ends in .npy; correct it")
    _refuse_memory(options.base, options.ray)
    with spread_over(options.ray) as over:
        fit = options.save_path.absolute()
        found = exact_answers(fit, options.base, options.column, query, options.k, over, progress, len(made))
    save_array(options.make_gt, found.ids)
    progress.say(f"written: {options.make_gt}, {len(found.ids):,} queries with their {options.k} nearest")
    return found.ids


def _refuse_memory(words: Sequence[str], address: str | None) -> None:
    """raises: UserError where tasks of Ray, which have processes of their own, would look for what lies in this one"""
    inside = next((word for word in words if word.startswith("memory://")), None)
    if inside is not None and uses_ray(address):
        raise UserError(f"base: {inside} lies in the memory of this process, which tasks of Ray can't see; --ray none")


def one_path(options: argparse.Namespace) -> Path:
    """The only file of a command that is not about many."""
    return user_path(options.base[0])
