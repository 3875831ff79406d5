"""From vectors to a trained model in one call: sizes chosen, queries set aside, trained, remembered."""

import json
import shutil
import weakref
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np

from ivfast.commands import train_centers
from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.twins import distinct_rows
from ivfast.data.vectors import FLOATS, Points, Vectors, measure_space
from ivfast.front.aside import NAME, remember, set_aside, write_run_files
from ivfast.front.sizes import choose_backend, choose_metric, choose_nlist
from ivfast.index.load import load
from ivfast.index.model import TO_CALLERS, WHOLE, TrainedModel
from ivfast.network.backend import load_search
from ivfast.runtime.checkpoint import checkpoints_in
from ivfast.runtime.config import BACKENDS, Config, check
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress, silent
from ivfast.start.descent import Means, check_descent
from ivfast.start.neighbors import LIMITS
from ivfast.train.schedule import auto_warmup

LR = 2e-3  # a good peak on every set that was tried
LEAST = 1000  # vectors: below, searching all of them is as fast as anything


class Settings(NamedTuple):
    """What `fit` was asked for beside the base."""

    nlist: int | None = None
    metric: str | None = None
    copies: float = 0.8
    normalize: bool = False
    backend: str | None = None
    gpu: int = -1
    seed: int = 1
    more: dict[str, Any] | None = None  # further settings by the names of run_dcnet.py's flags


def fit(
    base: np.ndarray, nlist: int | None = None, *, metric: str | None = None, copies: float = 0.8,
    query: np.ndarray | None = None, save_path: Path | str | None = None, normalize: bool = False,
    backend: str | None = None, gpu: int = -1, seed: int = 1, progress: Progress | None = None, **more: Any,
) -> TrainedModel:  # fmt: skip
    """Train the centers of an index of base, in-sample.

    Some rows of base are set aside before: on up to 2,000 of them `model.index` measures which recall takes what, and
    up to 2,000 more are the queries of the evaluation in save_path where none are given.

    base: (n, dim) array or memory map, floats or 8- and 16-bit integers
    nlist: buckets; None: about 4 sqrt(n), with 200 vectors each
    metric: IP (inner product of unit rows) or L2; None: IP where all rows are of unit norm
    copies: extra entries that `model.index` may store, over all vectors
    query: (m, dim), real queries to evaluate with
    save_path: folder of all that is written, kept; a call that was interrupted goes on there. None: a temporary one,
        until `model.save`
    normalize: divide rows by their norms first, under IP
    backend: jax or torch; None: what is installed; gpu: -1 is the CPU
    more: further settings by the names of run_dcnet.py's flags: epochs, lr, ftopk, param_list, use_amp, ..
    raises: UserError on input that cannot be right

    >>> model = ivfast.fit(base, nlist=16, epochs=2)
    >>> model.centers.shape
    (16, 16)
    """
    folder = Path(mkdtemp(prefix="ivfast_")) if save_path is None else Path(save_path).expanduser()
    settings = Settings(nlist, metric, copies, normalize, backend, gpu, seed, more)
    try:
        model = _fit(folder, base, query, settings, progress or silent())
    except BaseException:
        if save_path is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if save_path is None:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model


def _fit(folder: Path, base: np.ndarray, query: np.ndarray | None, settings: Settings, shown: Progress) -> TrainedModel:
    points = admit(as_floats(base, "base"), settings, shown)
    asked = None if query is None else as_floats(query, "query")
    aside = set_aside(distinct_rows(points.vectors), settings.seed, test=query is None)
    if asked is not None:
        asked = check_queries(asked, points, normalize=settings.normalize)
    config, given = make_config(folder, points, settings)
    check(config)
    refuse_other_base(folder, points)
    if len(points) > LIMITS.exact_learn:
        check_descent(points.vectors, Means(search=load_search(config.backend, config.gpu)))
    write_run_files(folder, points, aside, asked, shown)
    train_centers(config, shown, given)
    facts = {"base_digest": points.vectors.digest, "n": len(points), "copies": settings.copies}
    remember(folder, aside, facts)
    model = load(config.save_path, config.backend, settings.gpu)
    model.trained_on = points.vectors.rows
    return model


def refuse_other_base(folder: Path, base: Points) -> None:
    """raises: UserError where the folder holds the work of another base, before anything in it is written"""
    about = folder / "fit.json"
    if not about.is_file():
        return
    try:
        digest = json.loads(about.read_text(encoding="utf-8"))["base_digest"]
    except (OSError, ValueError, LookupError, TypeError) as problem:
        raise UserError(f"{about} cannot be read ({problem}); choose another --save_path, or remove it") from None
    if digest != base.vectors.digest:
        raise UserError(f"--save_path {folder}: it holds what was made of another base; choose another --save_path")


def check_queries(query: np.ndarray, base: Points, *, normalize: bool) -> np.ndarray:
    """Queries that fit base.

    raises: UserError on another dim, NaN or infinity
    """
    if query.shape[1] != base.dim:
        raise UserError(f"query: found {query.shape[1]} entries a row, expected {base.dim}, as base has; correct it")
    raw = Vectors("query", Path("(array)"), query)
    return scan(raw, base.metric, silent(), Cleaning(normalize), TO_CALLERS).raw(slice(None))


def as_floats(vectors: np.ndarray, name: str) -> np.ndarray:
    """Vectors as floats: integers that float32 holds exactly are taken as such.

    raises: UserError on another shape or type
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or 0 in rows.shape:
        raise UserError(f"{name}: found shape {rows.shape}, expected (n, dim), both above 0; reshape it")
    if rows.dtype.name in WHOLE:
        return rows.astype(np.float32)
    if rows.dtype.name not in FLOATS:
        raise UserError(f"{name}: found {rows.dtype}, expected floats or small integers; use .astype('float32')")
    return rows


def admit(rows: np.ndarray, settings: Settings, progress: Progress) -> Points:
    """Check base and choose its metric.

    raises: UserError on too few rows, or on rows that the metric can't take
    """
    if len(rows) < LEAST:
        raise UserError(
            f"base: found {len(rows):,} vectors, expected {LEAST:,} or more: search so few with faiss.IndexFlat"
        )
    if settings.metric not in (None, "IP", "L2"):
        raise UserError(f"metric {settings.metric!r}: expected 'IP' or 'L2'; correct it")
    metric = settings.metric or ("IP" if settings.normalize else choose_metric(rows))
    if settings.normalize and metric == "L2":
        raise UserError("normalize: it would change every distance under L2; leave it out, or use metric 'IP'")
    if settings.metric is None:
        progress.note(f"metric {metric}: {'all rows are of unit norm' if metric == 'IP' else 'norms of rows differ'}")
    raw = Vectors("base", Path("(array)"), rows)
    scanned = scan(raw, metric, progress, Cleaning(settings.normalize), TO_CALLERS)
    return Points(scanned, measure_space(scanned, metric))


def make_config(folder: Path, base: Points, settings: Settings) -> tuple[Config, Iterable[str]]:
    """The settings of the training run, and the names of those that were chosen."""
    more = dict(settings.more or {})
    own = {"save_path", "data_path", "data_name", "learn_name", "percents", "resume", "eval", "ai_center", "dry_run"}
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
        save_path=folder, data_path=folder, data_name=NAME, learn_name=f"{NAME}/base", percents=copies,
        metric=base.metric, nlist=nlist, backend=settings.backend or choose_backend(), gpu=settings.gpu,
        seed=settings.seed, normalize=settings.normalize, resume=bool(checkpoints_in(folder)), **values,
    )  # fmt: skip
    return config, {"lr", "gpu", "epochs", "nlist", "normalize", *more}
