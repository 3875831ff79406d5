"""Whether the disk has room for a run, asked before it starts."""

import shutil
from itertools import pairwise

from ivfast.method import COUNTED, LISTED
from ivfast.runtime.checkpoint import KEEP
from ivfast.runtime.config import Config
from ivfast.runtime.errors import RunError
from ivfast.start.neighbors import N_ASKED, n_held_out


def bytes_needed(config: Config, n_learn: int, n_base: int) -> int:
    """What a run writes at most: checkpoints, the network, and the cache.

    A checkpoint holds weights and two moments, and the weights of the best epochs; one more
    than are kept is on disk while it is written.
    """
    widths = config.param_list
    linear = widths[0] * widths[-1]
    deep = sum(a * b + 3 * b for a, b in pairwise(widths)) if config.deep else 0
    weights = 4 * (linear + deep)
    checkpoint = 4 * weights + 4 * linear + 4 * LISTED * config.nlist
    nearest = 4 * (n_learn + n_base) * max(config.ftopk, N_ASKED)
    answers = 8 * n_held_out(n_learn) * COUNTED
    kinship = n_learn * config.ftopk + n_held_out(n_learn) * COUNTED
    cells = 4 * (n_learn + config.nlist)
    cache = 8 * n_learn + answers + nearest + kinship + cells + 4 * linear
    return (KEEP + 1) * checkpoint + 2 * weights + 12 * linear + 8 * 3 * 6 * config.nlist + cache + (1 << 20)


def check_disk(config: Config, n_learn: int, n_base: int) -> None:
    """raises: RunError where save_path's disk has less room than a run needs"""
    needed = bytes_needed(config, n_learn, n_base)
    free = shutil.disk_usage(config.save_path).free
    if free < needed:
        raise RunError(
            f"--save_path {config.save_path}: {needed:,} bytes are needed, {free:,} are free; "
            "free some, or choose another --save_path"
        )
