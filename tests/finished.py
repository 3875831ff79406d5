"""Folders of finished runs, as far as a page reads them, written down without a run."""

import json
from pathlib import Path
from typing import Any

from ivfast.runtime.files import save_json, save_text


def result(router: str, rule: str, percent: float, probing: str, shares: tuple[float, ...]) -> dict[str, Any]:
    """A record of evaluation.json. shares: scanned at 80, 90, 95 and 99 % recall"""
    predicted = {"0.90": {"nprobe": 2.5, "scanned": 0.9 * shares[1], "reached": 0.913, "took": 1.02 * shares[1]}}
    return {
        "router": router, "rule": rule, "percent": percent, "probing": probing, "nprobe": [1, 2, 4, 8],
        "recall": [0.6, 0.85, 0.93, 0.97], "scanned": [shares[0] / 2, *(part * shares[1] for part in (0.9, 1.1, 1.5))],
        "scanned_p99": [0.1, 0.2, 0.4, 0.5],
        "scanned_at": dict(zip(("0.80", "0.90", "0.95", "0.99"), shares, strict=True)),
        "imbalance": 1.25 + percent, "largest": 171, "empty": 1, "entries": int(1000 * (1 + percent)),
        "predicted": predicted if probing == "fixed" else {},
        "sizes": {"p1": 4.0, "p25": 20.0, "p50": 31.0, "p75": 44.0, "p99": 163.0},
    }  # fmt: skip


def evaluation(name: str = "tiny", centers: float = 0.03) -> dict[str, Any]:
    """evaluation.json of k-means at 6 %, trained centers and a network, with and without copies."""
    results = []
    for probing in ("fixed", "adaptive"):
        for percent in (0.0, 0.8):
            results += [
                result("kmeans", "ratio", percent, probing, (0.03, 0.06 + 0.01 * percent, 0.08, 0.2)),
                result("centers", "ratio", percent, probing, (0.02, centers * 1.5, 0.07, 0.2)),
                result("centers", "benefit", percent, probing, (centers / 2, centers * (1.2 - percent / 4), 0.06, 0.1)),
                result("net", "benefit", percent, probing, (centers / 2, centers * (1.1 - percent / 4), 0.05, 0.1)),
            ]
    results[0]["scanned_at"]["0.99"] = None
    shape = {"base": [1000, 24], "query": [200, 24], "gt": [200, 10]}
    return {
        "schema": 1, "data_name": name, "settings": {"nlist": 32, "metric": "IP", "percents": [0.0, 0.8]},
        "trained_with": {"nlist": 32, "epochs": 3, "learn_name": name}, "chosen_epochs": {"centers": 3, "net": 2},
        "chosen_ways": {"centers": 1.0, "net": 0.7}, "versions": {"ivfast": "0.1.0", "numpy": "2.4.6"},
        "data": {which: {"shape": one, "hash": f"{which}{'0123456789abcdef' * 2}"} for which, one in shape.items()},
        "results": results, "is_kmeans": False, "verdict": "Use ivfast.npy: 50 % less than with k-means; ...",
    }  # fmt: skip


def vectors_facts(n: int, **more: Any) -> dict[str, Any]:
    quantiles = dict.fromkeys(("least", "p1", "p50", "p99", "largest"), 1.0)
    return {
        "rows": n, "dim": 24, "dtype": "float32", "dropped": 0, "looked_at": n, "twins": 7, "norms": quantiles,
        "constant_columns": {"count": 1, "first": [5]}, "from_the_middle": quantiles | {"largest": 97.5},
        "widest_column": {"column": 3, "share_of_variance": 0.9}, "far": {"times": 5.0, "count": 2, "first": [77, 9]},
        **more,
    }  # fmt: skip


def write_folder(folder: Path, name: str = "tiny", centers: float = 0.03) -> Path:
    """What a finished run leaves, as far as a page reads it."""
    save_json(folder / "evaluation.json", evaluation(name, centers))
    lines: list[dict[str, Any]] = [{"stage": "k-means", "seconds": 12.5, "peak_gb": 0.4}]
    for epoch in (1, 2, 3):
        for step in (4, 8):
            lines.append(
                {"title": f"epoch {epoch}", "step": step, "k": 9.0, "loss_centers": 2 / epoch, "loss_net": 2.1}
            )
        held_out = {"centers": 1 - 0.1 * epoch, "net": 1 - 0.11 * epoch}
        lines.append({"epoch": epoch, "k": 9.0, "nprobe": 3.0, "slope": 1.0, "weight": 0.3, "held_out": held_out})
        lines.append({"stage": "training", "seconds": 2.25, "peak_gb": 0.7 + epoch / 10})
    save_text(folder / "metrics.jsonl", "\n".join(map(json.dumps, lines)) + '\n{"half": ')
    save_text(
        folder / "train.log", "2026-11-27 14:59:36 warning: gt: stale & <old>\n2026-11-27 14:59:37 epoch 1/3: loss 2\n"
    )
    save_json(folder / "data.json", {
        "schema": 1, "base": vectors_facts(1000), "query": vectors_facts(200, rows_of_base=3),
        "gt": {
            "queries": 200, "width": 10, "looked_at": 200, "answers_a_query": {"least": 10, "mean": 10.0},
            "without_answers": 4, "rows_that_are_answers": 640, "share_of_base": 0.64,
            "most_named": {"row": 8, "times": 61},
        },
        "queries_beside_base": {
            "looked_at": 100, "answered": 96, "nearer_than_first_answer": 60, "nearest_of_queries": 0.9,
            "nearest_of_base": 0.4,
            "farther_than_base": 0.8,
        },
    })  # fmt: skip
    return folder
