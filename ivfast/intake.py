"""What a run is handed: all files opened, scanned and held against each other before any training."""

import hashlib
import os

import numpy as np

from ivfast.backends import check_device
from ivfast.config import Config
from ivfast.data import (
    EvaluationSet,
    Vectors,
    learn_path,
    open_evaluation_set,
    open_vectors,
    rows_per_block,
    space_of,
)
from ivfast.draws import spread
from ivfast.errors import UserError
from ivfast.ground_truth import COUNTED, follow_kept
from ivfast.neighbors import nearest_among, split
from ivfast.npy import missing
from ivfast.progress import Progress
from ivfast.scanning import Cleaning, scan

RECOMMENDED = 39  # learn vectors a bucket, as FAISS has it
JUDGED = 100  # queries searched for exactly to see whether gt is stale
MOST_SEARCHED = 2_000_000  # base vectors up to which that takes seconds
SAME_DISTANCE = 1e-4  # of inside units: two vectors this close to equally near are both the nearest
LEAST_AGREEMENT = 0.5


def cleaning(config: Config) -> Cleaning:
    """What the flags say is done to unusable rows."""
    return Cleaning(config.normalize, config.drop_bad_rows)


def admit_training(config: Config, progress: Progress) -> tuple[Vectors, EvaluationSet]:
    """Open and check everything that training and its evaluation will need.

    returns: learn and the evaluation set, both scanned
    raises: UserError on whatever would stop the run later
    """
    assert config.learn_name is not None
    check_device(config.backend, config.gpu)
    path = learn_path(config.data_path, config.learn_name)
    folder = config.data_path / config.data_name
    four = {"learn": path} | {name: folder / f"{name}.npy" for name in ("base", "query", "gt")}
    if absent := {name: file for name, file in four.items() if not os.path.isfile(file)}:
        raise missing(absent)
    learn = open_vectors(path, "learn", config.dim)
    check_learn_size(learn, config)
    data = open_evaluation_set(config.data_path, config.data_name, config.dim)
    learn = scan(learn, config.metric, progress, cleaning(config))
    check_learn_size(learn, config)
    check_distinct(learn, config.nlist)
    if len(learn) < RECOMMENDED * config.nlist:
        progress.note(
            f"warning: learn has {len(learn) / config.nlist:.1f} vectors a bucket, {RECOMMENDED} or more are "
            "recommended: use more vectors or a smaller --nlist"
        )
    return learn, scan_set(data, config.metric, progress, cleaning(config))


def check_learn_size(learn: Vectors, config: Config) -> None:
    """Refuse a learn that is too small for nlist or for ftopk neighbours of each training vector."""
    if len(learn) < config.nlist:
        raise UserError(
            f"learn: {learn.path} has {len(learn)} vectors, fewer than --nlist {config.nlist}; "
            "use more vectors or fewer buckets"
        )
    if config.ftopk >= len(learn):
        raise UserError(
            f"--ftopk {config.ftopk}: learn has only {len(learn)} vectors, expected more; choose a smaller --ftopk"
        )
    check_split(learn, config)
    if config.batch_size > max(len(learn), Config.batch_size):  # the rest of it would be padding
        raise UserError(
            f"--batch_size {config.batch_size}: learn has only {len(learn)} vectors, expected no more pairs than that; "
            "choose a smaller --batch_size"
        )


def check_split(learn: Vectors, config: Config) -> None:
    """Refuse a learn of which too few train or are held out for ftopk neighbours of each."""
    train, held_out = split(len(learn), config.seed)
    if len(train) <= config.ftopk or len(held_out) == 0:
        raise UserError(
            f"learn: {learn.path} has only {len(learn)} vectors, of which {len(train)} train, too few for "
            f"--ftopk {config.ftopk}; use more vectors or a smaller --ftopk"
        )


def check_distinct(learn: Vectors, nlist: int) -> None:
    """Refuse a learn in which fewer than nlist vectors differ. Reads only until nlist are seen."""
    seen: set[bytes] = set()
    step = rows_per_block(learn.dim)
    for start in range(0, len(learn), step):
        rows = learn.stored(slice(start, start + step)).astype(np.float32) + np.float32(0)  # -0 becomes 0
        for row in rows:
            seen.add(hashlib.blake2b(row.data, digest_size=16).digest())
            if len(seen) == nlist:
                return
    raise UserError(
        f"learn: {learn.path} has {len(seen)} distinct vectors among {len(learn)}, fewer than --nlist {nlist}, "
        "as float32; use other vectors or fewer buckets, or subtract their mean and rescale them in float64"
    )


def scan_set(data: EvaluationSet, metric: str, progress: Progress, clean: Cleaning) -> EvaluationSet:
    """Scan base and query, let gt follow what is dropped, and say how well it agrees with an exact search."""
    base, query = (scan(vectors, metric, progress, clean) for vectors in (data.base, data.query))
    scanned = data._replace(base=base, query=query)
    if base.kept is not None or query.kept is not None:
        gt = follow_kept(data.gt, len(data.base), base.kept, query.kept)
        asked = data.gt if query.kept is None else data.gt[query.kept]
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


def judge_gt(data: EvaluationSet, metric: str, progress: Progress) -> None:
    """Note for how many queries the first answer of gt is the exact nearest, with a warning where it is not for most.

    Answers by identity are legal, so nothing is refused.
    """
    answered = np.flatnonzero(np.asarray(data.gt[:, 0]) >= 0)
    if len(data.base) > MOST_SEARCHED or len(answered) == 0:
        progress.note(
            f"gt: not held against an exact search ({len(data.base):,} base vectors, up to {MOST_SEARCHED:,} are "
            "searched)"
        )
        return
    judged = answered[spread(len(answered), JUDGED)]
    space = space_of(data.query.stored(judged), metric)
    x = data.query.take(space, judged)
    told = data.base.take(space, np.asarray(data.gt[judged, 0]).astype(np.int64))
    best = nearest_among(x, data.base, space, np.arange(len(data.base)), 1)[0][:, 0]
    nearest = best if metric == "IP" else -best
    found = (x * told).sum(axis=1) if metric == "IP" else -np.square(x - told).sum(axis=1)
    n_same = int((found >= nearest - SAME_DISTANCE * np.maximum(np.abs(nearest), 1)).sum())
    text = f"gt: its first answer is the exact nearest for {n_same} of {len(judged)} queries searched for"
    if n_same < LEAST_AGREEMENT * len(judged):
        text = (
            f"warning: {text}; legal where answers go by identity, else gt is stale or of another metric: regenerate it"
        )
    progress.note(text)
