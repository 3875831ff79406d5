"""Several processes that train together, through JAX's own runtime: joined, told what the first one says, left."""

import atexit
import hashlib
import os
import pickle
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from ivfast.runtime.errors import LOST, RunError, UserError

HEARTBEAT = 20  # seconds of silence after which a process counts as lost
WAITING = "--xla_cpu_collective_timeout_seconds"  # 30 minutes by default: k-means or neighbours may take longer
BROKEN = re.compile("Gloo|NCCL|coordination|DEADLINE_EXCEEDED|UNAVAILABLE")
PART = 1 << 28  # bytes that are told at once
JOINING = 300  # seconds in which all are to be there
LEAVING = 15  # seconds in which all processes are to leave


def join(coordinator: str | None, n_processes: int | None, process: int | None, numbers: Sequence[int]) -> None:
    """Join the processes of a run, before JAX is asked for any device.

    coordinator: HOST:PORT of process 0; None, and so the next two: found as JAX finds it under Slurm or Kubernetes
    numbers: of the GPUs of this process; none: all that it sees
    raises: UserError where they don't come together
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", val=False)  # it would take SIGTERM from the run's own handlers
    if WAITING not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {WAITING}={30 * 24 * 3600}".strip()
    try:
        jax.distributed.initialize(
            coordinator, n_processes, process, numbers,
            initialization_timeout=JOINING, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=LEAVING,
        )  # fmt: skip
        counts = multihost_utils.process_allgather(np.array(jax.local_device_count()))
    except (RuntimeError, ValueError) as problem:
        said = " ".join(str(problem).split())[:200]
        if "before any JAX calls" in said:
            raise UserError(
                "this process has used JAX before, and can join no others any more; train in a process of its own"
            ) from None
        where = f"--coordinator {coordinator}" if coordinator else "the scheduler's processes"
        raise UserError(
            f"{where}: the processes did not come together ({said}); start all of them within minutes of one another, "
            "where all can reach process 0, each with a --process_id of its own"
        ) from None
    if len(set(counts.ravel().tolist())) > 1:
        raise UserError(f"--gpu: the processes have {counts.tolist()} devices, expected as many each; name as many")


def process() -> tuple[int, int]:
    """Number of this process, and of all."""
    return jax.process_index(), jax.process_count()


def leave() -> None:
    """Wait for the others, and part."""
    jax.distributed.shutdown()


def leave_at_once(code: int) -> None:
    """At the end of this process, part without waiting for the others: they find the connection broken.

    code: with which it ends
    """
    atexit.register(_end, code)


def _end(code: int) -> None:
    """Before JAX waits for them in vain, and ends this process with a trace."""
    with suppress(Exception):  # closed, or none from the start
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def tell(value: Any) -> Any:
    """What process 0 says, in every process. All of them must call this in the same order.

    value: of process 0, anything that can be pickled
    """
    text = pickle.dumps(value) if jax.process_index() == 0 else b""
    sizes = multihost_utils.broadcast_one_to_all(np.array(divmod(len(text), PART), dtype=np.int32))
    heard = bytearray()
    for i, size in enumerate([PART] * int(sizes[0]) + [int(sizes[1])]):
        own = np.frombuffer(text, dtype=np.uint8)[i * PART : i * PART + size] if text else np.empty(size, np.uint8)
        part = multihost_utils.broadcast_one_to_all(own)
        if not text:
            heard += part.tobytes()
    return value if text else pickle.loads(heard)  # noqa: S301, it comes from a process of the same run


def all_say_the_same(text: str) -> bool:
    """Whether all processes say the same. All of them must call this."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)
    return bool((multihost_utils.process_allgather(digest) == digest).all())


def any_says(value: bool) -> bool:
    """Whether it is so in any process. All of them must call this in the same order."""
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def is_broken(problem: BaseException) -> bool:
    """Whether it says that another process could not be reached."""
    return isinstance(problem, (JaxRuntimeError, ValueError)) and bool(BROKEN.search(str(problem)))


def gone(problem: Any) -> RunError:
    """What a broken connection means."""
    said = " ".join(str(problem).split())[:160]
    return RunError(f"{LOST} ({said})")
