"""Processes that train together: the first one does what a run does, the others train beside it and write nothing."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from ivfast.network.backend import import_backend
from ivfast.runtime.config import Config
from ivfast.runtime.devices import on_cpu
from ivfast.runtime.errors import RunError, StopRequestedError, UserError
from ivfast.runtime.signals import ending_at_once

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
KUBERNETES = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")


class Ended(NamedTuple):
    """What process 0 says last."""

    code: int  # with which it ends

    def share(self) -> None:
        """End alike. raises: StopRequestedError, UserError or RunError where it did not end well"""
        if self.code >= 128:
            raise StopRequestedError(self.code - 128)
        if self.code:
            raise (UserError if self.code == 2 else RunError)("process 0 of this run has ended; it says why")


class Group:
    """The processes of a run, of which this is one.

    process: its number, 0 leads
    n: how many there are
    """

    def __init__(self, runtime: Any = None) -> None:
        self._runtime = runtime  # a backend's hosts.py; None: the process is alone
        self.process, self.n = runtime.process() if runtime else (0, 1)
        self._astray = False  # whether this process left the steps while others are in them
        self._ended = False  # whether process 0 has said its last

    @property
    def leads(self) -> bool:
        """Whether this process does all but training, too."""
        return self.process == 0

    def tell(self, value: Any = None) -> Any:
        """What process 0 says, in every process. Every process must ask.

        value: of process 0, anything that can be pickled
        raises: RunError where another process is gone
        """
        if self._runtime is None:
            return value
        with self.at_steps():
            said = self._runtime.tell(value)
        self._ended = isinstance(said, Ended)
        return said

    def any_says(self, value: bool) -> bool:
        """Whether it is so in any process. Every process must ask, in `at_steps`, which says what is raised."""
        return self._runtime.any_says(value) if self._runtime else value

    @contextmanager
    def at_steps(self, *together: type[BaseException]) -> Iterator[None]:
        """Around steps, in which processes wait for one another. together: what all of them raise at once

        raises: RunError where another process is gone
        """
        try:
            yield
        except together:
            raise
        except BaseException as problem:
            self._astray = self._runtime is not None
            if self._runtime and self._runtime.is_broken(problem):
                raise self._runtime.gone(problem) from None
            raise

    def end(self, code: int) -> None:
        """Process 0 has no more to say, and all part. code: with which this process ends"""
        if self._runtime is None:
            return
        if self._astray or not (self.leads or self._ended):  # the others can't hear, or wait for this one
            self._runtime.leave_at_once(code)
            return
        try:
            if self.leads:
                self.tell(Ended(code))
        except RunError:
            self._runtime.leave_at_once(code or 1)
            if code == 0:
                raise
            return  # what went wrong here is told, not that another is gone, too
        self._runtime.leave()


@contextmanager
def joined(config: Config, say: Callable[[str], None], *, scheduled: bool = False) -> Iterator[Group]:
    """The processes that the flags name, or that a scheduler has started; at the end all part.

    say: prints a line; scheduled: whether a scheduler is asked where no flag names any
    raises: UserError where they don't come together or were given different flags; RunError where one is gone
    """
    if not is_among_several(config, scheduled=scheduled):
        yield Group()
        return
    _check_address(config)
    runtime = import_backend("jax").hosts
    numbers: list[int] = []  # none: JAX leaves all that it sees
    if not on_cpu(config.gpu) and not isinstance(config.gpu, str):
        numbers = [config.gpu] if isinstance(config.gpu, int) else list(config.gpu)
    if config.num_processes != 1:
        say(f"waiting for the other {_others(config)}, up to {runtime.JOINING // 60} minutes")
    with ending_at_once():
        runtime.join(config.coordinator, config.num_processes, config.process_id, numbers)
    group = Group(runtime)
    code = 1
    try:
        alike = {name: value for name, value in config.as_dict().items() if name not in ("gpu", "process_id")}
        if not runtime.all_say_the_same(repr(sorted(alike.items()))):
            raise UserError(
                "the processes of this run were given different flags, expected the same but for --process_id and "
                "--gpu; start all of them with the same command"
            )
        yield group
        code = 0
    except UserError:
        code = 2
        raise
    except StopRequestedError as stop:
        code = 128 + stop.number
        raise
    finally:
        group.end(code)


def _others(config: Config) -> str:
    """What a process waits for."""
    if config.num_processes is None:
        return "processes that the scheduler has started"
    return f"{config.num_processes - 1} of {config.num_processes} processes at {config.coordinator}"


def _check_address(config: Config) -> None:
    """raises: UserError where --coordinator names no host, or process 0 can't listen at its port

    JAX waits for minutes for such a host, and ends process 0 with a fault of memory. A pod of Kubernetes has a name
    only once it runs, which the others may do before.
    """
    if config.coordinator is None:
        return
    host, _, port = config.coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as problem:
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            said = problem.strerror if isinstance(problem, OSError) else problem
            raise UserError(f"--coordinator {config.coordinator}: {host} has no address ({said}); correct it") from None
    if config.process_id != 0:
        return
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=family == socket.AF_INET6).close()
    except OSError as problem:
        said = "is in use on this host" if problem.errno == errno.EADDRINUSE else f"can't be used ({problem.strerror})"
        raise UserError(f"--coordinator {config.coordinator}: the port {said}; name another") from None


def is_among_several(config: Config, *, scheduled: bool) -> bool:
    """Whether flags, or a scheduler where it is asked, say that this process is one of several that train."""
    trains_here = config.backend == "jax" and not config.eval and not config.dry_run
    return config.coordinator is not None or (scheduled and trains_here and _has_started_several())


def _has_started_several() -> bool:
    """Whether Slurm or Kubernetes has started this process as one of several, so that JAX can find the others."""
    if all(name in os.environ for name in SLURM):
        return os.environ["SLURM_NTASKS"] != "1"
    return all(name in os.environ for name in KUBERNETES) and find_spec("kubernetes") is not None


def check_hosts(config: Config) -> None:
    """raises: UserError on flags that name no processes"""
    flags = ("coordinator", "num_processes", "process_id")
    given = [name for name in flags if getattr(config, name) is not None]
    if not given:
        return
    if absent := [name for name in flags if name not in given]:
        raise UserError(f"--{given[0]} needs --{' and --'.join(absent)}: name all three in every process, or none")
    assert config.coordinator is not None
    assert config.num_processes is not None
    assert config.process_id is not None
    host, _, port = config.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--coordinator {config.coordinator}: expected HOST:PORT, such as 10.0.0.1:29400; correct it")
    if config.num_processes < 1:
        raise UserError(f"--num_processes {config.num_processes}: expected 1 or more; correct it")
    if not 0 <= config.process_id < config.num_processes:
        raise UserError(
            f"--process_id {config.process_id}: expected 0 to {config.num_processes - 1}, one below "
            f"--num_processes {config.num_processes}; correct it"
        )
    if config.backend != "jax":
        raise UserError(f"--coordinator with --backend {config.backend}: JAX alone trains on several hosts; use it")
    if config.eval or config.dry_run:
        raise UserError("--coordinator is for a training: leave it out with --eval True and with --dry_run True")
