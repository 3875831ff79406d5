"""Trains and evaluates the cluster centers of an IVF index. `run_dcnet.py --help` lists all flags."""

import sys

from ivfast.command_line import parse
from ivfast.config import Config, check, clip
from ivfast.errors import RunError, StopRequestedError, UserError
from ivfast.evaluating import evaluate, find_model
from ivfast.lock import locked
from ivfast.progress import Progress
from ivfast.signals import handled
from ivfast.training import train


def main(argv: list[str] | None = None) -> int:
    """Run one command line.

    returns: exit code: 0 done, 1 the run failed, 2 the input is wrong, 128 + n stopped by signal n
    """
    progress = Progress()
    try:
        config, given = parse(argv)
        check(config)
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
        progress.note(f"{stop}; continue with --resume True")
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


if __name__ == "__main__":
    sys.exit(main())
