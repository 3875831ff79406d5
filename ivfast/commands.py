"""The two commands of run_dcnet.py, from first line to last: train and evaluate."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ivfast.data.vectors import learn_path
from ivfast.evaluate.folder import find_model
from ivfast.evaluate.result import Result
from ivfast.evaluate.run import evaluate_found
from ivfast.index.load import load
from ivfast.index.model import TrainedModel
from ivfast.method import SURE_RECALL
from ivfast.network.hosts import Group, check_hosts, is_among_several, joined
from ivfast.network.precision import precision_name
from ivfast.network.usable import usable_backend
from ivfast.runtime.checkpoint import Saved, checkpoint_folder, checkpoints_in, load_epoch, load_newest
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import DEFAULTS, Config, check, check_percents, clip
from ivfast.runtime.devices import on_cpu
from ivfast.runtime.errors import RunError, StopRequestedError, UserError, in_words, no_memory
from ivfast.runtime.files import free_space, remove_leftovers
from ivfast.runtime.lock import locked
from ivfast.runtime.own_files import EVALUATED, TRAINED, refuse_not_ours, refuse_own
from ivfast.runtime.own_process import prepare_jax
from ivfast.runtime.progress import Progress
from ivfast.runtime.quota import about_threads, within_quota
from ivfast.runtime.signals import UNHEARD, handled
from ivfast.runtime.watched import is_watched, run_watched
from ivfast.train.admit import note_few, open_training, with_epochs
from ivfast.train.disk import bytes_by_stage
from ivfast.train.epochs import resume, start_point, train_epoch
from ivfast.train.finish import export
from ivfast.train.follow import follow, prepared
from ivfast.train.plan import Sizes, in_all, plan, table
from ivfast.train.point import refuse_others
from ivfast.train.rates import measure_rates
from ivfast.train.run import start_run


def main(argv: list[str] | None = None) -> int:
    """Run one command line.

    argv: None: the words of the shell, in a process that is ours (see ivfast.runtime.own_process)
    returns: exit code: 0 done, 1 the run failed, 2 the input is wrong, 128 + n stopped by signal n
    """
    progress = Progress()
    try:
        config, given = parse(argv)
        if argv is None:
            if is_among_several(config, scheduled=True) and not is_watched():
                return run_watched(progress.say)
            prepare_jax(config.gpu)
        with handled() as heard, within_quota():
            if not heard:
                progress.say(UNHEARD)
            if config.eval:
                evaluate_centers(config, progress, given)
            else:
                _run_training(config, progress, given, scheduled=argv is None)
    except UserError as wrong:
        progress.note(f"error: {wrong}")
        return 2
    except (RunError, OSError) as failed:
        progress.note(f"error: {in_words(failed)}")
        return 1
    except (MemoryError, RuntimeError) as problem:
        if (said := no_memory(problem)) is None:
            raise
        progress.note(f"error: {said}")
        return 1
    except StopRequestedError as stop:
        progress.note(str(stop))
        return 128 + stop.number
    return 0


def train_centers(config: Config, progress: Progress | None = None, given: Iterable[str] | None = None) -> TrainedModel:
    """Train on LEARN_NAME, write ivfast.npy and dcnet.safetensors into save_path, evaluate on DATA_NAME.

    Signals are the caller's: without handlers of its own, Python ends the run at once, as it does with any other code.

    progress: where the run says what it does; None: the terminal. A log is kept in save_path besides.
    given: settings that were chosen; None: those that differ from their defaults. Others are fitted to the case.
    raises: UserError on input that cannot be right, before anything but the log is written; RunError where the run
    cannot go on through no fault of its input
    """
    if config.dry_run:
        raise UserError(
            "dry_run trains nothing that could be returned: use `run_dcnet --dry_run True`, or leave it out"
        )
    backend = _run_training(replace(config, eval=False), progress, given)
    return load(config.save_path, backend, config.gpu)


def evaluate_centers(
    config: Config, progress: Progress | None = None, given: Iterable[str] | None = None
) -> list[Result]:
    """Evaluate the centers of --ai_center on DATA_NAME, without training, and write the report into save_path.

    Arguments and errors are those of `train_centers`.

    config: ai_center names the centers; the network and what was fitted are read beside them
    returns: recall against vectors scanned, by router, rule, number of copies and way of probing
    """
    config = replace(config, eval=True)
    chosen = _chosen(config, given)
    check(config)
    check_hosts(config)
    refuse_not_ours(config.save_path, EVALUATED)
    with _at_work(config, progress) as shown:
        _say_what_is_used(config, chosen, ("gpu",), shown)
        config = _with_backend(config, chosen, shown)
        found = find_model(config, chosen)
        return evaluate_found(clip(found.settings(config), chosen), found, shown)


def _run_training(
    config: Config, progress: Progress | None, given: Iterable[str] | None, *, scheduled: bool = False
) -> str:
    """The backend that was used is returned. scheduled: see `joined`"""
    chosen = _chosen(config, given)
    check(config)
    check_hosts(config)
    with joined(config, (progress or Progress()).note, scheduled=scheduled) as group:
        if not group.leads:
            follow(config, group, progress or Progress())
            return config.backend
        return _lead(config, chosen, group, progress)


def _lead(config: Config, chosen: set[str], group: Group, progress: Progress | None) -> str:
    """All that a run does, as its only process or the first one."""
    refuse_own(config)
    refuse_not_ours(config.save_path, (*TRAINED, *EVALUATED))
    with _at_work(config, progress) as shown:
        _say_what_is_used(config, chosen, ("lr", "gpu"), shown)
        if group.n > 1:
            shown.note(f"process 0 of {group.n}: the others train beside it")
        check_percents(config, config.nlist)
        _refuse_used(config)
        config = _with_backend(config, chosen, shown)
        config = clip(config, chosen)
        if config.dry_run:
            _show_plan(config, shown)
        else:
            _train(config, shown, group)
    return config.backend


def _with_backend(config: Config, chosen: set[str], progress: Progress) -> Config:
    """The same settings, with the other backend where the default's framework is broken and nobody chose it."""
    if "backend" in chosen:
        return config
    backend, why = usable_backend(config.backend)
    if why:
        progress.note(f"warning: {why}; --backend {backend} is used")
    return replace(config, backend=backend)


def _chosen(config: Config, given: Iterable[str] | None) -> set[str]:
    if given is not None:
        return set(given)
    return {name for name, default in DEFAULTS.items() if getattr(config, name) != default}


@contextmanager
def _at_work(config: Config, progress: Progress | None) -> Iterator[Progress]:
    """Hold the save_path, and keep a log in it, of what ends the work as well."""
    with locked(config.save_path, progress or Progress()):
        logged = Progress(
            config.save_path, progress.console if progress else None, brief=bool(progress and progress.brief)
        )
        try:
            threads = about_threads()
            (logged.note if threads.startswith("warning") else logged.log)(threads)
            yield logged
        except (UserError, RunError, OSError) as problem:
            logged.log(f"error: {in_words(problem)}")
            raise
        except (MemoryError, RuntimeError) as problem:
            if said := no_memory(problem):
                logged.log(f"error: {said}")
            raise
        except StopRequestedError as stop:
            stop.args = (f"{stop}; {'run it again' if config.eval else 'continue with --resume True'}",)
            logged.log(str(stop))
            raise


def _say_what_is_used(config: Config, chosen: set[str], names: tuple[str, ...], progress: Progress) -> None:
    for name in names:
        if name not in chosen:
            progress.note(f"--{name} is not given: {getattr(config, name)} is used")


def _train(config: Config, progress: Progress, group: Group) -> None:
    remove_leftovers(config.save_path)
    started = time.monotonic()
    saved = pick_up(config, progress)
    run = start_run(config, progress, saved, group)
    with progress.stage("first judgement"):
        point = start_point(run)
    if saved is not None:
        point = resume(run, point, saved)
        del saved  # as large as the weights and their moments
    if group.n > 1:
        group.tell(prepared(run.backend, precision_name(config), point.state, run.source, config))
    config = run.config
    while point.epoch < config.epochs:
        point = train_epoch(run, point)
    export(run, point)
    found = find_model(replace(config, eval=True, ai_center=config.save_path / "ivfast.npy"), set())
    learn, data = run.learn.points.vectors, run.data
    del run, point  # neighbours, and states on the device
    evaluate_found(config, found, progress, learn, data)
    progress.note(f"done in {time.monotonic() - started:.0f} s; centers: {config.save_path / 'ivfast.npy'}")


def _show_plan(config: Config, progress: Progress) -> None:
    """What the training would take from its start, in a table. Nothing is written but the log."""
    opened = open_training(config)
    learn, data = opened.learn, opened.data
    config = with_epochs(config, len(learn), progress)
    note_few(len(learn), config.nlist, progress)
    sizes = Sizes(
        n_learn=len(learn),
        n_base=len(data.base),
        n_query=len(data.query),
        param_list=config.param_list,
        epochs=config.epochs,
        batch_size=config.batch_size,
        on_cpu=on_cpu(config.gpu),
        in_sample=learn_path(config.data_path, config.learn_name or "") == data.base.path,
        n_logged=0 if opened.log is None else len(opened.log),
        more_waits=config.recall > SURE_RECALL and any(config.percents),
    )
    costs = plan(sizes, measure_rates(config, learn), bytes_by_stage(config, len(learn), len(data.base)))
    progress.console.print(table(costs))
    total, free = in_all(costs), free_space(config.save_path)
    room = "whose free space is not known" if free is None else f"where {free / 1e9:.1f} GB are free"
    progress.note(
        f"dry run: about {total.seconds / 60:,.1f} minutes, {total.gigabytes:.1f} GB of memory and "
        f"{total.disk / 1e9:.1f} GB on disk are expected, {room}"
    )


def _refuse_used(config: Config) -> None:
    if checkpoints_in(config.save_path) and not (config.resume or config.start_epoch):
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
    if config.resume and not checkpoints_in(config.save_path):
        progress.note(f"{checkpoint_folder(config.save_path)} holds no checkpoint yet: training begins anew")
        return None
    saved = (
        load_newest(config.save_path, progress) if config.resume else load_epoch(config.save_path, config.start_epoch)
    )
    refuse_others(saved, config, None)
    return saved
