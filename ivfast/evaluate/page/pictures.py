"""Pictures of one run: recall against scanned, list sizes, epochs, predictions, stages."""

from collections.abc import Callable, Iterable

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ivfast.evaluate.page.canvas import COLORS, SMALL, WIDTH, Canvas, canvas, finish, legend_below, share_axis
from ivfast.evaluate.page.markup import Figure
from ivfast.evaluate.page.record import Epoch, RunRecord
from ivfast.evaluate.page.words import in_percent
from ivfast.evaluate.result import Result, name_of_recall
from ivfast.method import SURE_RECALL
from ivfast.route.routers import ROUTERS

LINES = ("-", "--", ":", "-.")  # by number of copies
WIDTHS = {"kmeans": 1.4, "centers": 2.6, "net": 1.0}  # points: one that lies on another leaves it seen
MARKS = {"0.80": "^", "0.90": "o", "0.95": "s", "0.99": "D"}  # of the levels of recall
SAYS_MARKS = "A triangle marks 80 % recall, a circle 90, a square 95, a diamond 99."
MOST_DOTS = 60  # of a line
LOWEST = 0.78  # recall is drawn from here on at the most
SCANNED = "share of base scanned (copies counted, log)"


def by_default(results: Iterable[Result], probing: str = "fixed") -> list[Result]:
    """Results that count: of each router those under its default rule, or under the one rule that it has."""
    found = [r for r in results if r.probing == probing and r.router in ROUTERS]
    ruled = {r.router for r in found if r.rule == ROUTERS[r.router].default_rule}
    return [r for r in found if r.rule == ROUTERS[r.router].default_rule or r.router not in ruled]


def name_of(result: Result) -> str:
    """Router and copies in words."""
    copies = "no copies" if result.percent == 0 else f"{result.percent:g} copies"
    return f"{ROUTERS[result.router].title}, {copies}"


def of_recall(record: RunRecord, probing: str) -> Figure | None:
    """Recall against scanned for every router and number of copies; None where none was probed so."""
    results = by_default(record.results, probing)
    if not results:
        return None
    copies = sorted({r.percent for r in results})
    with canvas(WIDTH, 4.1) as drawn:
        for r in results:
            style = LINES[copies.index(r.percent) % len(LINES)]
            draw_curve(drawn, r, COLORS[r.router], style, name_of(r), WIDTHS[r.router])
        frame_recall(drawn, results)
    says = "every query probes the same number of buckets" if probing == "fixed" else "a query probes as it needs"
    return finish(
        drawn, f"recall-{probing}", f"Recall against share of base scanned, {probing} probing",
        f"{probing.capitalize()} probing: {says}. Further left is better. {SAYS_MARKS} "
        "Each router under its default rule of storing.",
    )  # fmt: skip


def draw_curve(drawn: Canvas, result: Result, color: str, style: str, label: str, width: float = 1.6) -> None:
    """One line with its marks at the levels of recall. width: points"""
    recall, scanned = result.curve
    keep = (recall > 0) & (scanned > 0)
    drawn.axes.plot(scanned[keep], recall[keep], style, color=color, label=label, linewidth=width)
    for level, mark in MARKS.items():
        share = result.scanned_at.get(level, np.nan)
        if share > 0 and float(level) >= recall[0]:  # a curve may begin above it
            drawn.axes.plot(
                share, float(level), mark, color=color, markersize=4.5 + 1.5 * width, markeredgecolor=COLORS["ground"]
            )


def frame_recall(drawn: Canvas, results: list[Result]) -> None:
    """Axes of recall and scanned."""
    axes = drawn.axes
    share_axis(axes, SCANNED)
    least = min(float(r.curve[0].min()) for r in results)
    axes.set_ylim(min(max(least - 0.02, 0), LOWEST), 1.005)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda recall, _: f"{100 * recall:.0f} %"))
    axes.set_ylabel(f"{name_of_recall(results)} (right answers found)")
    for level in MARKS:
        axes.axhline(float(level), color=COLORS["soft"], linewidth=0.7, linestyle=":", zorder=0.5)
    legend_below(drawn)


def of_sizes(record: RunRecord) -> Figure | None:
    """Entries a bucket, from the smallest percent to the largest list; None where sizes were not recorded."""
    results = [r for r in by_default(record.results) if r.sizes]
    if not results:
        return None
    with canvas(WIDTH, 1.1 + 0.27 * len(results)) as drawn:
        axes = drawn.axes
        for place, r in enumerate(results):
            color, sizes = COLORS[r.router], r.sizes
            axes.plot([sizes["p1"], sizes["p99"]], [place, place], "-", color=color, linewidth=1.4)
            axes.plot(
                [sizes["p25"], sizes["p75"]], [place, place], "-", color=color, linewidth=6, solid_capstyle="butt"
            )
            axes.plot(sizes["p50"], place, "|", color=COLORS["ground"], markersize=7, markeredgewidth=1.6)
            axes.plot(r.largest, place, "x", color=color, markersize=5)
            axes.plot(r.entries / record.nlist, place, "d", color=COLORS["ink"], markersize=4)
            axes.annotate(
                f"imbalance {r.imbalance:.2f}",
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(results)), [name_of(r) for r in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel("entries of a bucket (vectors, copies counted)")
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    return finish(
        drawn, "sizes", "List sizes of every router and number of copies",
        "Thin line: from the 1st to the 99th percentile of buckets; thick: from the 25th to the 75th, with the median "
        "as a gap; diamond: the mean; cross: the largest bucket. Imbalance: how many times the mean a search scans "
        "that looks into the bucket of a random entry; 1 where all are equal.",
    )  # fmt: skip


def of_epochs(record: RunRecord) -> list[Figure]:
    """Loss, held-out value and nprobe over epochs, as far as they were recorded."""
    found = []
    if record.losses:
        found.append(_over_epochs(
            "loss", "loss (mean over pairs)", record.losses,
            "The loss of training. It changes its goal with each epoch, so it need not fall steadily.", mark=".",
        ))  # fmt: skip
    if record.epochs:
        recall = in_percent(f"{min(float(record.level), SURE_RECALL):.2f}")
        values = _by_router(record.epochs, lambda epoch: epoch.held_out)
        caption = (
            f"Vectors scanned for {recall} recall on held-out training vectors, over those with k-means stored alike: "
            "below 1 less is scanned. A ring marks the epoch that was exported."
        )
        chosen = record.evaluation.get("chosen_epochs") or {}
        found.append(_over_epochs("held-out", "scanned (with k-means: 1)", values, caption, even=1.0, chosen=chosen))
        nprobes: dict[str, list[tuple[float, float]]] = {
            "centers": [(epoch.number, epoch.nprobe) for epoch in record.epochs]
        }
        caption = f"Buckets probed for {recall} of held-out answers, trained centers: what the next epoch trains for."
        found.append(_over_epochs("nprobe", "nprobe (buckets)", nprobes, caption, from_zero=True))
    return found


def _by_router(
    epochs: list[Epoch], values: Callable[[Epoch], dict[str, float]]
) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for epoch in epochs:
        for router, value in values(epoch).items():
            found.setdefault(router, []).append((epoch.number, value))
    return found


def _over_epochs(
    name: str, label: str, by_router: dict[str, list[tuple[float, float]]], caption: str, *, mark: str = "o",
    even: float | None = None, chosen: dict[str, int] | None = None, from_zero: bool = False,
) -> Figure:  # fmt: skip
    with canvas(SMALL, 3.0) as drawn:
        axes = drawn.axes
        for router, points in by_router.items():
            kind = ROUTERS[router]
            epochs, values = np.array(points).T
            dots = mark if len(epochs) <= MOST_DOTS else None
            axes.plot(epochs, values, marker=dots, color=COLORS[router], markersize=3, label=kind.title)
            exported = (chosen or {}).get(router)
            if exported is not None and exported in epochs:
                value = values[list(epochs).index(exported)]
                axes.plot(exported, value, "o", color="none", markeredgecolor=COLORS[router], markersize=10)
        if even is not None:
            axes.axhline(even, color=COLORS["kmeans"], linestyle="--", linewidth=1.2, label="k-means")
        if from_zero:
            axes.set_ylim(0, 1.1 * max(value for points in by_router.values() for _, value in points))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend_below(drawn, 3)
    return finish(drawn, name, f"{label} over epochs", caption)


def of_predictions(record: RunRecord) -> list[Figure]:
    """Recall and scanned share, as they were predicted and as they came."""
    results = [r for r in by_default(record.results) if r.told]
    if not results:
        return []
    levels = sorted({level for r in results for level in r.told})
    copies = sorted({r.percent for r in results})
    with canvas(WIDTH, 3.8) as recalls, canvas(WIDTH, 3.8) as shares:
        for i, r in enumerate(results):
            color, mark = COLORS[r.router], "osD^"[copies.index(r.percent) % 4]
            told = [(levels.index(level), one) for level, one in r.told.items()]
            beside = 0.5 * ((i + 0.5) / len(results) - 0.5)  # so that points do not hide each other
            places = [place + beside for place, _ in told]
            above = [100 * (one.reached - float(levels[place])) for place, one in told]
            recalls.axes.plot(places, above, mark, color=color, markersize=5, label=name_of(r))
            points = [(one.scanned, one.took) for _, one in told if one.scanned > 0 and one.took > 0]
            shares.axes.plot(*np.array(points).reshape(-1, 2).T, mark, color=color, markersize=5, label=name_of(r))
        recalls.axes.axhline(0, color=COLORS["ink"], linewidth=1)
        recalls.axes.set_xticks(range(len(levels)), [f"{100 * float(level):.0f} %" for level in levels])
        recalls.axes.set_xlabel("recall predicted")
        recalls.axes.set_ylabel("reached less predicted (points of 1 %)")
        every = [one for r in results for k in r.told.values() for one in (k.scanned, k.took) if one > 0]
        shares.axes.plot([min(every), max(every)], [min(every), max(every)], "-", color=COLORS["ink"], linewidth=1)
        share_axis(shares.axes, "share of base scanned, predicted (log)")
        share_axis(shares.axes, "share scanned, as it came (log)", "y")
        for drawn in (recalls, shares):
            legend_below(drawn)
    told = f"Predicted from {record.foretold_by}, before there was a base."
    if any(r.by_base for r in results):
        told = "Predicted by vectors of base that stood for queries."
    return [
        finish(recalls, "predicted-recall", "Recall reached less recall predicted",
               f"{told} At the nprobe named for a recall: how far the queries' recall lay above or below it; "
               "far above where one bucket alone finds more."),
        finish(shares, "predicted-scanned", "Scanned share as it came against predicted",
               f"{told} On the line both are equal."),
    ]  # fmt: skip


def of_stages(record: RunRecord) -> list[Figure]:
    """Seconds of each stage, and the most memory held up to its end."""
    if not record.stages:
        return []
    names = [stage.name + (f" ({stage.times} times)" if stage.times > 1 else "") for stage in record.stages]
    seconds = [stage.seconds for stage in record.stages]
    caption = f"{sum(seconds):,.0f} s in all, of every run and evaluation in this folder."
    found = [_bars("seconds", names, seconds, "seconds", caption)]
    peaks = [
        (name, stage.peak_gb) for name, stage in zip(names, record.stages, strict=True) if stage.peak_gb is not None
    ]
    if peaks:
        caption = "The most memory held by the end of a stage: one that needs less than earlier ones shows theirs."
        found.append(_bars("memory", [n for n, _ in peaks], [p for _, p in peaks], "GB (peak so far)", caption))
    return found


def _bars(name: str, names: list[str], values: list[float], label: str, caption: str) -> Figure:
    with canvas(WIDTH, 0.8 + 0.22 * len(names)) as drawn:
        axes = drawn.axes
        axes.barh(range(len(names)), values, color=COLORS["centers"], height=0.7)
        for place, value in enumerate(values):
            axes.annotate(f"{value:,.3g}" if value < 100 else f"{value:,.0f}", (value, place), xytext=(3, 0),
                          textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * max(*values, 1e-9))
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
    return finish(drawn, name, f"{label} by stage", caption)
