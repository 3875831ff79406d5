"""A base of many files, from the first one that is counted to a searchable index or a table."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.exact import without_self
from ivfast.index.build import by_codes, n_aside
from ivfast.index.calibration import MOST_K, Answers, calibrate, calibrate_codes
from ivfast.index.files import BESIDE_NAME, FAISS_NAME, LISTS_NAME
from ivfast.index.fill import sizes_of
from ivfast.index.growth import Index
from ivfast.index.load import load_index
from ivfast.index.place import RANKS
from ivfast.route.search import imbalance
from ivfast.runtime.draws import generator, spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import PART, remove, save_json, save_tensors, save_text
from ivfast.runtime.progress import Progress
from ivfast.spread.asking import NO_LOOKS, Looks, find_looks, holds
from ivfast.spread.border import Border
from ivfast.spread.given import PARTS, RULES, Given, fit_digest, piece_rows
from ivfast.spread.lists import Bordered, buckets_of, empty_path, make_empty, merge, store
from ivfast.spread.maps import Spread
from ivfast.spread.ranks import rank, read_part
from ivfast.spread.sources import Numbered, Source, digest_of, find_sources
from ivfast.spread.stages import Stages, find_border, find_nearest, number_files
from ivfast.spread.tables import LANCE, PARQUET, Shard, check_packages, commit_lance, ranges, write_lance, write_parquet
from ivfast.store.place import BINS

STORED_NAME = "stored.json"
BASE_NAME = "base.txt"  # the digest of the base whose parts are there
SHARD = re.compile(r"lists-[0-9a-f]+\.faiss")
WRITTEN = {"faiss": (FAISS_NAME, BESIDE_NAME, LISTS_NAME), "parquet": (PARQUET,), "lance": (LANCE,)}
FORMATS = tuple(WRITTEN)
ASIDE_PART = 3  # of the draws from "sample"


class Wishes(NamedTuple):
    """What is to be stored, and as what."""

    words: Sequence[str]  # see find_sources
    copies: float | None = None  # None: as the run was trained for
    kind: str = "Flat"
    column: str | None = None
    formats: Sequence[str] = ("faiss",)


class Stored(NamedTuple):
    """What came of it."""

    n: int  # vectors
    entries: int
    ranked: int = 0  # vectors that were ranked in this run, and
    listed: int = 0  # put into lists: what was there already is not counted


class Lists(NamedTuple):
    """What the second pass left."""

    shards: list[Shard]  # in the order of ids
    sizes: np.ndarray  # (nlist,) int64
    border: Border
    asked: np.ndarray  # (m,) int64, ids that were drawn to stand for queries
    vectors: np.ndarray  # (m, dim) float32, theirs
    computed: int


def store_files(fit: Path, out: Path, wishes: Wishes, over: Spread, progress: Progress) -> Stored:
    """Store the vectors of many files under a trained model, as one base: ids count through the files.

    fit: folder of the model, with the index whose vectors stand for those who will ask
    out: folder that is written into; all hosts of a cluster see it, and the fit's, under the same path
    raises: UserError as `load_index` does, and where a file or a package is not there; RunError where a file can't be
    read, after all others were
    """
    check_packages(wishes.formats, out)
    sources, index = find_sources(wishes.words), load_index(fit)
    _warn_of_twice(sources, progress)
    _check_asking(fit, index)
    given = given_of(fit, out, wishes, index)
    stages = Stages(over, given, progress)
    files = number_files(stages, sources)
    n = sum(file.n for file in files)
    if n < 2 and not stages.failed:
        rows = f"{n} row{'s' * (n != 1)}"
        raise UserError(f"base: found {rows}, expected 2 or more, so that one is near another; add some")
    facts = given.copies, given.kind, given.column, [file.stamp for file in files]
    whole = digest_of(RULES, given.digest, *facts)
    if not stages.failed and (before := _stored_before(out, whole, wishes.formats)):
        return before
    _begin(out, whole, wishes.formats)
    stages.given = given = given._replace(looks=_looks(given, index, progress))
    histogram, ranked = np.zeros(BINS, dtype=np.int64), 0
    for _, found in stages.each(rank, files, [file.source for file in files], "ranking"):
        histogram += found.histogram
        ranked += found.computed
    stages.check(len(sources))
    stages.given = given._replace(looks=NO_LOOKS)  # no later task needs them
    border = find_border(stages, files, histogram, round(given.copies * n))
    lists = _fill(stages, index, files, border, n)
    _write_tables(stages, lists, wishes.formats, whole)
    if "faiss" in wishes.formats:
        fresh = np.flatnonzero(~holds(given.looks, lists.vectors))
        _make_index(stages, index, files, lists, fresh, n).save(out)
    facts = {"digest": whole, "n": n, "entries": int(lists.sizes.sum()), "copies": given.copies, "kind": given.kind}
    named = [{"file": str(file.source), "first_id": file.first, "rows": file.n, "stamp": file.stamp} for file in files]
    save_json(out / STORED_NAME, facts | {"formats": list(wishes.formats), "files": named})
    shards = [path for path in (out / PARTS).glob("lists-*.faiss") if SHARD.fullmatch(path.name)]
    for path in [*shards, *(out / PARTS).glob(f"{PART}*"), *(out / PARQUET).glob(f"{PART}*")]:
        remove(path)  # also what processes that were lost left half written
    return Stored(n, int(lists.sizes.sum()), ranked, lists.computed)


def _warn_of_twice(sources: Sequence[Source], progress: Progress) -> None:
    if twice := next((source for source, times in Counter(sources).items() if times > 1), None):
        progress.note(f"warning: {twice} is named more than once: its vectors are stored as often, by other ids")


def _check_asking(fit: Path, index: Index) -> None:
    """raises: UserError where the index of the fit can't say who asks"""
    if not len(index.reach):
        raise UserError(
            f"{fit}: its index was made of many files, and takes no vectors that ask; name the folder of the fit"
        )
    if index.kind != "Flat":
        raise UserError(
            f"{fit}: its index holds {index.kind} codes, expected vectors as they are, since these say who asks; make "
            "it again with --kind Flat"
        )


def _begin(out: Path, whole: str, formats: Sequence[str]) -> None:
    """Let nothing of another base in this folder be taken for this one's.

    raises: UserError where it would stay beside what is written now
    """
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    base = out / PARTS / BASE_NAME
    before = base.read_text(encoding="utf-8") if base.is_file() else None
    if before != whole:
        other = [name for one in FORMATS if one not in formats for name in WRITTEN[one] if (out / name).exists()]
        if before is not None and other:
            raise UserError(
                f"--out {out} holds {other[0]} of another base, which would stay beside this one; remove it, --write "
                "the same format again, or name another folder"
            )
        for path in (out / PARTS).glob("parquet-*.txt"):  # they vouch for files of the other base
            remove(path)
    remove(out / STORED_NAME)
    save_text(base, whole)


def given_of(fit: Path, out: Path, wishes: Wishes, index: Index) -> Given:
    """What tasks are given, but for where stored vectors look.

    raises: UserError where copies is none of the run's
    """
    given = Given(str(fit), fit_digest(fit), str(out), wishes.column, 0.0, wishes.kind, NO_LOOKS, 0)
    copies = given.model.usual_copies if wishes.copies is None else wishes.copies
    given.model.placer(copies)
    return given._replace(copies=float(copies), piece=piece_rows(index.model.dim, copies))


def _stored_before(out: Path, whole: str, formats: Sequence[str]) -> Stored | None:
    """What an earlier run stored of the same files in the same way; None where it did not end."""
    try:
        told = json.loads((out / STORED_NAME).read_text(encoding="utf-8"))
        there = all((out / name).exists() for one in formats for name in WRITTEN[one])
        if there and told["digest"] == whole and set(formats) <= set(told["formats"]):
            return Stored(told["n"], told["entries"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def _looks(given: Given, index: Index, progress: Progress) -> Looks:
    """Where stored vectors look, as kept by an earlier run, or found."""
    path = given.part("looks", ".safetensors")
    if not path.is_file():
        with progress.stage("where stored vectors look"):
            save_tensors(path, find_looks(index)._asdict(), {})
    return Looks(*read_part(path, *Looks._fields))


def _fill(stages: Stages, index: Index, files: Sequence[Numbered], border: Border, n: int) -> Lists:
    """The second pass over all files."""
    given, names = stages.given, [file.source for file in files]
    if not empty_path(given).is_file():
        make_empty(index, given.kind, given.model.seed, empty_path(given))
    draw = generator(given.model.seed, 0, "sample", ASIDE_PART).choice(n, min(n, 2 * n_aside(n)), replace=False)
    asked = np.sort(draw)
    items = _bordered(files, border, asked)
    shards: dict[int, list[Shard]] = {}
    sizes, computed = np.zeros(given.model.nlist, dtype=np.int64), 0
    vectors = np.empty((len(asked), given.model.dim), dtype=np.float32)
    for number, one in stages.each(store, items, names, "filling lists"):
        held = np.packbits(one.sizes > 0)
        shards[number] = [Shard(path, held) for path in one.shards]
        sizes, computed = sizes + one.sizes, computed + one.computed
        vectors[np.searchsorted(asked, items[number].wanted)] = one.vectors
    stages.check(len(files))
    return Lists(
        [shard for number in sorted(shards) for shard in shards[number]], sizes, border, asked, vectors, computed
    )


def _bordered(files: Sequence[Numbered], border: Border, ids: np.ndarray) -> list[Bordered]:
    """Each file with its part of the border, and those of some ids that are its own. ids: ascending"""
    return [
        Bordered(file, border.key, tied, ids[(ids >= file.first) & (ids < file.first + file.n)])
        for file, tied in zip(files, border.ties, strict=True)
    ]


def _write_tables(stages: Stages, lists: Lists, formats: Sequence[str], whole: str) -> None:
    """Parquet files and a Lance dataset, where they are asked for."""
    parts = ranges(lists.sizes, stages.given.model.dim, lists.shards, whole)
    names = [part.name for part in parts]
    if "parquet" in formats:
        written = stages.all(write_parquet, parts, names, "writing Parquet")
        for path in (Path(stages.given.out) / PARQUET).glob("buckets-*.parquet"):
            if path.name not in written:
                remove(path)  # of an earlier base
    if "lance" in formats:
        commit_lance(stages.given, stages.all(write_lance, parts, names, "writing Lance"))


def _make_index(
    stages: Stages, asking: Index, files: Sequence[Numbered], lists: Lists, rows: np.ndarray, n: int
) -> Index:
    """One searchable index of all lists. rows: of those drawn the ones to measure it on, which do not ask"""
    given, model = stages.given, stages.given.model
    if not len(rows):
        stages.progress.note("warning: the index of the fit holds all of base: its recall will come out too high")
        rows = np.arange(len(lists.asked))
    rows = rows[spread(len(rows), n_aside(n))]
    own, x = lists.asked[rows], np.ascontiguousarray(lists.vectors[rows])
    near = find_nearest(stages, files, x, min(MOST_K, n - 1) + 1, "exact answers").ids
    answers = Answers(x, without_self(near, own))
    ids, at = np.unique(answers.nearest, return_inverse=True)
    items = _bordered(files, lists.border, ids)
    parts = stages.all(buckets_of, items, [file.source for file in files], "where answers lie")
    buckets = np.concatenate(parts)[at.reshape(answers.nearest.shape)]
    with stages.progress.stage("merging lists"):
        merged = merge(given, [shard.path for shard in lists.shards], Path(given.out) / LISTS_NAME)
    sizes, prober = sizes_of(merged), model.prober()
    with stages.progress.stage("calibrating"):
        calibration = calibrate(prober, answers, buckets, sizes, n)
        if given.kind != "Flat":
            search = by_codes(merged, answers, own, given.copies)
            calibration = calibrate_codes(prober, answers, calibration.width, sizes / n, search)
    reach = np.empty((0, len(RANKS)), np.float32)  # of vectors that are added: lists on disk take none
    built = n, imbalance(sizes)
    return Index(model, merged, calibration, asking.probes_use, reach, given.copies, given.kind, n, n, built)
