"""The rule of the dynamic loss scale, and what a run's precision is called.

A non-finite gradient halves the scale and skips the step; so many finite steps in a row as `growth_interval` says
double it; it stays within 1 and 2^24. Powers of two only, so scaling never rounds.
"""

from ivfast.method import GROWTH_INTERVAL, GROWTHS, LEAST_INTERVAL
from ivfast.runtime.config import Config
from ivfast.runtime.devices import on_cpu

MOST_SKIPS = 50  # in a row, before a run gives up


def growth_interval(n_steps: int) -> int:
    """Finite steps in a row that double the scale: 2,000, in runs of under 40,000 steps a twentieth, at least 50.

    n_steps: of the whole run, all epochs together
    """
    return min(GROWTH_INTERVAL, max(LEAST_INTERVAL, n_steps // GROWTHS))


def precision_name(config: Config) -> str:
    """float32, or MODE-HALF: O1|O2 and float16|bfloat16."""
    return f"{config.apex_mode}-{config.amp_dtype}" if config.use_amp else "float32"


def advice(config: Config) -> str:
    """One line for the start of a run: what is computed in which type, and what would be better."""
    if not config.use_amp:
        return "precision: float32"
    text = f"precision: {config.apex_mode}, {config.amp_dtype} products, loss scale {config.scale} at the start"
    if config.amp_dtype == "bfloat16":
        return text
    if on_cpu(config.gpu):
        return (
            f"{text}; on a CPU float16 is no faster than float32: "
            "use --amp_dtype bfloat16 where the CPU has it (AVX-512 BF16, AMX), else --use_amp False"
        )
    return f"{text}; --amp_dtype bfloat16 is recommended where the hardware has it (it cannot overflow so easily)"
