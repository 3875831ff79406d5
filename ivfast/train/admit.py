"""What a training run is handed: opened and checked before anything is computed, with epochs that fit its size."""

import os
from dataclasses import replace
from typing import NamedTuple

from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.far import without_far
from ivfast.data.intake import check_distinct, scan_set
from ivfast.data.missing import missing
from ivfast.data.query_log import admit_log, note_known, open_log
from ivfast.data.vectors import (
    EvaluationSet,
    Points,
    Vectors,
    learn_path,
    measure_space,
    open_evaluation_set,
    open_vectors,
)
from ivfast.network.backend import check_device, load_search
from ivfast.runtime.cache import fingerprint
from ivfast.runtime.config import AUTO, Config
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress
from ivfast.start.descent import Means, check_descent
from ivfast.start.neighbors import LIMITS, check_split, n_held_out
from ivfast.train.given import open_start
from ivfast.train.schedule import auto_epochs, auto_warmup

RECOMMENDED = 39  # learn vectors a bucket; FAISS warns below so many


class Opened(NamedTuple):
    """The files of a training run."""

    learn: Vectors
    data: EvaluationSet
    log: Vectors | None  # of --query_log


class Admitted(NamedTuple):
    """The same, scanned."""

    learn: Vectors  # as scanned
    points: Points  # what of it trains, inside
    data: EvaluationSet
    log: Vectors | None  # its different queries

    @property
    def digest(self) -> str:
        """Of all that is trained on."""
        learn = self.points.vectors.digest
        return learn if self.log is None else fingerprint(learn=learn, log=self.log.digest)


def with_epochs(config: Config, n_learn: int, progress: Progress) -> Config:
    """The same settings, with a number of epochs where it was left to the sizes."""
    if config.epochs != AUTO:
        return config
    epochs = auto_epochs(n_learn - n_held_out(n_learn), config.batch_size, config.nlist)
    warmup = auto_warmup(config.warmup, epochs)
    progress.note(
        f"--epochs auto: {epochs} epochs, {warmup} of warmup, for {n_learn:,} vectors and {config.nlist} buckets"
    )
    return replace(config, epochs=epochs, warmup=warmup)


def open_training(config: Config) -> Opened:
    """Open everything that training and its evaluation will need, and check all that can be told without the rows.

    returns: all of it, not yet scanned
    raises: UserError on whatever would stop the run later
    """
    assert config.learn_name is not None
    check_device(config.backend, config.gpu)
    open_start(config)
    path = learn_path(config.data_path, config.learn_name)
    folder = config.data_path / config.data_name
    files = {"learn": path} | {name: folder / f"{name}.npy" for name in ("base", "query", "gt")}
    if config.query_log is not None:
        files["query_log"] = learn_path(config.data_path, config.query_log)
    if absent := {name: file for name, file in files.items() if not os.path.isfile(file)}:
        raise missing(absent)
    learn = open_vectors(path, "learn", config.dim)
    check_learn_size(learn, config.nlist, config.ftopk, config.batch_size)
    data = open_evaluation_set(config.data_path, config.data_name, config.dim)
    for vectors in (learn, data.base):
        if len(vectors) > LIMITS.exact_learn:
            check_descent(vectors, Means(search=load_search(config.backend, config.gpu)))
    return Opened(learn, data, open_log(config, learn.dim))


def admit_training(config: Config, progress: Progress) -> Admitted:
    """Open and check everything that training and its evaluation will need.

    raises: UserError on whatever would stop the run later
    """
    opened = open_training(config)
    cleaning = Cleaning(config.normalize, config.drop_bad_rows)
    scanned = scan(opened.learn, config.metric, progress, cleaning)
    learn = without_far(scanned)
    check_learn_size(learn, config.nlist, config.ftopk, config.batch_size)
    points = Points(learn, measure_space(learn, config.metric))
    check_distinct(points, config.nlist)
    note_few(len(learn), config.nlist, progress)
    log = opened.log and admit_log(opened.log, config.metric, cleaning, progress)
    data = scan_set(opened.data, config.metric, progress, cleaning)
    if log is not None:
        note_known(Points(log, points.space), Points(data.query, points.space), progress)
    return Admitted(scanned, points, data, log)


def note_few(n_learn: int, nlist: int, progress: Progress) -> None:
    """Warn of fewer learn vectors a bucket than are recommended."""
    if n_learn < RECOMMENDED * nlist:
        progress.note(
            f"warning: learn has {n_learn / nlist:.1f} vectors a bucket, {RECOMMENDED} or more are recommended: use "
            "more vectors or a smaller --nlist"
        )


def check_learn_size(learn: Vectors, nlist: int, ftopk: int, batch_size: int) -> None:
    """Refuse a learn that is too small for nlist or for ftopk neighbours of each training vector."""
    if len(learn) < nlist:
        raise UserError(
            f"learn: {learn.path} has {len(learn)} vectors, fewer than --nlist {nlist}; "
            "use more vectors or fewer buckets"
        )
    if ftopk >= len(learn):
        raise UserError(
            f"--ftopk {ftopk}: learn has only {len(learn)} vectors, expected more; choose a smaller --ftopk"
        )
    check_split(learn, ftopk)
    if batch_size > max(len(learn), Config.batch_size):  # the rest of it would be padding
        raise UserError(
            f"--batch_size {batch_size}: learn has only {len(learn)} vectors, expected no more pairs than that; "
            "choose a smaller --batch_size"
        )
