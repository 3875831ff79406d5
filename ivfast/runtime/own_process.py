"""What a command may set of JAX in a process of its own, and what a library must leave to its host."""

import os
import sys

from ivfast.runtime.devices import Gpu, on_cpu

MEMORY = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


def prepare_jax(gpu: Gpu) -> None:
    """Before JAX is imported: on the CPU it looks for no GPU, on a GPU it takes memory as needed.

    JAX starts every platform that it may use as soon as it is asked for any device, and keeps to that for as long as
    the process lives: a library that switched GPUs off would switch them off for its host as well. So this is done by
    the commands alone, and nothing that the user has set is changed.

    gpu: as --gpu
    """
    if "jax" in sys.modules:
        return
    if on_cpu(gpu):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    elif not any(name in os.environ for name in MEMORY):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else 75 % of the memory, beside whoever works there
