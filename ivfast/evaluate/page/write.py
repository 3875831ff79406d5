"""Write data.json and report.html at the end of an evaluation: they are for looks, so they never end a run."""

from importlib.util import find_spec
from pathlib import Path

from ivfast.data.another_kind import is_another_kind, warning_of
from ivfast.data.criticism import criticise
from ivfast.data.synthetic import goes_by_identity
from ivfast.data.vectors import EvaluationSet
from ivfast.evaluate.picture import at_no_cost
from ivfast.runtime.files import save_json
from ivfast.runtime.progress import Progress


def write_data_page(folder: Path, data: EvaluationSet, progress: Progress, *, logged: bool = False) -> None:
    """Both files; without matplotlib data.json alone. logged: whether a log of queries trained"""

    def save() -> None:
        record = criticise(data.base, data.query, data.gt)
        record["gt"]["by_identity"] = goes_by_identity(data.gt_path)
        record["logged"] = logged
        save_json(folder / "data.json", record)
        beside = record["queries_beside_base"]
        if is_another_kind(beside["farther_than_base"]) and not logged:
            told = warning_of(beside["nearest_of_queries"], beside["nearest_of_base"])
            progress.note(f"warning: {told}; train with a log of such queries (--query_log)")

    if find_spec("matplotlib") is None:  # a line about the picture has said so
        at_no_cost(folder / "data.json", progress, save)
        return

    def write() -> None:
        from ivfast.evaluate.page.pages import write_page  # here, since matplotlib takes a second to import

        save()
        progress.note(f"written: {write_page(folder)}")

    at_no_cost(folder / "report.html", progress, write)
