"""recall_scanned.png, and the rule that what is for looks alone costs no run."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from warnings import catch_warnings

from ivfast.evaluate.result import Result, best, name_of_recall
from ivfast.method import RECALL
from ivfast.route.routers import ROUTERS
from ivfast.runtime.files import write_beside
from ivfast.runtime.packages import broken, is_wish, reason
from ivfast.runtime.progress import Progress


def draw_picture(
    folder: Path, name: str, results: list[Result], progress: Progress, recall: float = RECALL
) -> list[str]:
    """Draw recall_scanned.png where matplotlib is there; a line says why not. Returns its name where it was drawn

    recall: at which the best number of copies is told
    """
    picture = folder / "recall_scanned.png"
    if find_spec("matplotlib") is None:
        picture.unlink(missing_ok=True)  # it would show an earlier evaluation
        progress.note(
            f"no {picture.name} and report.html, since matplotlib is not installed: pip install 'ivfast[report]'"
        )
        return []
    if why := _broken():
        progress.note(f"warning: {picture} is not written anew: {why}")
        return []
    drawn = at_no_cost(
        picture, progress, lambda: write_beside(picture, lambda beside: draw(beside, name, results, recall))
    )
    return [picture.name] if drawn else []


def _broken() -> str:
    """Why matplotlib, which is installed, can't be imported; "" where it can."""
    try:
        import_module("matplotlib.figure")
    except BaseException as problem:
        if is_wish(problem):
            raise
        no_home = "MPLCONFIGDIR" in str(problem)  # it says itself what to do
        return reason(problem) if no_home else broken("matplotlib", reason(problem))
    return ""


def at_no_cost(path: Path, progress: Progress, write: Callable[[], object]) -> bool:
    """Write what is for looks alone: where that fails, a line says so, and what was computed is not lost.

    path: of the file, for the message; what stood there before stays
    returns: whether it was written
    """
    try:
        with catch_warnings(action="ignore"):  # of letters that a font lacks
            write()
    except Exception as problem:
        said = " ".join(f"{type(problem).__name__}: {problem}".split())
        progress.note(f"warning: {path} is not written anew ({said}); all other results are there")
        return False
    return True


def draw(path: Path, name: str, results: list[Result], recall: float = RECALL) -> None:
    """Recall against scanned share: each router's default rule, fixed and adaptive, at its best number of copies."""
    from matplotlib import style  # here, since it takes a second to import

    with style.context("default"):  # a user's own may want TeX
        _plot(path, name, results, f"{recall:.2f}")


def _plot(path: Path, name: str, results: list[Result], level: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="share of base scanned", ylabel=name_of_recall(results))
    shown = name.encode("utf-8", "backslashreplace").decode()  # names of files may hold bytes that are no UTF-8
    axes.set_title(shown, parse_math=False)  # two dollar signs are no formula
    for router, kind in ROUTERS.items():
        for probing, style in (("fixed", "-"), ("adaptive", "--")):
            found = best(results, router, probing, level)
            if found:
                recall, scanned = found.curve
                keep = (recall > 0) & (scanned > 0)
                axes.plot(scanned[keep], recall[keep], style, color=kind.color,
                          label=f"{kind.title}, {found.rule} {found.percent:g}, {probing}")  # fmt: skip
    axes.set_ylim(0.5, 1.0)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
