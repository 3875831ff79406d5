"""Every setting of a run and its default: the only home of defaults."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ivfast.errors import UserError

METRICS = ("IP", "L2")
APEX_MODES = ("O1", "O2")
AMP_DTYPES = ("float16", "bfloat16")
BACKENDS = ("jax", "torch")


@dataclass(frozen=True)
class Config:
    """One run. Names and defaults up to `ai_center` are those of the documented command line."""

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
    gpu: int = 0
    seed: int = 1
    log_interval: int = 500
    eval: bool = False
    ai_center: Path | None = None
    backend: str = "jax"
    amp_dtype: str = "float16"
    resume: bool = False

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
    _check_numbers(config)
    if config.eval:
        if config.ai_center is None:
            raise UserError("--eval True needs --ai_center: the ivfast.npy to evaluate")
        return
    if config.ai_center is not None:
        raise UserError("--ai_center is only read with --eval True; add it, or leave --ai_center out")
    if config.learn_name is None:
        raise UserError("--learn_name is missing: which DATA_PATH/LEARN_NAME.npy to train on")
    if len(config.param_list) < 2 or min(config.param_list) < 1:
        raise UserError(f"--param_list {_words(config.param_list)}: expected at least DIM NLIST, all positive")
    if config.param_list[-1] != config.nlist:
        raise UserError(
            f"--param_list ends in {config.param_list[-1]}, but --nlist is {config.nlist}: "
            "the last number must be nlist"
        )
    if config.epochs and config.warmup >= config.epochs:
        raise UserError(f"--warmup {config.warmup} must be less than --epochs {config.epochs}")
    for name, what in (("use_amp", "mixed precision"), ("resume", "checkpoints")):
        if getattr(config, name):
            raise UserError(f"--{name} True comes with {what}, which this version does not have yet")
    if config.start_epoch:
        raise UserError("--start_epoch comes with checkpoints, which this version does not have yet")


def clip(config: Config, given: set[str]) -> Config:
    """Fit the defaults of nprobes and ftopk to nlist.

    raises: UserError where a value that was given is above it
    """
    if "nprobes" in given and max(config.nprobes) > config.nlist:
        raise UserError(f"--nprobes {max(config.nprobes)} is above nlist {config.nlist}")
    if "ftopk" in given and config.ftopk > config.nlist:
        raise UserError(f"--ftopk {config.ftopk} is above nlist {config.nlist}")
    nprobes = tuple(nprobe for nprobe in config.nprobes if nprobe <= config.nlist)
    return replace(config, nprobes=nprobes, ftopk=min(config.ftopk, config.nlist))


def check_percents(config: Config, nlist: int) -> None:
    """Percents must leave each vector its extras: at most min(ftopk, nlist) - 1 each."""
    most = min(config.ftopk, nlist) - 1
    for percent in config.percents:
        if not 0 <= percent <= most:
            raise UserError(f"--percents {percent:g}: expected 0 to {most} (min(ftopk, nlist) - 1 extras a vector)")


def _check_numbers(config: Config) -> None:
    at_least = {
        "warmup": 0, "epochs": 0, "batch_size": 1, "valid_batch_size": 1, "start_epoch": 0,
        "ftopk": 1, "nlist": 1, "niter": 1, "seed": 0, "log_interval": 1, "gpu": -1, "scale": 1,
    }  # fmt: skip
    for name, least in at_least.items():
        if getattr(config, name) < least:
            raise UserError(f"--{name} {getattr(config, name)}: expected {least} or more")
    if not 0 < config.lr < float("inf"):
        raise UserError(f"--lr {config.lr:g}: expected a number above 0")
    if not 0 <= config.drop_prop < 1:
        raise UserError(f"--drop_prop {config.drop_prop:g}: expected 0 <= drop_prop < 1")
    if min(config.nprobes) < 1:
        raise UserError(f"--nprobes {min(config.nprobes)}: expected 1 or more")
    for name in ("data_name", "learn_name"):
        value = getattr(config, name)
        if value is not None and (Path(value).is_absolute() or ".." in Path(value).parts):
            raise UserError(f"--{name} {value}: expected a name below --data_path, without '..'")


def _words(values: tuple[int, ...]) -> str:
    return " ".join(str(value) for value in values)
