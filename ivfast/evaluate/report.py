"""What an evaluation leaves: JSON, CSV, and a table that ends in one sentence."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ivfast.data.vectors import EvaluationSet
from ivfast.evaluate.folder import Found
from ivfast.evaluate.picture import draw_picture
from ivfast.evaluate.result import Fulfilled, Result, best, name_of_recall
from ivfast.evaluate.trust import in_one_line, off_by
from ivfast.method import COUNTED, LEVELS, RECALL, TIED
from ivfast.route.certainty import doubt, in_words
from ivfast.route.routers import ROUTERS
from ivfast.runtime.config import Config
from ivfast.runtime.errors import RunError
from ivfast.runtime.files import as_name, file_hash, save_json, save_text
from ivfast.runtime.progress import Progress
from ivfast.runtime.versions import versions

SCHEMA = 1
WIDEST = 1000  # columns of a terminal that cuts nothing
SAME = 0.005  # a difference of less than 0.5 % of k-means' share is called none


def write(config: Config, data: EvaluationSet, results: list[Result], found: Found, progress: Progress) -> None:
    """Write evaluation.json, evaluation.csv and, with matplotlib, recall_scanned.png; show the table and the verdict.

    config: the settings that evaluation.json repeats; found: the files that were evaluated
    """
    folder, sentence = config.save_path, verdict(results, is_kmeans=found.is_kmeans, recall=config.recall)
    about = found.model.about if found.model else {}
    _keep_other(folder, data.name)
    record = {
        "schema": SCHEMA,
        "data_name": data.name,
        "settings": config.as_dict(),
        "trained_with": about.get("settings"),
        "chosen_epochs": about.get("chosen_epochs"),
        "chosen_ways": about.get("chosen_ways"),
        "data": data_fingerprint(data),
        "versions": versions(),
        "results": [as_json(result) for result in results],
        "is_kmeans": found.is_kmeans,
        "verdict": sentence,
        "learn_foretells_off_by": off_by(results, config.recall),
    }
    save_json(folder / "evaluation.json", record)
    save_text(folder / "evaluation.csv", as_csv(results))
    names = ["evaluation.json", "evaluation.csv", *draw_picture(folder, data.name, results, progress, config.recall)]
    progress.table(fitting(results, progress.console, config.recall))
    if any(r.predicted for r in results):
        progress.table(predictions(results))
    said = in_one_line(results, config.recall)
    for line in (*([said] if said else []), *warnings(results), *notes_on_recall(results, answered(data.gt))):
        progress.note(line)
    progress.note(sentence)
    progress.note(f"written: {', '.join(str(folder / name) for name in names)}")


def _keep_other(folder: Path, name: str) -> None:
    """Rename an evaluation of another data set."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))["data_name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(old, str) and old and old != name:
        for suffix in ("json", "csv"):
            earlier, kept = folder / f"evaluation.{suffix}", folder / f"evaluation.{as_name(old)}.{suffix}"
            try:
                if earlier.is_file():
                    earlier.replace(kept)
            except OSError as problem:
                raise RunError(f"{earlier} cannot be renamed to {kept.name} ({problem.strerror}); move it") from None


def data_fingerprint(data: EvaluationSet) -> dict[str, Any]:
    """Shapes and hashes of what was searched."""
    return {
        "base": {"shape": [len(data.base), data.base.dim], "hash": data.base.digest},
        "query": {"shape": [len(data.query), data.query.dim], "hash": data.query.digest},
        "gt": {"shape": list(data.gt.shape), "hash": file_hash(data.gt_path)[:32]},
    }


def as_json(result: Result) -> dict[str, Any]:
    """A result without its curve; levels of recall never reached are None."""
    record = result._asdict()
    del record["curve"]
    record["predicted"] = _as_records(result.predicted)
    if result.by_base is not None:
        record["by_base"] = result.by_base._asdict() | {"predicted": _as_records(result.by_base.predicted)}
    record["scanned_at"] = {level: None if np.isnan(share) else share for level, share in result.scanned_at.items()}
    record["recall_error"] = [None if np.isnan(error) else error for error in result.recall_error]
    record["recall_without_ties"] = list(result.recall_without_ties)
    return record


def _as_records(predicted: dict[str, Fulfilled]) -> dict[str, dict[str, float]]:
    return {level: fulfilled._asdict() for level, fulfilled in predicted.items()}


def as_csv(results: list[Result]) -> str:
    """One row a router, rule, percent, probing, nprobe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        "router", "rule", "percent", "probing", "nprobe", "recall", "scanned", "recall_k", "recall_error",
        "recall_without_ties",
    ])  # fmt: skip
    for r in results:
        none = [""] * len(r.nprobe)
        errors = ["" if np.isnan(error) else error for error in r.recall_error] or none
        points = zip(r.nprobe, r.recall, r.scanned, errors, r.recall_without_ties or none, strict=True)
        for nprobe, recall, scanned, error, without in points:
            writer.writerow(
                [r.router, r.rule, r.percent, r.probing, nprobe, recall, scanned, r.recall_k, error, without]
            )
    return text.getvalue()


def table(results: list[Result], *, recall: float = RECALL, tight: bool = False, brief: bool = False) -> Table:
    """Scanned share at each level of recall, one row a result.

    recall: that the run was trained for
    tight: without lines between columns; brief: without the columns that evaluation.json alone has then
    """
    title = f"share of base scanned for a {name_of_recall(results)} of"
    shown = Table(
        title=title if brief else f"{title}; error: its standard error near {recall:.2f}", title_justify="left"
    )
    if tight:
        shown.box, shown.show_edge, shown.padding = SIMPLE_HEAD, False, (0, 1, 0, 0)
    for name in ("router", "rule", "percent", "probing"):
        shown.add_column(name)
    for name in [f"{level:.2f}" for level in LEVELS] + ([] if brief else ["error", "imbalance", "empty", "entries"]):
        shown.add_column(name, justify="right")
    for r in results:
        shares = (_percent(r.scanned_at[f"{level:.2f}"]) for level in LEVELS)
        more = [] if brief else [error_near(r, recall), f"{r.imbalance:.2f}", str(r.empty), f"{r.entries:,}"]
        shown.add_row(r.router, r.rule, f"{r.percent:g}", r.probing, *shares, *more)
    return shown


def fitting(results: list[Result], console: Console, recall: float = RECALL) -> Table:
    """That table as a terminal has room for it, where it would else cut cells: an ordinary one has 80 columns."""
    wide = console.options.update(max_width=WIDEST)
    for shown in (table(results, recall=recall), table(results, recall=recall, tight=True)):
        if console.measure(shown, options=wide).maximum <= console.width:
            return shown
    return table(results, tight=True, brief=True)


def error_near(result: Result, level: float) -> str:
    """The standard error of the recall that is nearest to a level among those reported, for a table."""
    if not result.recall_error:
        return "-"
    return in_words(result.recall_error[int(np.abs(np.array(result.recall) - level).argmin())])


def answered(gt: np.ndarray) -> int:
    """How many queries have a right answer that counts. gt: (n_query, width), -1: none"""
    return int((np.asarray(gt[:, :COUNTED]) >= 0).any(axis=1).sum())


def notes_on_recall(results: list[Result], n_queries: int) -> list[str]:
    """How sure recall is, where it is not, and what ties make of it, where that can be seen."""
    known = [r for r in results if r.recall_error]
    notes = []
    if known:
        error = max(e for r in known for e in r.recall_error)  # all are NaN, or none is
        if said := doubt(known[0].recall_k, error, n_queries):
            notes.append(said)
    points = [
        (abs(a - b), r, nprobe, a, b)
        for r in results
        for nprobe, a, b in zip(r.nprobe, r.recall, r.recall_without_ties, strict=False)
    ]
    off, r, nprobe, recall, without = max(points, key=lambda point: point[0], default=(0, None, 0, 0, 0))
    if r is not None and off > TIED:
        notes.append(
            f"ties count as right: recall@{r.recall_k} is {recall:.4f} with them and {without:.4f} without "
            f"({r.router}, {r.rule}, percent {r.percent:g}, {r.probing}, nprobe {nprobe:.4g}; the largest difference)"
        )
    return notes


def predictions(results: list[Result]) -> Table:
    """What was predicted for each level of recall, beside what came of it: by vectors of base, or from learn alone."""
    by_base = any(r.by_base for r in results)
    by = "by vectors of base that stood for queries" if by_base else "from learn alone"
    shown = Table(title=f"predicted {by}: nprobe, scanned -> {name_of_recall(results)}, scanned", title_justify="left")
    for name in ("router", "percent"):
        shown.add_column(name)
    for level in LEVELS:
        shown.add_column(f"{level:.2f}", justify="right")
    for r in results:
        if r.told:
            cells = (
                f"{k.nprobe:.1f}, {_percent(k.scanned)} -> {k.reached:.3f}, {_percent(k.took)}" if k else "-"
                for k in (r.told.get(f"{level:.2f}") for level in LEVELS)
            )
            shown.add_row(r.router, f"{r.percent:g}", *cells)
    return shown


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def verdict(results: list[Result], *, is_kmeans: bool, recall: float = RECALL) -> str:
    """One sentence: use it or not, with the shares.

    is_kmeans: whether ivfast.npy is k-means, since training brought no sure gain
    recall: that it was trained for
    """
    level, percent = f"{recall:.2f}", f"{100 * recall:.0f} %"
    found = {router: row for router in ROUTERS if (row := best(results, router, level=level))}
    titles = {name: kind.title for name, kind in ROUTERS.items()}
    if is_kmeans:
        titles["centers"] = "the same centers"
    shares = ", ".join(
        f"{titles[router]} {_percent(row.scanned_at[level])} ({_storing(row)})" for router, row in found.items()
    )
    if "kmeans" not in found or "centers" not in found:
        return f"For {percent} recall a search scans: {shares}."
    shares = f"for {percent} recall a search scans with {shares}"
    if is_kmeans:
        return f"ivfast.npy is k-means, since no gain was sure on held-out vectors: {shares}."
    if (nearest := by_nearest(results, level)) is not None:
        plain = by_nearest(results, level, "kmeans")
        beside = "" if plain is None else f", k-means so {_percent(plain)}"
        shares += f"; the trained centers by the nearest center alone {_percent(nearest)}{beside}"
    gain = 1 - found["centers"].scanned_at[level] / found["kmeans"].scanned_at[level]
    if gain > SAME:
        return f"Use ivfast.npy: {100 * gain:.0f} % less than with k-means; {shares}."
    return f"{'Keep k-means' if gain < -SAME else 'No difference'}: {shares}."


def _storing(row: Result) -> str:
    return f"percent {row.percent:g}" + ("" if row.rule == "ratio" else f" by {row.rule}")


def by_nearest(results: list[Result], level: str = "0.90", router: str = "centers") -> float | None:
    """What centers scan at a level of recall where each vector is in its nearest center's bucket, fixed probing."""
    found = plain_result(results, router)
    return None if found is None or np.isnan(found.scanned_at[level]) else found.scanned_at[level]


def plain_result(results: list[Result], router: str) -> Result | None:
    """A router as any engine uses it: each vector in its nearest center's bucket, fixed probing."""
    wanted = (router, "fixed", "ratio", 0.0)
    return next((r for r in results if (r.router, r.probing, r.rule, r.percent) == wanted), None)


def warnings(results: list[Result]) -> list[str]:
    """Signs of buckets that are filled unevenly."""
    seen = set()
    for r in results:
        if ROUTERS[r.router].trained and r.percent == 0 and r.imbalance > 2:
            seen.add(f"warning: {r.router} fills its buckets unevenly on base (imbalance {r.imbalance:.1f}, 1 is even)")
    return sorted(seen)
