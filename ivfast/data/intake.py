"""What a run is handed: all files opened, scanned and held against each other before any training."""

import hashlib

import numpy as np

from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.ground_truth import follow_kept
from ivfast.data.gt_fit import FROM_1, SURE, compare, seems_from_1, what_fits
from ivfast.data.synthetic import goes_by_identity
from ivfast.data.vectors import BLOCK_BYTES, EvaluationSet, Points, rows_per_block
from ivfast.method import COUNTED
from ivfast.runtime.draws import spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

JUDGED = 100  # queries that are searched for exactly, to see whether gt is stale
MOST_SEARCHED = 2_000_000  # so large a base is searched within seconds; a larger one is not searched
LEAST_AGREEMENT = 0.5  # of those queries; below it a warning is given


def check_distinct(learn: Points, nlist: int, block_bytes: int = BLOCK_BYTES) -> None:
    """Refuse a learn in which fewer than nlist vectors differ inside. Reads only until nlist are seen."""
    seen: set[bytes] = set()
    step = rows_per_block(learn.dim, block_bytes)
    for start in range(0, len(learn), step):
        rows = learn.x(slice(start, start + step)) + np.float32(0)  # -0 becomes 0
        for row in rows:
            seen.add(hashlib.blake2b(row.data, digest_size=16).digest())
            if len(seen) == nlist:
                return
    raise UserError(
        f"learn: {learn.vectors.path} has {len(seen)} distinct vectors among {len(learn)}, fewer than --nlist {nlist}, "
        "as float32 from their mean; use other vectors or fewer buckets"
    )


def scan_set(data: EvaluationSet, metric: str, progress: Progress, cleaning: Cleaning) -> EvaluationSet:
    """Scan base and query, let gt follow what is dropped, and say how well it agrees with an exact search."""
    base, query = (scan(vectors, metric, progress, cleaning) for vectors in (data.base, data.query))
    scanned = data._replace(base=base, query=query)
    if base.rows_kept is not None or query.rows_kept is not None:
        gt = follow_kept(data.gt, len(data.base), base.rows_kept, query.rows_kept)
        asked = data.gt if query.rows_kept is None else data.gt[query.rows_kept]
        n_lost = int((np.asarray(asked) >= 0).sum()) - int((gt >= 0).sum())
        progress.note(
            f"gt: {len(data.gt) - len(gt):,} of {len(data.gt):,} rows dropped with their queries; "
            f"{n_lost:,} answers named dropped rows of base and are now -1"
        )
        if not (gt[:, :COUNTED] >= 0).any():
            raise UserError(
                f"gt: {data.gt_path} names no right answer among the rows of base.npy that are kept; regenerate it"
            )
        scanned = scanned._replace(gt=gt)
    judge_gt(scanned, metric, progress)
    return scanned


def judge_gt(data: EvaluationSet, metric: str, progress: Progress, most_searched: int = MOST_SEARCHED) -> None:
    """Note for how many queries the first answer of gt is the exact nearest, with a warning where it is not for most.

    Answers by identity are legal, so nothing is refused.
    """
    answered = np.flatnonzero(np.asarray(data.gt[:, 0]) >= 0)
    judged = answered[spread(len(answered), JUDGED)]
    if len(data.base) > most_searched or len(answered) == 0:
        if len(answered) and seems_from_1(data, judged, metric):
            progress.note(f"warning: gt: {FROM_1}")
        progress.note(
            f"gt: not held against an exact search ({len(data.base):,} base vectors, up to {most_searched:,} are "
            "searched)"
        )
        return
    compared = compare(data, judged, metric)
    n_same = compared.n_nearest(np.asarray(data.gt[judged, 0]).astype(np.int64))
    text = f"gt: its first answer is the exact nearest for {n_same} of {len(judged)} queries searched for"
    if n_same < SURE * len(judged) and goes_by_identity(data.gt_path):
        progress.note(f"{text}; answers go by identity here, as they were made")
        return
    fits = what_fits(data, judged, compared) if n_same < SURE * len(judged) else ""
    if n_same < LEAST_AGREEMENT * len(judged) and not fits:
        fits = "legal where answers go by identity, else gt is stale or of another metric: regenerate it"
    progress.note(f"warning: {text}; {fits}" if fits else text)
