"""Axes of a page's pictures: SVG by matplotlib whose colours are the page's own, light and dark."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ivfast.evaluate.page.markup import Figure, text

# colours that stand for names of style.css until the SVG is written
NAMES = ("ink", "soft", "line", "ground", "kmeans", "centers", "net", *(f"run{i}" for i in range(6)))
COLORS = {name: f"#a1b2{i:02x}" for i, name in enumerate(NAMES)}
RUNS = tuple(COLORS[f"run{i}"] for i in range(6))
WIDTH, SMALL = 4.5, 3.9  # inches, of large and small pictures: their text stays readable on a phone
# how many times the least share the largest may be for these marks to stand apart on a phone
MARKS_OF_A_DECADE = ((60, (1, 2, 5)), (400, (1, 3)), (np.inf, (1,)))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: a tenth of the bytes, and can be searched
    "svg.hashsalt": "ivfast",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": COLORS["ink"],
    "axes.labelcolor": COLORS["ink"],
    "axes.titlecolor": COLORS["ink"],
    "axes.edgecolor": COLORS["soft"],
    "xtick.color": COLORS["soft"],
    "ytick.color": COLORS["soft"],
    "xtick.labelcolor": COLORS["ink"],
    "ytick.labelcolor": COLORS["ink"],
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
}


class Canvas(NamedTuple):
    """One picture while it is drawn."""

    drawing: Drawing
    axes: Axes
    done: list[str]  # the SVG, once it is drawn


@contextmanager
def canvas(width: float, height: float) -> Iterator[Canvas]:
    """Axes to draw on; afterwards `finish` gives the picture. width, height: inches"""
    with style.context(["default", STYLE]):  # a user's own style may want TeX
        drawing = Drawing(figsize=(width, height), layout="constrained")
        found = Canvas(drawing, drawing.add_subplot(), [])
        found.axes.grid(visible=True)
        yield found
        file = StringIO()
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        found.done.append(file.getvalue())


def finish(drawn: Canvas, name: str, label: str, caption: str) -> Figure:
    """The picture as part of a page. name: of letters, its id; label: for those who do not see it"""
    svg = drawn.done[0]
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", rf'<svg viewBox="\1" role="img" aria-label="{text(label)}">', svg
    )
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)  # ids of several pictures share one page
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    for variable, color in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    return Figure(name, svg, caption)


def share_axis(axes: Axes, label: str, which: str = "x") -> None:
    """A logarithmic axis of the shares drawn already, marked in percent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axes.dataLim.intervalx if which == "x" else axes.dataLim.intervaly
    subs = next(marks for times, marks in MARKS_OF_A_DECADE if high <= times * low)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)


def legend_below(drawn: Canvas, n_columns: int = 2) -> None:
    """All lines that have names, below the axes, where they hide nothing."""
    handles, labels = drawn.axes.get_legend_handles_labels()
    if handles:
        drawn.drawing.legend(handles, labels, loc="outside lower center", ncols=n_columns, handlelength=2.8)
