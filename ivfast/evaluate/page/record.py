"""What a finished run has left in its folder, read for its page: all but evaluation.json may be absent."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from ivfast.evaluate.report import SCHEMA
from ivfast.evaluate.result import ByBase, Fulfilled, Result
from ivfast.method import RECALL
from ivfast.runtime.errors import UserError
from ivfast.runtime.tensors import METADATA, read_header

SAID_OF_DATA = re.compile(r"[-\d]{10} [:\d]{8} ((?:warning: )?(?:learn|base|query|gt|query_log): .*|warning: .*)")
MOST_SAID = 30  # lines of train.log that are repeated, the last ones


class Stage(NamedTuple):
    """All times that a stage ran in this folder."""

    name: str
    times: int
    seconds: float
    peak_gb: float | None  # the most memory held up to its end; None where it was not recorded


class Epoch(NamedTuple):
    """What is known at the end of an epoch."""

    number: int
    nprobe: float
    k: float
    held_out: dict[str, float]  # by router: scanned over k-means stored alike


class RunRecord(NamedTuple):
    """A folder, read."""

    folder: Path
    evaluation: dict[str, Any]  # evaluation.json
    results: list[Result]  # of it; their curves go through what it tells
    epochs: list[Epoch]
    losses: dict[str, list[tuple[float, float]]]  # by router: (epochs done, loss)
    stages: list[Stage]  # in the order in which they first ended
    said: list[str]  # what train.log says of the data
    model: dict[str, Any]  # metadata of dcnet.safetensors; empty where it is absent
    data: dict[str, Any] | None  # data.json, of the same data set

    @property
    def is_kmeans(self) -> bool:
        """Whether ivfast.npy is k-means, since training brought no sure gain."""
        of_older_files = str(self.evaluation.get("verdict", "")).startswith("ivfast.npy is k-means")
        return bool(self.evaluation.get("is_kmeans", of_older_files))

    @property
    def level(self) -> str:
        """The recall that the run was trained for, as `Result.scanned_at` names it; of earlier files 0.90."""
        return f"{self.evaluation['settings'].get('recall', RECALL):.2f}"

    @property
    def foretold_by(self) -> str:
        """What predictions come from."""
        return "held-out queries of the log" if self.data and self.data.get("logged") else "training vectors alone"

    @property
    def n_base(self) -> int:
        """Vectors searched among."""
        return self.evaluation["data"]["base"]["shape"][0]

    @property
    def nlist(self) -> int:
        """Buckets."""
        return self.evaluation["settings"]["nlist"]


def read_record(folder: Path) -> RunRecord:
    """raises: UserError where there is no evaluation, or none that this version writes"""
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no evaluation.json, expected the --save_path of a finished run; name another")
    evaluation = _json(path)
    if evaluation is None or evaluation.get("schema") != SCHEMA:
        raise UserError(f"{path} is not as schema {SCHEMA} has it, expected a file that ivfast wrote; evaluate again")
    try:
        results = [_as_result(one) for one in evaluation["results"]]
        shape = evaluation["data"]["base"]["shape"]
        evaluation["settings"]["nlist"]
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise UserError(f"{path} cannot be read ({problem!r}), expected what ivfast wrote; evaluate again") from None
    lines = _lines(folder / "metrics.jsonl")
    data = _json(folder / "data.json")
    if data is not None and [data.get("base", {}).get(name) for name in ("rows", "dim")] != shape:
        data = None  # of another data set
    return RunRecord(
        folder=folder,
        evaluation=evaluation,
        results=results,
        epochs=_epochs(lines),
        losses=_losses(lines),
        stages=_stages(lines),
        said=_said(folder / "train.log"),
        model=_metadata(folder / "dcnet.safetensors"),
        data=data,
    )


def _text(path: Path) -> str:
    """What a file holds; nothing where it is absent or no plain file: /dev/full, put in its place, has no end."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _as_result(stored: dict[str, Any]) -> Result:
    """As it was evaluated; its curve is that of the nprobes reported and the levels of recall reached."""
    at = {level: np.nan if share is None else float(share) for level, share in stored["scanned_at"].items()}
    points = list(zip(stored["scanned"], stored["recall"], strict=True))
    points += [(share, float(level)) for level, share in at.items() if share > min(stored["scanned"])]
    scanned, recall = np.array(sorted(points)).T
    known = {name: stored[name] for name in Result._fields if name in stored}
    known |= {
        "scanned_at": at,
        "curve": (np.maximum.accumulate(recall), scanned),
        "predicted": _as_fulfilled(stored["predicted"]),
        "sizes": stored.get("sizes", {}),
        "recall_error": [np.nan if error is None else float(error) for error in stored.get("recall_error", ())],
    }
    if told := stored.get("by_base"):
        known["by_base"] = ByBase(**(told | {"predicted": _as_fulfilled(told["predicted"])}))
    return Result(**known)


def _as_fulfilled(stored: dict[str, dict[str, float]]) -> dict[str, Fulfilled]:
    return {level: Fulfilled(**one) for level, one in stored.items()}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl. A killed run may have left half of one."""
    found = []
    for line in _text(path).splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _epochs(lines: list[dict[str, Any]]) -> list[Epoch]:
    """Of the last run: one that goes back to an epoch has forgotten those after it."""
    found: dict[int, Epoch] = {}
    for line in lines:
        if line.keys() >= {"epoch", "nprobe", "k", "held_out"}:
            number = line["epoch"]
            while found and next(reversed(found)) >= number:
                found.popitem()
            found[number] = Epoch(number, line["nprobe"], line["k"], line["held_out"])
    return list(found.values())


def _losses(lines: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Likewise. An epoch's last record tells how many steps it has."""
    kept: dict[tuple[int, int], dict[str, Any]] = {}
    for line in lines:
        title = re.fullmatch(r"epoch (\d+)", str(line.get("title", "")))
        if title and line.get("step") and line.get("n_pairs", 1):
            place = int(title[1]), line["step"]
            while kept and next(reversed(kept)) >= place:
                kept.popitem()
            kept[place] = line
    n_steps = dict(kept.keys())  # by epoch: its last step comes last
    found: dict[str, list[tuple[float, float]]] = {}
    for (epoch, step), line in kept.items():
        for name in ("centers", "net"):
            if f"loss_{name}" in line:
                found.setdefault(name, []).append((epoch - 1 + step / n_steps[epoch], line[f"loss_{name}"]))
    return found


def _stages(lines: list[dict[str, Any]]) -> list[Stage]:
    found: dict[str, Stage] = {}
    for line in lines:
        if line.keys() >= {"stage", "seconds"}:
            name, peak = line["stage"], line.get("peak_gb")
            before = found.get(name, Stage(name, 0, 0.0, None))
            peaks = [one for one in (before.peak_gb, peak) if one is not None]
            found[name] = Stage(name, before.times + 1, before.seconds + line["seconds"], max(peaks, default=None))
    return list(found.values())


def _said(path: Path) -> list[str]:
    found = (SAID_OF_DATA.fullmatch(line) for line in _text(path).splitlines())
    return list(dict.fromkeys(match[1] for match in found if match))[-MOST_SAID:]


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_header(path)[0].get(METADATA, {}).get("ivfast", "{}"))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
