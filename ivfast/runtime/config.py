"""Every setting of a run and its default: the only home of defaults."""

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ivfast.method import LARGEST_SCALE, LEVELS, RECALL, SMALLEST_SCALE
from ivfast.runtime.devices import Gpu, check_gpu
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import check_letters, user_path

METRICS = ("IP", "L2")
APEX_MODES = ("O1", "O2")
AMP_DTYPES = ("float16", "bfloat16")
LARGEST_INT = 2**31 - 1  # what FAISS counts and seeds with
LARGEST_LR = 1000  # far above any use; from about 1e30 on float32 overflows
LARGEST_EPOCHS = 99_999  # names of checkpoints have five digits
MOST = dict.fromkeys(("epochs", "warmup", "start_epoch"), LARGEST_EPOCHS) | {"scale": LARGEST_SCALE}
BACKENDS = ("jax", "torch")
AUTO = -(2**31)  # what epochs holds for "auto", until learn is open (see ivfast.train.schedule.auto_epochs)


METRIC_NAMES = {
    ("IP", False): ("ip", "dot", "dotproduct", "inner", "innerproduct", "mip", "metricinnerproduct"),
    ("IP", True): ("cosine", "cos", "cosinesimilarity", "cosinedistance", "angular"),
    ("L2", False): ("l2", "euclidean", "euclid", "euclideandistance", "sqeuclidean", "squaredl2", "metricl2"),
}  # what other tools call metrics, in small letters alone


class Meant(NamedTuple):
    """What to use for a metric of another tool."""

    metric: str
    normalize: bool


def metric_meant(name: object) -> Meant | None:
    """What another tool's name of a metric is here; None where it is not known."""
    plain = re.sub("[^a-z0-9]", "", str(name).lower())
    return next((Meant(*ours) for ours, names in METRIC_NAMES.items() if plain in names), None)


def check_metric_name(name: object) -> None:
    """raises: UserError where it is none of METRICS, with what to take instead"""
    if name not in METRICS:
        meant = metric_meant(name)
        told = f"use metric={meant.metric!r}{', normalize=True' * meant.normalize}" if meant else "correct it"
        raise UserError(f"metric {name!r}: expected {' or '.join(map(repr, METRICS))}; {told}")


@dataclass(frozen=True)
class Config:
    """One run: every setting by the name of its flag, with its unit where `run_dcnet.py --help` says it.

    Names and defaults up to `ai_center` are those of the documented command line.
    """

    save_path: Path
    data_path: Path
    data_name: str
    percents: tuple[float, ...]
    learn_name: str | None = None
    warmup: int = 3
    epochs: int = 20
    metric: str = "IP"
    batch_size: int = 2048
    valid_batch_size: int = 10_000
    start_epoch: int = 0
    lr: float = 0.0005
    use_amp: bool = False
    apex_mode: str = "O2"
    scale: int = 1024
    ftopk: int = 10
    param_list: tuple[int, ...] = (256, 512, 1024, 2048, 8192, 16384)
    use_drop: bool = False
    drop_prop: float = 0.05
    nlist: int = 16_384
    niter: int = 128
    nprobes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32)
    gpu: Gpu = 0
    seed: int = 1
    log_interval: int = 500
    eval: bool = False
    ai_center: Path | None = None
    backend: str = "jax"
    amp_dtype: str = "float16"
    resume: bool = False
    checkpoint_minutes: float = 30.0
    normalize: bool = False
    drop_bad_rows: bool = False
    dry_run: bool = False
    start: Path | None = None
    ties: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    query_log: str | None = None
    recall: float = RECALL

    def __post_init__(self) -> None:
        """Take paths as text, lists for tuples, "auto", and numbers written twice, as callers write them.

        raises: UserError on ~ of a home that is not known
        """
        if self.epochs == "auto":
            object.__setattr__(self, "epochs", AUTO)
        for name in ("save_path", "data_path", "ai_center", "start"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, user_path(path))
        for name in ("data_name", "learn_name", "query_log"):
            if value := getattr(self, name):  # one name for one folder: without a slash at its end
                object.__setattr__(self, name, str(Path(value)))
        for name in ("percents", "param_list", "nprobes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("percents", "nprobes"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))

    @property
    def dim(self) -> int:
        """Entries of a vector, the first number of param_list."""
        return self.param_list[0]

    @property
    def deep(self) -> bool:
        """Whether there is a deep path: param_list has more than its two ends."""
        return len(self.param_list) > 2

    def as_dict(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


DEFAULTS = {
    field.name: field.default
    for field in fields(Config)
    if field.name not in ("save_path", "data_path", "data_name", "percents")
}


def check(config: Config) -> None:
    """Refuse settings that no data could make right.

    raises: UserError naming the flag, what was found and what is expected
    """
    check_metric_name(config.metric)
    _check_numbers(config)
    _check_names(config)
    if config.eval:
        if config.ai_center is None:
            raise UserError("--eval True needs --ai_center: the ivfast.npy to evaluate")
        if config.resume or config.start_epoch:
            raise UserError("--resume and --start_epoch continue a training: leave them out with --eval True")
        if config.dry_run:
            raise UserError("--dry_run tells what a training will take: leave it out with --eval True")
        if config.start is not None:
            raise UserError("--start is where a training starts: leave it out with --eval True")
        if config.query_log is not None:
            raise UserError("--query_log is what a training learns from: leave it out with --eval True")
        return
    if config.ai_center is not None:
        raise UserError("--ai_center is only read with --eval True; add it, or leave --ai_center out")
    if config.learn_name is None:
        raise UserError("--learn_name is missing: which DATA_PATH/LEARN_NAME.npy to train on")
    if len(config.param_list) < 2 or min(config.param_list) < 1:
        raise UserError(
            f"--param_list {_words(config.param_list)}: expected at least DIM NLIST, all positive; "
            "begin it with the vectors' dim"
        )
    if max(config.param_list) > LARGEST_INT:
        raise UserError(f"--param_list {max(config.param_list)}: expected widths of at most {LARGEST_INT}; correct it")
    if config.param_list[-1] != config.nlist:
        raise UserError(
            f"--param_list ends in {config.param_list[-1]}, but --nlist is {config.nlist}: "
            "the last number must be nlist"
        )
    check_normalize(config, config.metric)
    if config.epochs not in (0, AUTO) and config.warmup >= config.epochs:
        raise UserError(f"--warmup {config.warmup} must be less than --epochs {config.epochs}; lower it")
    if config.epochs != AUTO and config.start_epoch > config.epochs:
        raise UserError(f"--start_epoch {config.start_epoch} is above --epochs {config.epochs}")
    if config.resume and config.start_epoch:
        raise UserError("--resume True continues from the newest checkpoint: leave --start_epoch out, or --resume")
    if not 0 < config.checkpoint_minutes < float("inf"):
        raise UserError(f"--checkpoint_minutes {config.checkpoint_minutes:g}: expected a number above 0")


def clip(config: Config, given: set[str]) -> Config:
    """Fit the defaults of nprobes and ftopk to nlist.

    raises: UserError where a value that was given is above it
    """
    if "nprobes" in given and max(config.nprobes) > config.nlist:
        raise UserError(
            f"--nprobes {max(config.nprobes)} is above nlist {config.nlist}: expected 1 to {config.nlist}; "
            "leave the larger ones out"
        )
    if "ftopk" in given and config.ftopk > config.nlist:
        raise UserError(
            f"--ftopk {config.ftopk} is above nlist {config.nlist}: expected 1 to {config.nlist}; choose a smaller one"
        )
    nprobes = tuple(nprobe for nprobe in config.nprobes if nprobe <= config.nlist)
    return replace(config, nprobes=nprobes, ftopk=min(config.ftopk, config.nlist))


def check_percents(config: Config, nlist: int) -> None:
    """Percents must leave each vector its extras: at most min(ftopk, nlist) - 1 each."""
    most = min(config.ftopk, nlist) - 1
    for percent in config.percents:
        if not 0 <= percent <= most:
            raise UserError(
                f"--percents {percent:g}: expected 0 to {most} (min(ftopk, nlist) - 1 extras a vector); "
                "choose a smaller ratio or a larger --ftopk"
            )


def _check_numbers(config: Config) -> None:
    at_least = {
        "warmup": 0, "epochs": 0, "batch_size": 1, "valid_batch_size": 1, "start_epoch": 0,
        "ftopk": 1, "nlist": 1, "niter": 1, "seed": 0, "log_interval": 1, "scale": SMALLEST_SCALE,
    }  # fmt: skip
    for name, least in at_least.items():
        if getattr(config, name) < least and (name, getattr(config, name)) != ("epochs", AUTO):
            raise UserError(f"--{name} {getattr(config, name)}: expected {least} or more; correct it")
        if getattr(config, name) > (most := MOST.get(name, LARGEST_INT)):
            raise UserError(f"--{name} {getattr(config, name)}: expected at most {most}; correct it")
    check_gpu(config.gpu)
    if config.recall not in LEVELS:
        raise UserError(f"--recall {config.recall:g}: expected {', '.join(f'{one:.2f}' for one in LEVELS)}; choose one")
    if config.scale & (config.scale - 1):
        raise UserError(
            f"--scale {config.scale}: expected a power of two from {SMALLEST_SCALE} to {LARGEST_SCALE}, such as 1024; "
            "correct it"
        )
    if not 0 < config.lr <= LARGEST_LR:
        raise UserError(
            f"--lr {config.lr:g}: expected a number above 0, at most {LARGEST_LR}, such as 2e-3; correct it"
        )
    if not 0 <= config.drop_prop < 1:
        raise UserError(f"--drop_prop {config.drop_prop:g}: expected 0 <= drop_prop < 1, such as 0.05; correct it")
    if min(config.nprobes) < 1:
        raise UserError(f"--nprobes {min(config.nprobes)}: expected 1 to nlist; correct it")


def _check_names(config: Config) -> None:
    for name in ("data_name", "learn_name", "query_log"):
        value = getattr(config, name)
        if value is None:
            continue
        check_letters(value, f"--{name}")
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise UserError(
                f"--{name} {value}: expected a name below --data_path, without '..'; put the folder into --data_path"
            )
        if not value:
            raise UserError(f"--{name} {value!r}: expected a name below --data_path; write one")


def check_normalize(config: Config, metric: str) -> None:
    """Unit norm belongs to IP: under L2 it would change every distance."""
    if config.normalize and metric != "IP":
        raise UserError(
            f"--normalize True with --metric {metric}: expected --metric IP, since it would change every distance; "
            "leave --normalize out, or use --metric IP"
        )


def _words(values: tuple[int, ...]) -> str:
    return " ".join(str(value) for value in values)
