"""Whether the disk has room for a run, asked before it starts."""

from itertools import pairwise

from ivfast.data.query_log import MOST as MOST_LOGGED
from ivfast.method import CELLS, COUNTED, LISTED
from ivfast.runtime.checkpoint import KEEP
from ivfast.runtime.config import Config
from ivfast.runtime.errors import RunError
from ivfast.runtime.files import free_space
from ivfast.runtime.progress import Progress
from ivfast.start.descent import SPARE
from ivfast.start.logged import n_drawn
from ivfast.start.neighbors import LIMITS, N_ASKED, n_held_out


def bytes_by_stage(config: Config, n_learn: int, n_base: int) -> dict[str, int]:
    """What the stages of a run write at most: checkpoints, the network, and the cache.

    A checkpoint holds weights and two moments, and the weights of the best epochs; one more
    than are kept is on disk while it is written.

    returns: bytes by the name of the stage, as metrics.jsonl has it
    """
    widths = config.param_list
    linear = widths[0] * widths[-1]
    deep = sum(a * b + 3 * b for a, b in pairwise(widths)) if config.deep else 0
    weights = 4 * (linear + deep)
    checkpoint = 4 * weights + 4 * linear + 4 * LISTED * config.nlist
    nearest = 4 * max(config.ftopk, N_ASKED)  # of one vector
    answers = 8 * n_held_out(n_learn) * COUNTED
    kinship = n_learn * config.ftopk + n_held_out(n_learn) * COUNTED
    mapped = 4 * (widths[0] + max(config.ftopk, N_ASKED) + SPARE + 1)  # x, and a graph beside `nearest`
    large_learn, large_base = (n * mapped if n > LIMITS.exact_learn else 0 for n in (n_learn, n_base))
    of_log = {}
    if config.query_log is not None:  # in the cache, and those that were logged in the model
        n_asking = n_drawn(n_learn, 0) + MOST_LOGGED
        of_log["answers of logged queries"] = n_asking * (4 * widths[0] + nearest) + 4 * widths[0] * MOST_LOGGED
    return {
        "k-means": 4 * linear + 4 * (CELLS * n_learn + config.nlist),  # and the buckets near each vector
        "neighbours of learn": 8 * n_learn + nearest * n_learn + large_learn,
        "held-out answers": answers,
        "kinship": kinship,
        **of_log,
        "checkpoints": (KEEP + 1) * checkpoint,
        "writing the model": 2 * weights + 12 * linear + 8 * 3 * 6 * config.nlist,
        "neighbours of base": nearest * n_base + large_base,
        "report": 1 << 20,
    }


def bytes_needed(config: Config, n_learn: int, n_base: int) -> int:
    """By all stages together."""
    return sum(bytes_by_stage(config, n_learn, n_base).values())


def check_disk(config: Config, n_learn: int, n_base: int, progress: Progress) -> None:
    """raises: RunError where save_path's disk has less room than a run needs"""
    needed, free = bytes_needed(config, n_learn, n_base), free_space(config.save_path)
    if free is None:
        progress.note(
            f"--save_path {config.save_path}: {needed:,} bytes are needed, its disk doesn't say how many are free"
        )
    elif free < needed:
        raise RunError(
            f"--save_path {config.save_path}: {needed:,} bytes are needed, {free:,} are free; "
            "free some, or choose another --save_path"
        )
