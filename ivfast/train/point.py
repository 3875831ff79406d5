"""How a run is written down between two steps, and picked up again to the bit."""

from typing import Any, NamedTuple

import numpy as np

from ivfast.choose.verdict import Choice
from ivfast.network.backend import Backend, Goal, blocks_of
from ivfast.runtime.checkpoint import Saved
from ivfast.runtime.config import AUTO, Config
from ivfast.runtime.errors import UserError

WHERE = (  # settings that say where and how fast, not what
    "save_path", "data_path", "log_interval", "valid_batch_size", "gpu", "resume", "start_epoch", "checkpoint_minutes",
    "coordinator", "num_processes", "process_id",
    "dry_run", "start",
)  # fmt: skip
JUDGING_VERSION = 4  # raised where pairs are drawn, or epochs judged, in another way than before
FREE = (*WHERE, "data_name", "nprobes", "eval", "ai_center", "backend", "ties")  # may differ on resume


class Point(NamedTuple):
    """Where a run stands."""

    epoch: int  # finished epochs
    step: int  # steps done of the next
    state: Any  # of the backend
    goal: Goal  # of the next epoch
    choices: dict[str, Choice]  # by router


def settings_that_bind(config: Config) -> dict[str, Any]:
    """What must be equal on resume."""
    return {name: value for name, value in config.as_dict().items() if name not in FREE}


def pack(
    point: Point, backend: Backend, config: Config, learn_digest: str, near_by: dict[str, object] | None = None,
    started_at: str | None = None,
) -> Saved:  # fmt: skip
    """Everything that the rest of the run depends on.

    near_by: how near vectors were found, where that can differ; started_at: digest of a given start
    """
    arrays = backend.state_dict(point.state)
    choices = {}
    for router, choice in point.choices.items():
        best = choice.best
        choices[router] = {
            "values": list(choice.values),
            "least": choice.least if best else None,
            "best": {"epoch": best.epoch, "k": best.k} if best else None,
        }
        if best:
            arrays |= {f"best.{router}/{name}": value for name, value in best.arrays.items()}
    about = {
        "rules": JUDGING_VERSION,
        "goal": point.goal._asdict(),
        "choices": choices,
        "settings": settings_that_bind(config),
        "learn": learn_digest,
        "near_by": near_by,
    }
    if backend.setup.blocks is not None:
        about["blocks"] = _plain(backend.setup.blocks)
    if started_at:
        about["start"] = started_at
    return Saved(point.epoch, point.step, arrays, about)


def refuse_others(saved: Saved, config: Config, learn_digest: str | None) -> None:
    """raises: UserError where the checkpoint is of other data or settings, naming them

    learn_digest: None where learn is not read yet: settings alone
    """
    other_version = UserError(
        "the checkpoint is of another version of ivfast, which drew pairs or judged epochs in another way: "
        "continue it with that version, or start anew elsewhere"
    )
    if saved.about.get("rules") != JUDGING_VERSION:
        raise other_version
    now = settings_that_bind(config)
    then = saved.about["settings"]
    if config.epochs == AUTO:  # found anew from the same sizes
        now |= {"epochs": then["epochs"], "warmup": then["warmup"]}
    differing = [
        f"--{name} {now.get(name)} (was {then.get(name)})"
        for name in sorted({*now, *then})
        if _plain(now.get(name)) != _plain(then.get(name))
    ]
    if learn_digest is not None and saved.about["learn"] != learn_digest:
        differing.append("the learn vectors" if config.query_log is None else "the vectors of learn or of --query_log")
    if differing:
        hint = (
            "; --epochs can't change, since the learning rate's cosine ends there"
            if now["epochs"] != then["epochs"]
            else ""
        )
        raise UserError(
            f"the checkpoint is of another configuration: {', '.join(differing)}{hint}; start anew elsewhere"
        )
    if saved.about.get("blocks") != _plain(blocks_of(config.nlist, config.batch_size)):
        raise other_version


def refuse_other_start(saved: Saved, started_at: str | None) -> None:
    """raises: UserError where the run started elsewhere. started_at: digest of the start; None: k-means"""
    then = saved.about.get("start")
    if then != started_at:
        was = "other centers" if then else "k-means"
        raise UserError(
            f"--start: the checkpoint's run began at {was}, expected the same; give what it was given, or start anew "
            "elsewhere"
        )


def refuse_other_search(saved: Saved, near_by: dict[str, object] | None) -> None:
    """raises: UserError where the run found near vectors in another way: it would go on with other pairs"""
    then = saved.about.get("near_by", near_by)
    if then == near_by:
        return
    if then is not None and near_by is not None and then["device"] == near_by["device"]:
        raise UserError(f"the checkpoint's neighbours were found by {then}, not {near_by}: install the same version")
    sign = "0 or above, as before" if then and then["device"] else "-1, as before"
    raise UserError(
        "--gpu: of so many vectors a CPU and an accelerator find other neighbours, so that the rest of the run would "
        f"see other pairs; resume with --gpu {sign}, or start anew elsewhere"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def best_params(saved: Saved, router: str) -> dict[str, np.ndarray]:
    """Weights of a router's best epoch."""
    prefix = f"best.{router}/"
    return {name.removeprefix(prefix): value for name, value in saved.arrays.items() if name.startswith(prefix)}


def state_arrays(saved: Saved) -> dict[str, np.ndarray]:
    """What Backend.from_state_dict takes."""
    return {name: value for name, value in saved.arrays.items() if not name.startswith("best.")}
