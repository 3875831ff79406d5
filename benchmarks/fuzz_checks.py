"""What must hold of a run that ended: one clear line where it failed, files that belong together where it did not."""

import json
import re
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import ivfast

ENDINGS = (0, 1, 2)
TOLERANCE = 1e-6  # of shares that were rounded when they were written
PATH_OF_SOURCE = re.compile(r"(^|\n)\S*\.py:\d+: \w*Warning")  # as warnings.warn prints itself


def faults_of_ending(code: int, said: str) -> list[str]:
    """What is wrong with how a command ended. said: all of its standard error and output"""
    faults = []
    if code not in ENDINGS:
        faults.append(f"exit code {code}")
    if "Traceback (most recent call last)" in said:
        faults.append("a traceback")
    if PATH_OF_SOURCE.search(said):
        faults.append("a bare warning of Python")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code in (1, 2) and len(errors) != 1:
        faults.append(f"{len(errors)} lines that say error, expected one")
    if code == 0 and errors:
        faults.append("exit code 0, but an error is told")
    return faults


def faults_of_files(out: Path, metric: str, n_base: int) -> list[str]:
    """What is wrong with the files of a training run that ended with 0. n_base: rows of base that count, or more"""
    faults = []
    centers, kmeans = (np.load(out / name) for name in ("ivfast.npy", "kmeans.npy"))
    for name, rows in (("ivfast.npy", centers), ("kmeans.npy", kmeans)):
        if rows.dtype != np.float32 or not np.isfinite(rows).all():
            faults.append(f"{name} is not finite float32")
        if metric == "IP" and np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1).max() > 1e-3:
            faults.append(f"{name} has rows without unit norm")
    if centers.shape != kmeans.shape:
        faults.append("ivfast.npy and kmeans.npy differ in shape")
    record = json.loads((out / "evaluation.json").read_text())
    if not record["results"]:
        faults.append("evaluation.json has no results")
    for result in record["results"]:
        faults += [f"{result['router']} {result['rule']} {result['percent']}: {fault}" for fault in
                   _faults_of_result(result, len(centers), n_base)]  # fmt: skip
    if ivfast.load(out).centers.shape != centers.shape:
        faults.append("the model that is loaded has other centers")
    return faults


def _faults_of_result(result: dict[str, Any], nlist: int, n_base: int) -> list[str]:
    faults = []
    recall, scanned, nprobe = (np.array(result[name], float) for name in ("recall", "scanned", "nprobe"))
    if not (np.isfinite(recall).all() and np.isfinite(scanned).all()):
        return ["recall or scanned is not finite"]
    if ((recall < 0) | (recall > 1 + TOLERANCE)).any():
        faults.append("recall outside 0 to 1")
    most = 1 + result["percent"] + TOLERANCE + 1 / max(n_base, 1)
    if ((scanned < 0) | (scanned > most)).any():
        faults.append("more is scanned than is stored")
    if result["probing"] == "fixed":
        order = np.argsort(nprobe)
        for name, values in (("recall", recall), ("scanned", scanned)):
            if (np.diff(values[order]) < -TOLERANCE).any():
                faults.append(f"{name} falls with more buckets")
        if nprobe.max() == nlist and abs(scanned[nprobe.argmax()] - result["entries"] / n_base) > 1e-3:
            faults.append("all buckets are probed, but not all entries scanned")
    if result["entries"] > n_base * (1 + result["percent"]) + 1:
        faults.append("more entries than the budget allows")
    return faults


def faults_of_index(folder: Path, base: np.ndarray, *, normalized: bool) -> list[str]:
    """What is wrong with an index that `ivfast fit` wrote.

    base: (n, dim), the rows that it stores; normalized: whether they are divided by their norms first
    """
    faults = []
    plain: Any = faiss.read_index(str(folder / "index.faiss"))
    ids = [
        faiss.rev_swig_ptr(plain.invlists.get_ids(i), plain.invlists.list_size(i)).copy() for i in range(plain.nlist)
    ]
    if not np.array_equal(np.unique(np.concatenate(ids)), np.arange(len(base))):
        faults.append("the lists don't hold every row of base")
    index = ivfast.load_index(folder)
    k = min(10, len(base))
    found, scores = index.search(base[:20], k, nprobe=index.model.nlist)
    if any(len(set(row.tolist())) != k for row in found):
        faults.append("an answer stands twice")
    wide = np.asarray(base, np.float64)
    x = wide[:20]
    if index.model.metric == "IP":
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True) if normalized else wide
        best, sign = np.sort(unit[:20] @ unit.T, axis=1)[:, ::-1][:, :k], -1
    else:
        best, sign = np.sort(np.square(x[:, None] - wide[None]).sum(axis=2), axis=1)[:, :k], 1
    worst = np.abs(best).max(axis=1, keepdims=True) + np.square(wide).sum(axis=1).max() * (sign == 1)
    if (np.abs(scores - best) > 1e-4 * worst + 1e-30).any():
        faults.append("a search of all buckets doesn't give what brute force gives")
    return faults
