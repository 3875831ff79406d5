"""The two commands of run_dcnet.py, told from first line to last: train and evaluate."""

import time
from dataclasses import replace

import numpy as np

from ivfast.data.intake import cleaning, scan_set
from ivfast.data.vectors import EvaluationSet, Vectors, open_evaluation_set
from ivfast.evaluate import report
from ivfast.evaluate.folder import Found, find_model
from ivfast.evaluate.refit import Fitting, make_settings, open_learn, space_for
from ivfast.evaluate.results import Result, evaluate_router
from ivfast.runtime.checkpoint import Saved, at_hand, checkpoint_folder, load_epoch, load_newest
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import Config, check, check_percents, clip
from ivfast.runtime.errors import RunError, StopRequestedError, UserError
from ivfast.runtime.files import remove_leftovers
from ivfast.runtime.lock import locked
from ivfast.runtime.progress import Progress
from ivfast.runtime.signals import handled
from ivfast.store.demand import reverse_of_base
from ivfast.train.epochs import resume, start_point, train_epoch
from ivfast.train.finish import export
from ivfast.train.point import refuse_others
from ivfast.train.run import start_run


def main(argv: list[str] | None = None) -> int:
    """Run one command line.

    returns: exit code: 0 done, 1 the run failed, 2 the input is wrong, 128 + n stopped by signal n
    """
    progress, how = Progress(), "continue with --resume True"
    try:
        config, given = parse(argv)
        check(config)
        if config.eval:
            how = "run it again"
        with handled(), locked(config.save_path, progress):
            progress = Progress(config.save_path)
            _run(config, given, progress)
    except UserError as wrong:
        progress.note(f"error: {wrong}")
        return 2
    except RunError as failed:
        progress.note(f"error: {failed}")
        return 1
    except StopRequestedError as stop:
        progress.note(f"{stop}; {how}")
        return 128 + stop.number
    return 0


def _run(config: Config, given: set[str], progress: Progress) -> None:
    for name in ("lr", "gpu"):
        if name not in given and not (config.eval and name == "lr"):
            progress.note(f"--{name} is not given: {getattr(config, name)} is used")
    if config.eval:
        found = find_model(config, given)
        evaluate(clip(found.settings(config), given), found, progress)
    else:
        train(clip(config, given), progress)


def train(config: Config, progress: Progress) -> None:
    """Train on LEARN_NAME, write ivfast.npy and dcnet.safetensors, evaluate on DATA_NAME.

    raises: UserError on input that cannot be right, before anything but the log is written
    """
    check_percents(config, config.nlist)
    _refuse_used(config)
    remove_leftovers(config.save_path)
    started = time.monotonic()
    saved = pick_up(config, progress)
    run = start_run(config, progress, saved)
    point = start_point(run)
    if saved is not None:
        point = resume(run, point, saved)
    while point.epoch < config.epochs:
        point = train_epoch(run, point)
    export(run, point)
    found = find_model(replace(config, eval=True, ai_center=config.save_path / "ivfast.npy"), set())
    evaluate(config, found, progress, run.prepared.learn, run.data)
    progress.note(f"done in {time.monotonic() - started:.0f} s; centers: {config.save_path / 'ivfast.npy'}")


def _refuse_used(config: Config) -> None:
    if at_hand(config.save_path) and not (config.resume or config.start_epoch):
        raise UserError(
            f"--save_path {config.save_path} holds checkpoints of an earlier run: continue it with --resume True, "
            f"choose another --save_path, or remove {checkpoint_folder(config.save_path)}"
        )


def pick_up(config: Config, progress: Progress) -> Saved | None:
    """The checkpoint to continue from; None where a run starts anew.

    raises: UserError where none is whole, or it is of other settings
    """
    if not (config.resume or config.start_epoch):
        return None
    if config.resume and not at_hand(config.save_path):
        progress.note(f"{checkpoint_folder(config.save_path)} holds no checkpoint yet: training begins anew")
        return None
    saved = (
        load_newest(config.save_path, progress) if config.resume else load_epoch(config.save_path, config.start_epoch)
    )
    refuse_others(saved, config, None)
    return saved


def evaluate(
    config: Config, found: Found, progress: Progress, scanned_learn: Vectors | None = None,
    scanned_data: EvaluationSet | None = None,
) -> list[Result]:  # fmt: skip
    """Evaluate every router found on DATA_NAME and write the report into save_path.

    scanned_*: where they were opened and scanned already
    """
    nlist, dim = found.centers.shape
    check_percents(config, nlist)
    data = scanned_data
    if data is None:
        data = open_evaluation_set(config.data_path, config.data_name, dim)
        data = scan_set(data, found.metric, progress, cleaning(config))
    if found.model is None and (beside := found.path.parent / "dcnet.safetensors").is_file():
        progress.note(f"{beside} belongs to another {found.path.name}: its net and what was fitted are left out")
    learn = scanned_learn or open_learn(config, found, progress)
    space = space_for(found, learn)
    fitting = Fitting(config, found, space, learn) if learn else None
    routers = make_settings(config, found, space, fitting)
    nprobes = tuple(p for p in config.nprobes if p <= nlist)
    width = min(config.ftopk, nlist)
    reverse = None
    if fitting and any(setting.needs_demand for setting in routers) and len(data.base) > 1:
        reverse = reverse_of_base(config, data.base, space, fitting.asking, progress)
    results = []
    for setting in routers:
        results += evaluate_router(setting, data, space, width, nprobes, config.valid_batch_size, progress, reverse)
    about = found.model.about if found.model else {}
    is_kmeans = found.kmeans is not None and np.array_equal(found.centers, found.kmeans)
    report.write(config, data, results, about, progress, is_kmeans=is_kmeans)
    return results
