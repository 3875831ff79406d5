"""What a fit came to, in three plain sentences."""

from pathlib import Path

import numpy as np

from ivfast.evaluate.page.record import RunRecord, read_record
from ivfast.evaluate.report import plain_result
from ivfast.index.growth import Index
from ivfast.index.index import Reached
from ivfast.route.search import scanned_at

LEVEL = "0.90"  # of recall, at which shares are compared


def tell(folder: Path, index: Index, reached: list[Reached]) -> list[str]:
    """What was gained, at what cost in memory, and what to do next.

    folder: of the fit, with its evaluation; reached: what searches of the index found, by the recall asked for
    """
    record = read_record(folder)
    return [_gain(record, reached, index.copies), _cost(folder, index), _next(folder)]


def kmeans_scanned(record: RunRecord, recall: float) -> float | None:
    """The share that a plain IVF index of k-means centers scans for a recall; None: not known.

    It stores each vector once, and looks into as many buckets for every query.
    """
    result = plain_result(record.results, "kmeans")
    share = scanned_at(*result.curve, recall) if result else np.nan
    return None if np.isnan(share) else share


def _gain(record: RunRecord, reached: list[Reached], copies: float) -> str:
    at = next((one for one in reached if f"{one.asked:.2f}" == LEVEL), reached[-1] if reached else None)
    if at is None:
        return "The index was written, but no recall that was asked for can be reached with such codes."
    found = (
        f"Asked for {100 * at.asked:.0f} % of the {at.k} nearest, a search finds {100 * at.recall:.1f} % of them and "
        f"compares a query with {100 * at.scanned:.2f} % of the vectors"
    )
    theirs = kmeans_scanned(record, at.recall)
    if record.is_kmeans:
        found = (
            "No gain of training was sure on held-out vectors, so ivfast.npy is k-means; what is saved comes of where "
            f"copies go and of how queries probe. {found}"
        )
    if theirs is None:
        return f"{found}."
    times = theirs / at.scanned
    beside = f"{times:.1f} times as many" if times > 1.05 else "about as many" if times > 0.95 else "fewer"
    advice = (
        f": copies cost more here than they save, leave them out with {_once(record.folder)}"
        if beside == "fewer" and copies
        else ""
    )
    return (
        f"{found}. For as many answers a plain IVF index of k-means centers, at one nprobe for all queries, takes "
        f"{100 * theirs:.2f} %, {beside}{advice}."
    )


def _once(folder: Path) -> str:
    return f"`ivfast index {folder} BASE --out OTHER --percents 0`"


def _megabytes(entries: int, size: int) -> str:
    number = entries * size / 1e6
    return f"{number:,.0f} MB" if number >= 10 else f"{number:.2g} MB"


def _cost(folder: Path, index: Index) -> str:
    """The memory of the lists beside what they would be without copies."""
    faiss_index = index.faiss_index
    an_entry = faiss_index.code_size + 8
    once, stored = (_megabytes(n, an_entry) for n in (len(index), faiss_index.ntotal))
    if index.copies == 0:
        return f"The index holds each of {len(index):,} vectors once and takes {stored} of memory."
    return (
        f"The index holds {index.copies:g} copies a vector and takes {stored} of memory instead of {once}; "
        f"{_once(folder)} stores each vector once."
    )


def _next(folder: Path) -> str:
    return (
        f"Search it with `ivfast.load_index({str(folder)!r}).search(query, k=10, recall=0.95)`, or hand "
        f"{folder / 'ivfast.npy'} to another engine as its coarse centers."
    )
