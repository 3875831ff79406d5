"""What each command of `ivfast` does."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ivfast.data.formats import open_rows
from ivfast.data.formats.answers import open_gt
from ivfast.data.formats.convert import convert as convert_file
from ivfast.data.formats.convert import write_npy
from ivfast.data.intake import JUDGED
from ivfast.data.npy import open_array
from ivfast.data.vectors import FLOATS
from ivfast.front.fit import fit as fit_model
from ivfast.front.many import index_files, is_spread, make_gt, one_path, refuse_copies, refuse_no_index
from ivfast.front.sentences import tell
from ivfast.front.trial import try_index
from ivfast.index.answers import check_answers, doubt_answers
from ivfast.index.entries import stored_ids
from ivfast.index.files import BESIDE_NAME, FAISS_NAME, LISTS_NAME, was_added_to
from ivfast.index.fill import check_faiss_path, try_kind
from ivfast.index.fit_file import read_fit
from ivfast.index.growth import Index
from ivfast.index.index import Reached
from ivfast.index.kind_of_queries import tell_another_kind
from ivfast.index.load import load, load_index
from ivfast.method import TIED
from ivfast.route.certainty import doubt
from ivfast.runtime.draws import spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import as_name, make_folder
from ivfast.runtime.own_files import EVALUATED, TRAINED, claim, refuse_among, refuse_in_the_way, refuse_not_ours
from ivfast.runtime.packages import told
from ivfast.runtime.progress import Progress

INDEX_FILES = (FAISS_NAME, BESIDE_NAME, LISTS_NAME)
OF_MEMORY = 0.5  # of the machine's memory that lists in memory may take


def fit(options: argparse.Namespace, progress: Progress) -> None:
    """Train, index, evaluate, tell."""
    refuse_log_alone(options)
    folder = folder_of(options)
    check_faiss_path(folder)  # before a training, not after it
    refuse_in_the_way(folder, (*TRAINED, *INDEX_FILES), ["converted"])
    refuse_not_ours(folder, (*TRAINED, *EVALUATED, *INDEX_FILES))
    refuse_grown(folder, "--save_path")
    base = open_file(options.base, folder, options.column, progress)
    try_kind(options.kind, base.shape[1])
    query = open_query(options.query, folder, progress) if options.query else None
    log = open_query(options.query_log, folder, progress, "query_log") if options.query_log else None
    names = ("nlist", "metric", "normalize", "start", "backend", "gpu", "seed", "epochs", "lr", "recall", "param_list")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    given |= {"query": query, "query_log": log}
    model = fit_model(base, save_path=folder, copies=options.percents, progress=progress, **given)
    points = model.points_trained_on()
    lists = lists_file(folder, base, options.percents)
    made = model.index_points(points, options.percents, options.kind, lists, progress)
    made.save(folder)
    fitted = read_fit(folder)
    assert fitted is not None  # a fit has just written it
    reached = try_index(made, points, query, fitted.test, progress)
    progress.console.print(as_table(reached))
    for sentence in tell(folder, made, reached):
        progress.say(sentence)


def refuse_log_alone(options: argparse.Namespace) -> None:
    """raises: UserError where a log is given without other queries, before any file is read"""
    log, query = options.query_log, options.query
    if log and not query:
        raise UserError(
            "--query_log is given without --query: expected real queries to evaluate with, none of them in the log; "
            "save some of the log as a file of its own"
        )
    if log and os.path.exists(log) and os.path.exists(query) and os.path.samefile(log, query):
        raise UserError(
            f"--query_log and --query are both {log}: expected other queries to evaluate with than to learn from; "
            "split the file"
        )


def index(options: argparse.Namespace, progress: Progress) -> None:
    """Store another base, or the same in another way."""
    folder = options.out or options.save_path
    check_faiss_path(folder)
    refuse_in_the_way(folder, INDEX_FILES, ["converted"])
    if options.out:
        refuse_not_ours(folder, (*TRAINED, *INDEX_FILES))
    refuse_grown(folder, "--out")
    if is_spread(options):
        index_files(options, progress)
        return
    model, base = load(options.save_path), open_file(one_path(options), folder, options.column, progress)
    refuse_copies(model, options.percents)
    try_kind(options.kind, base.shape[1])
    make_folder(folder)
    copies = model.usual_copies if options.percents is None else options.percents
    made = model.index(base, copies, options.kind, lists_file(folder, base, copies), progress)
    made.save(folder)
    progress.say(f"written: {folder / FAISS_NAME}, {len(made):,} vectors, {made.faiss_index.ntotal:,} entries")


def evaluate(options: argparse.Namespace, progress: Progress) -> None:
    """Search an index with queries whose answers are known, or found by a full search."""
    refuse_no_index(options.save_path)
    made, query = load_index(options.save_path), open_query(options.query, options.save_path, progress)
    if not len(made):
        raise UserError(f"{options.save_path}: its index holds no vectors, expected some; add them, or make it anew")
    if options.base and not options.make_gt:
        raise UserError("--base is given without --make_gt, which alone looks into it; add that, or leave it out")
    if options.gt and options.make_gt:
        raise UserError("--gt and --make_gt are both given: leave out the one whose answers are not meant")
    if made.kind != "Flat" and not (options.gt or options.make_gt):
        raise UserError(
            f"--gt is missing: an index of kind {made.kind} can't tell exact answers; name a file of them, or let it "
            "be made: --base BASE --make_gt gt.npy"
        )
    if not 1 <= options.k <= made.calibration.most_k:
        raise UserError(f"--k {options.k}: expected 1 to {made.calibration.most_k}, of which recall is known")
    everything = made.model.nlist
    if options.make_gt:
        gt = make_gt(made, query, options, progress)
    else:
        gt = open_gt(options.gt) if options.gt else made.search(query, options.k, nprobe=everything)[0]
    if options.gt and made.kind == "Flat" and (said := _doubts(made, query, gt, options.k)):
        progress.note(f"warning: {said}")
    if said := tell_another_kind(made, query):
        progress.note(f"warning: {said}; train with a log of such queries in another folder (ivfast fit --query_log)")
    if said := _removed(made, gt):
        progress.note(f"warning: {said}")
    reached = made.evaluate(query, gt, options.k, tuple(options.recall), ties=options.ties)
    progress.console.print(as_table(reached))
    if len(reached) < len(options.recall):
        progress.say(
            f"an index of kind {made.kind} finds {100 * made.calibration.best(options.k):.1f} % of the {options.k} "
            "nearest at most: more can't be asked for"
        )
    n_answered = int((np.asarray(gt)[:, : options.k] >= 0).any(axis=1).sum())
    if reached and (said := doubt(options.k, max(one.error for one in reached), n_answered)):
        progress.say(said)


def _removed(made: Index, gt: np.ndarray) -> str:
    """That vectors were removed since the index was made, and answers with them; "" where none were."""
    gone = made.next_id - len(made)
    if not gone:
        return ""
    answers = np.asarray(gt)[np.asarray(gt) >= 0]
    missed = int((~np.isin(answers, stored_ids(made.faiss_index))).sum())
    named = f", {missed:,} of {len(answers):,} answers in gt among them, which count as missed" if missed else ""
    return (
        f"{gone:,} of {made.next_id:,} vectors were removed since the index was made{named}: a recall that is asked "
        "for may be missed; store the others anew (ivfast index)"
    )


def _doubts(made: Index, query: np.ndarray, gt: np.ndarray, k: int) -> str:
    """What is wrong with a gt by up to 100 queries, "" where nothing is."""
    x = made.model.as_stored(query, "query")
    check_answers(gt, len(x), k, made.next_id)
    answered = np.flatnonzero(np.asarray(gt)[:, 0] >= 0)
    if not len(answered):
        return ""
    looked_at = answered[spread(len(answered), JUDGED)]
    x, answers = x[looked_at], np.asarray(gt)[looked_at, :k].astype(np.int64)
    return doubt_answers(made.faiss_index, x, made.search(x, 2, nprobe=made.model.nlist)[0], answers)


def convert(options: argparse.Namespace, progress: Progress) -> None:
    """Turn a file into another."""
    convert_file(options.source, options.target, column=options.column, progress=progress)
    progress.say(f"written: {options.target}")


def report(options: argparse.Namespace, progress: Progress) -> None:
    """One page of a run, or of several beside each other."""
    if find_spec("matplotlib") is None:
        raise UserError("report: matplotlib is not installed; pip install 'ivfast[report]'")
    try:
        from ivfast.evaluate.page.pages import compare_pages, write_page  # here, since the extra may lack
    except BaseException as problem:
        raise UserError(f"report: {told(problem)}") from None

    folders = options.save_path
    path = write_page(folders[0]) if len(folders) == 1 else compare_pages(folders, options.out)
    progress.say(f"written: {path}")


def folder_of(options: argparse.Namespace) -> Path:
    """Where a fit writes: named after its base, with all of the name but the suffix of a file."""
    if options.save_path:
        return options.save_path
    base = options.base.resolve()
    return Path(f"{as_name(base.stem if os.path.isfile(base) else base.name)}_ivfast")


def refuse_grown(folder: Path, flag: str) -> None:
    """raises: UserError where the folder holds an index that has grown: writing it anew would lose what was added"""
    if not (folder / FAISS_NAME).is_file():
        return
    fitted = read_fit(folder)
    if was_added_to(folder, None if fitted is None else fitted.n):
        raise UserError(
            f"{folder}: vectors were added to its index after it was made, which would be lost if it were written "
            f"anew; choose another {flag}, or remove {FAISS_NAME} if they are in base now"
        )


def open_query(path: Path, folder: Path, progress: Progress, name: str = "query") -> np.ndarray:
    """Queries of a file; of ann-benchmarks' HDF5 those of its dataset `test`."""
    return open_file(path, folder, "test" if path.suffix in (".hdf5", ".h5") else None, progress, name)


def open_file(path: Path, folder: Path, column: str | None, progress: Progress, name: str = "base") -> np.ndarray:
    """The vectors of a file as a memory map, (n, dim) floats. What isn't an .npy of floats is written down as one.

    folder: where that is kept, as converted/NAME.npy
    raises: UserError on a file that can't be read
    """
    is_npy = path.suffix == ".npy" and column is None and os.path.isfile(path)
    if is_npy and (rows := open_array(path, name)).dtype.name in FLOATS:
        return rows
    refuse_among(path, folder, name=name)
    source = open_rows(path, column, name)
    written = folder / "converted" / f"{name}.npy"
    claim(written.parent, [written.name])
    write_npy(source, written, progress)
    return open_array(written, name)


def lists_file(folder: Path, base: np.ndarray, copies: float) -> Path | None:
    """Where lists go on disk; None where they fit half the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return folder / LISTS_NAME if len(base) * (1 + copies) * (4 * base.shape[1] + 8) > OF_MEMORY * memory else None


def as_table(reached: list[Reached]) -> Table:
    """A row for each recall that was asked for."""
    name = f"recall@{reached[0].k}" if reached else "recall"
    tied = any(one.without_ties is not None and abs(one.recall - one.without_ties) > TIED for one in reached)
    table = Table(title="what a search of the index finds and scans")
    titles = [f"{name} asked for", "reached", "standard error", "scanned, expected", "scanned", "buckets"]
    for title in titles[:2] + ["without ties"] * tied + titles[2:]:
        table.add_column(title, justify="right")
    for one in reached:
        shares: list[Any] = [one.asked, one.recall] + [one.without_ties] * tied
        table.add_row(
            *(f"{100 * share:.1f} %" for share in shares),
            "unknown" if np.isnan(one.error) else f"{100 * one.error:.1f} %",
            f"{100 * one.expected.scanned:.3f} %",
            f"{100 * one.scanned:.3f} %",
            f"{one.nprobe:.1f}",
        )
    return table
