"""report.html of one run and the page that compares several: what stands on them, from first line to last."""

from pathlib import Path
from typing import Any

from ivfast.evaluate.page import pictures, words
from ivfast.evaluate.page.beside import compared, labels
from ivfast.evaluate.page.markup import details, figures, items, page, percent, table, text
from ivfast.evaluate.page.record import RunRecord, read_record
from ivfast.evaluate.report import error_near
from ivfast.evaluate.result import Result, name_of_recall
from ivfast.method import LEVELS
from ivfast.route.routers import ROUTERS
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_text

NO_RECORD = "<p class='soft'>This folder holds no record of it.</p>"


def write_page(save_path: Path) -> Path:
    """Write save_path/report.html from what a finished run has left in its folder.

    raises: UserError where there is no evaluation.json, or not as this version writes it; RunError where the disk
    refuses
    """
    record = read_record(save_path)
    sections = [
        ("verdict", "", _verdict(record)),
        ("recall", "Recall against vectors scanned", _recall(record)),
        ("lists", "List sizes", _lists(record)),
        ("training", "Training", figures(pictures.of_epochs(record), "small") + _chosen(record) or NO_RECORD),
        ("predictions", "Predicted beside reached", _predictions(record)),
        ("stages", "Seconds and memory", figures(pictures.of_stages(record), "large") or NO_RECORD),
        ("data", "Criticism of the data", _data(record)),
        ("settings", "Settings, versions, fingerprint", _settings(record)),
    ]
    path = save_path / "report.html"
    save_text(path, page(f"{record.evaluation['data_name']}: report", sections))
    return path


def compare_pages(folders: list[Path], path: Path | None = None) -> Path:
    """Write one page that compares finished runs.

    path: of the page; None: comparison.html in the first folder
    raises: as write_page, and UserError on fewer than two folders
    """
    if len(folders) < 2:
        raise UserError(f"{len(folders)} folder to compare, expected two or more; name the --save_path of each run")
    records = [read_record(folder) for folder in folders]
    path = path or folders[0] / "comparison.html"
    save_text(path, page(f"Comparison of {len(records)} runs", compared(records, labels(folders))))
    return path


def _verdict(record: RunRecord) -> str:
    sentences = "".join(f"<p>{text(sentence)}</p>" for sentence in words.verdict(record))
    shape = record.evaluation["data"]
    about = (
        f"{record.n_base:,} vectors of {shape['base']['shape'][1]} columns, {record.nlist:,} buckets, "
        f"{shape['query']['shape'][0]:,} queries, metric {record.evaluation['settings'].get('metric')}. "
        f"{words.of_recall(record)}"
    )
    return f"<div class='verdict'>{sentences}</div><p class='soft'>{text(about)}</p>"


def _recall(record: RunRecord) -> str:
    drawn = [pictures.of_recall(record, probing) for probing in ("fixed", "adaptive")]
    levels = [f"{level:.2f}" for level in LEVELS]
    rows = [
        [ROUTERS[r.router].title if r.router in ROUTERS else r.router, r.rule, f"{r.percent:g}", r.probing,
         *(percent(r.scanned_at.get(level)) for level in levels), error_near(r, float(record.level))]
        for r in record.results
    ]  # fmt: skip
    name = name_of_recall(record.results)
    header = ["router", "rule", "copies", "probing", *(f"{100 * level:.0f} % {name}" for level in LEVELS),
              f"standard error of {name} near {words.in_percent(record.level)}"]  # fmt: skip
    found = figures([one for one in drawn if one], "large")
    return found + details(f"Share of base scanned, all {len(rows)} results", table(header, rows, n_words=4))


def _lists(record: RunRecord) -> str:
    drawn = pictures.of_sizes(record)
    rows = [
        [pictures.name_of(r), f"{r.imbalance:.2f}", *(_size(r, name) for name in ("p50", "p99")), f"{r.largest:,}",
         f"{r.empty:,}", f"{r.entries:,}"]
        for r in pictures.by_default(record.results)
    ]  # fmt: skip
    header = ["", "imbalance", "p50", "p99", "largest", "empty", "entries"]
    uneven = words.of_buckets(pictures.by_default(record.results))
    return figures([drawn] if drawn else [], "large", table(header, rows)) + (items(uneven) if uneven else "")


def _size(result: Result, name: str) -> str:
    return f"{result.sizes[name]:,.0f}" if name in result.sizes else "-"


def _chosen(record: RunRecord) -> str:
    gains = record.model.get("about", {}).get("held_out_gain") or {}
    epochs = record.evaluation.get("chosen_epochs") or {}
    ways = record.evaluation.get("chosen_ways") or {}
    rows = [
        [ROUTERS[name].title, _exported(epoch, ways.get(name, 1)), f"{ways.get(name, 1):g}",
         *(f"{100 * share:.1f} %" for share in gains.get(name, ()))]
        for name, epoch in epochs.items()
    ]  # fmt: skip
    rows = [row + ["-"] * (5 - len(row)) for row in rows]
    header = ["router", "exported", "part of the way from the start", "gain on held-out vectors", "standard error"]
    return table(header, rows, n_words=2) if rows else ""


def _exported(epoch: int, way: float) -> str:
    if epoch == 0:
        return "the given start" if way == 0 else "k-means"
    return f"epoch {epoch}"


def _predictions(record: RunRecord) -> str:
    rows = [
        [pictures.name_of(r), f"{100 * float(level):.0f} %", f"{one.nprobe:.1f}", f"{100 * one.reached:.1f} %",
         percent(one.scanned), percent(one.took)]
        for r in pictures.by_default(record.results)
        for level, one in r.told.items()
    ]  # fmt: skip
    if not rows:
        return "<p class='soft'>Nothing was predicted: the evaluation knew no training vectors.</p>"
    name = name_of_recall(record.results)
    header = ["", f"{name} predicted", "nprobe named", f"{name} reached", "scanned, predicted", "scanned, as it came"]
    drawn = figures(pictures.of_predictions(record), "large")
    return drawn + details(f"All {len(rows)} predictions", table(header, rows))


def _data(record: RunRecord) -> str:
    found = items(words.of_data(record.data)) if record.data else NO_RECORD
    if record.data:
        names = ["least", "p1", "p50", "p99", "largest"]
        rows = [
            [f"{which}, {what}", *(f"{record.data[which][key][name]:.4g}" for name in names)]
            for which in ("base", "query")
            for key, what in (("norms", "norm"), ("from_the_middle", "distance from the middle"))
        ]
        found += table(["in the unit of the file", "least", "1 %", "median", "99 %", "largest"], rows)
    if record.said:
        said = "".join(f"<li>{text(line)}</li>" for line in record.said)
        found += f"<h3>What the run said</h3><ul>{said}</ul>"
    return found


def _settings(record: RunRecord) -> str:
    evaluated, trained = record.evaluation["settings"], record.evaluation.get("trained_with") or {}
    names = [*evaluated, *(name for name in trained if name not in evaluated)]
    rows = [[name, _value(evaluated, name), _value(trained, name)] for name in names]
    prints = [[name, _shape(one), one.get("hash", "")] for name, one in record.evaluation["data"].items()]
    if learn := record.model.get("about", {}).get("learn"):
        prints.append(["learn", _shape(learn), learn.get("hash", "")])
    versions = [[name, version] for name, version in (record.evaluation.get("versions") or {}).items()]
    return (
        "<h3>Fingerprint of the data</h3>" + table(["", "shape", "hash"], prints, n_words=3)
        + "<h3>Versions</h3>" + table(["package", "version"], versions, n_words=2)
        + details("All settings", table(["setting", "of this evaluation", "trained with"], rows, n_words=3))
    )  # fmt: skip


def _shape(facts: dict[str, Any]) -> str:
    return " x ".join(f"{n:,}" for n in facts["shape"])


def _value(settings: dict[str, Any], name: str) -> str:
    if name not in settings:
        return ""
    value = settings[name]
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
