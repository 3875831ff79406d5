"""Several runs beside each other: their verdicts, one picture of all, and the settings that differ."""

from math import isnan
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ivfast.evaluate.page.canvas import RUNS, WIDTH, canvas, finish
from ivfast.evaluate.page.markup import Figure, figures, items, percent, table, text
from ivfast.evaluate.page.pictures import LINES, SAYS_MARKS, draw_curve, frame_recall
from ivfast.evaluate.page.record import RunRecord
from ivfast.evaluate.page.words import best_of, decision, gain_of, in_percent
from ivfast.evaluate.result import name_of_recall
from ivfast.method import LEVELS, RECALL
from ivfast.route.routers import ROUTERS

OF_EACH_RUN = {"save_path", "ai_center", "eval", "start_epoch", "resume", "dry_run"}  # they say where, not what


def labels(folders: list[Path]) -> list[str]:
    """The shortest ends of paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    lengths = range(1, max(map(len, parts)) + 1)
    n = next(n for n in lengths if len({one[-n:] for one in parts}) == len(set(parts)))
    return ["/".join(one[-n:]) for one in parts]


def compared(records: list[RunRecord], names: list[str]) -> list[tuple[str, str, str]]:
    """Sections of the page. names: of the runs, as people know them"""
    letters = [ascii_uppercase[i % 26] * (1 + i // 26) for i in range(len(records))]
    drawn = [one for router in ("centers", "net") if (one := _of_recall(records, letters, router))]
    return [
        ("verdicts", "", _verdicts(records, letters, names) + items(_of_data(records, letters))),
        ("recall", "Recall against vectors scanned", figures(drawn, "large") + _shares(records, letters)),
        ("settings", "Settings that differ", _differences(records, letters)),
    ]


def _verdicts(records: list[RunRecord], letters: list[str], names: list[str]) -> str:
    said = "".join(
        f"<p><b>{letter}</b> {text(name)}: {text(decision(record))}</p>"
        for record, letter, name in zip(records, letters, names, strict=True)
    )
    header = ["", "data", "k-means", "trained centers", "less than k-means", "network", "imbalance", "seconds", "GB"]
    level = _level(records)
    rows = [[letter, *_row(record, level)] for record, letter in zip(records, letters, strict=True)]
    each = "" if all(record.level == level for record in records) else (
        " The sentences above speak of the recall that each run was trained for."
    )  # fmt: skip
    return f"<div class='verdict several'>{said}</div>{table(header, rows, n_words=2)}" + (
        f"<p class='soft'>Shares of base scanned for {in_percent(level)} recall, each router at its best number of "
        "copies, fixed probing; imbalance of the trained centers there; seconds and most memory of all stages "
        f"recorded.{each}</p>"
    )


def _level(records: list[RunRecord]) -> str:
    """The recall that runs are compared at: the one that all were trained for, else the usual one."""
    levels = {record.level for record in records}
    return levels.pop() if len(levels) == 1 else f"{RECALL:.2f}"


def _row(record: RunRecord, level: str) -> list[str]:
    found = {router: best_of(record, router, level) for router in ROUTERS}
    shares = {router: percent(one.scanned_at[level]) if one else "-" for router, one in found.items()}
    gain, centers = gain_of(record, level), found["centers"]
    peaks = [stage.peak_gb for stage in record.stages if stage.peak_gb is not None]
    return [
        record.evaluation["data_name"], shares["kmeans"], shares["centers"],
        "-" if isnan(gain) else f"{100 * gain:.0f} %",
        shares["net"], f"{centers.imbalance:.2f}" if centers else "-",
        f"{sum(stage.seconds for stage in record.stages):,.0f}" if record.stages else "-",
        f"{max(peaks):.2f}" if peaks else "-",
    ]  # fmt: skip


def _of_data(records: list[RunRecord], letters: list[str]) -> list[tuple[str, str]]:
    """Whether the runs were asked the same."""
    first = records[0].evaluation["data"]
    others = [letter for record, letter in zip(records, letters, strict=True) if record.evaluation["data"] != first]
    if others:
        return [
            ("warn", f"{', '.join(others)}: other base, query or gt than {letters[0]}, so shares compare data too.")
        ]
    return [("fine", "All were evaluated on the same base, query and gt.")]


def _of_recall(records: list[RunRecord], letters: list[str], router: str) -> Figure | None:
    """The best of each run, and k-means of it as a thin line."""
    level = _level(records)
    found = [(i, one) for i, record in enumerate(records) if (one := best_of(record, router, level))]
    if not found:
        return None
    shown = [one for _, one in found]
    with canvas(WIDTH, 4.1) as drawn:
        for i, result in found:
            color, style = RUNS[i % len(RUNS)], LINES[i // len(RUNS) % len(LINES)]
            draw_curve(drawn, result, color, style, f"{letters[i]}, {result.percent:g} copies")
            if kmeans := best_of(records[i], "kmeans", level):
                shown.append(kmeans)
                recall, scanned = kmeans.curve
                drawn.axes.plot(scanned, recall, style, color=color, linewidth=0.8, alpha=0.7)
        frame_recall(drawn, shown)
    title = ROUTERS[router].title
    return finish(
        drawn, f"recall-{router}", f"Recall against share of base scanned, {title}",
        f"The {title} of each run at its best number of copies for {in_percent(level)} recall, fixed probing; thin: "
        "k-means of the same run. "
        + SAYS_MARKS,
    )  # fmt: skip


def _shares(records: list[RunRecord], letters: list[str]) -> str:
    at, levels = _level(records), [f"{level:.2f}" for level in LEVELS]
    rows = [
        [letter, kind.title, f"{one.percent:g}", *(percent(one.scanned_at.get(level)) for level in levels)]
        for record, letter in zip(records, letters, strict=True)
        for router, kind in ROUTERS.items()
        if (one := best_of(record, router, at))
    ]
    names = {name_of_recall(record.results) for record in records}
    name = names.pop() if len(names) == 1 else "recall"
    return table(["", "router", "copies", *(f"{100 * float(level):.0f} % {name}" for level in levels)], rows, n_words=3)


def _differences(records: list[RunRecord], letters: list[str]) -> str:
    settings = [_settings(record) for record in records]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = [[name, *(one.get(name, "") for one in settings)] for name in names]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return "<p>None: all settings and versions are the same.</p>"
    return table(["setting", *letters], rows, n_words=1 + len(letters))


def _settings(record: RunRecord) -> dict[str, str]:
    """What the run was trained and evaluated with, as text; training's where both say it."""
    found: dict[str, Any] = {**record.evaluation["settings"], **(record.evaluation.get("trained_with") or {})}
    found |= {f"version of {name}": one for name, one in (record.evaluation.get("versions") or {}).items()}
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in found.items()
        if name not in OF_EACH_RUN
    }
