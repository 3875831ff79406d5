"""From vectors to a trained model in one call: sizes chosen, queries set aside, trained, remembered."""

import shutil
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np

from ivfast.commands import pick_up, train_centers
from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.far import check_unit, without_far
from ivfast.data.npy import path_of
from ivfast.data.query_log import refuse_few
from ivfast.data.twins import distinct_rows
from ivfast.data.vectors import Points, Vectors, float_rows, measure_space
from ivfast.front.aside import LOG_NAME, set_aside, write_run_files
from ivfast.front.given import Given, Start, open_given
from ivfast.front.sizes import choose_backend, choose_metric, choose_nlist
from ivfast.index.fit_file import DATA_NAME, FIT_NAME, FitFacts, read_fit, save_fit
from ivfast.index.load import load
from ivfast.index.model import TrainedModel
from ivfast.index.placing_model import TO_CALLERS
from ivfast.network.backend import load_search
from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.config import BACKENDS, Config, check, check_metric_name
from ivfast.runtime.devices import Gpu
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import no_temporary, save_array, user_path
from ivfast.runtime.own_files import EVALUATED, TRAINED, refuse_in_the_way, refuse_not_ours
from ivfast.runtime.progress import Progress, silent
from ivfast.start.descent import Means, check_descent
from ivfast.start.neighbors import LIMITS
from ivfast.train.schedule import auto_warmup

LR = 2e-3  # a good peak on every set that was tried
NO_QUERY = (
    "query_log is given without query: expected real queries to evaluate with, none of them in the log; leave some of "
    "the log out, and hand them over as query"
)
LEAST = 1000  # vectors: below, searching all of them is as fast as anything


class Queries(NamedTuple):
    """Real queries that `fit` was handed, each (m, dim) floats; None: none were."""

    test: np.ndarray | None = None  # to evaluate with
    log: np.ndarray | None = None  # to learn from


class Settings(NamedTuple):
    """What `fit` was asked for beside the vectors."""

    nlist: int | None = None
    metric: str | None = None
    copies: float = 0.8
    normalize: bool = False
    backend: str | None = None
    gpu: Gpu = -1
    seed: int = 1
    start: Start | None = None
    more: dict[str, Any] | None = None  # further settings by the names of run_dcnet.py's flags


def fit(
    base: np.ndarray, nlist: int | None = None, *, metric: str | None = None, copies: float = 0.8,
    query: np.ndarray | None = None, save_path: Path | str | None = None, normalize: bool = False,
    query_log: np.ndarray | None = None, start: Start | None = None, backend: str | None = None, gpu: Gpu = -1,
    seed: int = 1, progress: Progress | None = None, **more: Any,
) -> TrainedModel:  # fmt: skip
    """Train the centers of an index of base, in-sample.

    Some rows of base are set aside before: on up to 2,000 of them `model.index` measures which recall takes what (with
    a log that trains, on its held-out queries), and up to 2,000 more are the queries of the evaluation in save_path
    where none are given.

    base: (n, dim) array or memory map, floats or 8- and 16-bit integers
    nlist: buckets; None: about 4 sqrt(n), with 200 vectors each
    metric: IP (inner product of unit rows) or L2; None: IP where all rows are of unit norm
    copies: extra entries that `model.index` may store, over all vectors
    query: (m, dim), real queries to evaluate with
    save_path: folder of all that is written, kept; a call that was interrupted goes on there. None: a temporary one,
        until `model.save`
    normalize: divide rows by their norms first, under IP
    query_log: (l, dim), a hundred or more real queries to learn from as well, where they are of another kind than base;
        query must be given too, and hold none of them
    start: where training starts instead of k-means, for a base that has grown: an earlier model, the folder of a fit
        or run, an .npy of centers, or (nlist, dim) floats; nlist and metric are its own
    backend: jax or torch; None: what is installed and not broken; gpu: -1 is the CPU;
        numbers of several GPUs, or "all": JAX trains on all of them
    more: further settings by the names of run_dcnet.py's flags: epochs, lr, ftopk, param_list, use_amp, ..
    raises: UserError on input that cannot be right

    >>> model = ivfast.fit(base, nlist=16, epochs=2)
    >>> model.centers.shape
    (16, 16)
    """
    folder = _temporary() if save_path is None else user_path(save_path)
    settings = Settings(nlist, metric, copies, normalize, backend, gpu, seed, start, more)
    try:
        model = _fit(folder, base, Queries(query, query_log), settings, progress or silent())
    except BaseException:
        if save_path is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if save_path is None:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model


def _temporary() -> Path:
    try:
        return Path(mkdtemp(prefix="ivfast_"))
    except OSError as problem:
        raise no_temporary(problem) from None


def _fit(folder: Path, base: np.ndarray, queries: Queries, settings: Settings, shown: Progress) -> TrainedModel:
    if queries.log is not None and queries.test is None:
        raise UserError(NO_QUERY)
    refuse_in_the_way(folder, (*TRAINED, FIT_NAME), ("cache", "checkpoints", DATA_NAME))
    refuse_not_ours(folder, (*TRAINED, *EVALUATED))
    start = None if settings.start is None else open_given(settings.start)
    if start:
        settings = as_started(start, settings)
    points = admit(float_rows(base, "base"), settings, shown)
    check_unit(points.space, "base: rows")
    if start:
        start.check(points)
    asked = check_queries(queries, points, normalize=settings.normalize)
    config, given = make_config(folder, points, settings, shown)
    if asked.log is not None:
        config = replace(config, query_log=f"{DATA_NAME}/{LOG_NAME}")
    if start:
        config = replace(config, start=folder / DATA_NAME / "start.npy")
    check(config)
    refuse_other_base(folder, points)
    pick_up(config, silent())  # refuses other settings before anything is written
    aside = set_aside(distinct_rows(points.vectors), settings.seed, test=asked.test is None)
    if len(points) > LIMITS.exact_learn:
        check_descent(points.vectors, Means(search=load_search(config.backend, config.gpu)))
    write_run_files(folder, points, aside, asked.test, shown, asked.log)
    if start:
        save_array(folder / DATA_NAME / "start.npy", start.centers)
    train_centers(config, shown, given)
    save_fit(folder, FitFacts(points.vectors.digest, len(points), settings.copies, aside.calibrate, aside.test))
    model = load(config.save_path, config.backend, settings.gpu)
    model.trained_on = points.vectors
    return model


def as_started(start: Given, settings: Settings) -> Settings:
    """Settings with the number of buckets and the metric of the start.

    raises: UserError where others were asked for
    """
    nlist, metric = len(start.centers), start.metric
    if settings.nlist not in (None, nlist):
        raise UserError(f"nlist {settings.nlist}: {start.name} has {nlist} centers; leave nlist out")
    if metric and settings.metric not in (None, metric):
        raise UserError(f"metric {settings.metric}: {start.name} was trained for {metric}; leave metric out")
    return settings._replace(nlist=nlist, metric=metric or settings.metric)


def refuse_other_base(folder: Path, base: Points) -> None:
    """raises: UserError where the folder holds the work of another base, before anything in it is written"""
    fitted = read_fit(folder)
    if fitted is not None and fitted.base_digest != base.vectors.digest:
        raise UserError(f"--save_path {folder}: it holds what was made of another base; choose another --save_path")


def check_queries(queries: Queries, base: Points, *, normalize: bool) -> Queries:
    """Queries that fit base, as stored.

    raises: UserError on another dim or type, NaN or infinity, a log of too few queries
    """

    def checked(rows: np.ndarray | None, name: str) -> Vectors | None:
        if rows is None:
            return None
        raw = Vectors(name, path_of(rows), float_rows(rows, name, base.dim))
        return scan(raw, base.metric, silent(), Cleaning(normalize), TO_CALLERS)

    test, log = checked(queries.test, "query"), checked(queries.log, "query_log")
    if log is not None:
        refuse_few(log, len(distinct_rows(without_far(log)).rows))
    return Queries(*(None if one is None else one.raw(slice(None)) for one in (test, log)))


def admit(rows: np.ndarray, settings: Settings, progress: Progress) -> Points:
    """Check base and choose its metric.

    raises: UserError on too few rows, or on rows that the metric can't take
    """
    if len(rows) < LEAST:
        raise UserError(
            f"base: found {len(rows):,} vectors, expected {LEAST:,} or more: search so few with faiss.IndexFlat"
        )
    if settings.metric is not None:
        check_metric_name(settings.metric)
    metric = settings.metric or ("IP" if settings.normalize else choose_metric(rows))
    if settings.normalize and metric == "L2":
        raise UserError("normalize: it would change every distance under L2; leave it out, or use metric 'IP'")
    if settings.metric is None:
        progress.note(f"metric {metric}: {'all rows are of unit norm' if metric == 'IP' else 'norms of rows differ'}")
    raw = Vectors("base", path_of(rows), rows)
    scanned = scan(raw, metric, progress, Cleaning(settings.normalize), TO_CALLERS)
    return Points(scanned, measure_space(without_far(scanned), metric))


def make_config(folder: Path, base: Points, settings: Settings, progress: Progress) -> tuple[Config, Iterable[str]]:
    """The settings of the training run, and the names of those that were chosen."""
    more = dict(settings.more or {})
    own = {
        "save_path",
        "data_path",
        "data_name",
        "learn_name",
        "percents",
        "resume",
        "eval",
        "ai_center",
        "dry_run",
        "start",
    }
    if unknown := sorted(set(more) - (set(Config.__dataclass_fields__) - own)):
        raise UserError(f"{unknown[0]}: not a setting of fit; expected its own, or the name of a flag of run_dcnet.py")
    if settings.backend not in (None, *BACKENDS):
        raise UserError(f"backend {settings.backend!r}: expected 'jax' or 'torch'; correct it")
    nlist = choose_nlist(len(base)) if settings.nlist is None else settings.nlist
    values = {"epochs": "auto", "lr": LR, "param_list": (base.dim, nlist)} | more
    if isinstance(n_epochs := values["epochs"], int):
        values = {"warmup": min(auto_warmup(Config.warmup, n_epochs), max(n_epochs - 1, 0))} | values
    copies = tuple(dict.fromkeys((0.0, settings.copies)))
    config = Config(
        save_path=folder, data_path=folder, data_name=DATA_NAME, learn_name=f"{DATA_NAME}/base", percents=copies,
        metric=base.metric, nlist=nlist, backend=settings.backend or choose_backend(progress), gpu=settings.gpu,
        seed=settings.seed, normalize=settings.normalize, resume=bool(checkpoints_in(folder)), **values,
    )  # fmt: skip
    return config, {"lr", "gpu", "epochs", "nlist", "normalize", "backend", *more}
