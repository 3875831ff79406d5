"""The same work for many files: one after another in this process, or as tasks of Ray, on this host or a cluster."""

import importlib
import importlib.util
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

from ivfast.runtime.errors import RunError, StopRequestedError, UserError, in_words, no_memory
from ivfast.runtime.packages import broken, is_wish, reason
from ivfast.runtime.quota import granted

HERE, LOCAL = "none", "local"
TRIES = 10  # of a task whose process or host is lost; hosts of a cluster may be taken away at any time
AHEAD, LEAST = 2, 32  # tasks a core that Ray has at once, and in all: a cluster grows by those that wait
CONNECT = 10.0  # seconds until a host must answer
HEARD = 0.5  # seconds in which a signal is heard: Ray hears none while it waits
LACKING = "failed to import on the worker", "No module named"  # what Ray says of a task that a host can't read
NOT_THERE = "a host of the cluster can't import ivfast; install the same version with the same packages on all of them"
INSTALL = "pip install 'ivfast[ray]'"
Work = Callable[[Any, Any], Any]  # what every task is given, one item -> its result


class Failed(NamedTuple):
    """What is told of an item whose work could not be done."""

    text: str


class Spread(Protocol):
    """What does work for each of many items."""

    def each(self, work: Work, given: Any, items: Sequence[Any], title: str) -> Iterator[tuple[int, Any]]:
        """Do work for every item. An item that fails stops no other one.

        work: a function of a module, of nothing but its arguments, so that a lost task can be done again
        given: what all are given
        yields: number of an item, and its result or Failed, as they are done
        """
        ...


class Here:
    """In this process, one after another."""

    def each(self, work: Work, given: Any, items: Sequence[Any], title: str) -> Iterator[tuple[int, Any]]:
        """See Spread."""
        del title
        for number, item in enumerate(items):
            yield number, attempt(work, given, item)


class OnRay:
    """As tasks of Ray, one core each."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def each(self, work: Work, given: Any, items: Sequence[Any], title: str) -> Iterator[tuple[int, Any]]:
        """See Spread."""
        ray = self._ray
        task = ray.remote(max_retries=TRIES)(as_task)
        shared, running, left = ray.put(given), {}, iter(enumerate(items))
        try:
            while True:
                most = max(LEAST, AHEAD * int(ray.cluster_resources().get("CPU", 0)))
                while len(running) < most and (item := next(left, None)) is not None:
                    running[task.options(name=f"{title} {item[0]}").remote(work, shared, item[1])] = item[0]
                if not running:
                    return
                with _stopped():
                    ready = ray.wait(list(running), num_returns=1, timeout=HEARD)[0]
                for done in ready:
                    yield running.pop(done), self._result(done)
        finally:
            for one in running:
                ray.cancel(one, force=True)

    def _result(self, done: Any) -> Any:
        errors = self._ray.exceptions
        try:
            with _stopped():
                return self._ray.get(done)
        except errors.RayError as problem:
            if any(words in str(problem) for words in LACKING):
                raise RunError(NOT_THERE) from None
            if isinstance(problem, errors.RayTaskError):
                raise  # a fault of ours
            said = " ".join(str(problem).split())[:200]
            return Failed(f"Ray lost its task {1 + TRIES} times ({said}); look at the memory of the hosts")


@contextmanager
def _stopped() -> Iterator[None]:
    """What a signal's handler raises while Ray waits comes out of it as the cause of another error."""
    try:
        yield
    except SystemError as problem:
        if isinstance(problem.__cause__, StopRequestedError | KeyboardInterrupt):
            raise problem.__cause__ from None
        raise


def as_task(work: Work, given: Any, item: Any) -> Any:
    """What a process of Ray does: with one thread, since each core has a task of its own."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return attempt(work, given, item)


def attempt(work: Work, given: Any, item: Any) -> Any:
    """What work says of an item, or Failed where the item or the host is to blame."""
    try:
        return work(given, item)
    except (UserError, RunError, OSError) as problem:
        return Failed(in_words(problem))
    except (MemoryError, RuntimeError) as problem:
        if (said := no_memory(problem)) is None:
            raise
        return Failed(said)


@contextmanager
def spread_over(address: str | None, cores: int | None = None, **options: Any) -> Iterator[Spread]:
    """What does the work while a command runs.

    address: of a cluster of Ray; `auto`: the one that this host belongs to; `local`: one of this host's cores, started
    here and ended with the work; `none`: this process; None: RAY_ADDRESS where it is set, else local where Ray is
    installed, else this process. A program that is connected to Ray stays so. A local one listens on all
    networks of a host, and does what it is told: so it takes tasks from nobody else
    cores: of a local one; None: all that may be used; options: for ray.init of a local one
    raises: UserError where Ray is asked for and not installed, or there is no such cluster
    """
    if not uses_ray(address):
        yield Here()
        return
    address, given = address or os.environ.get("RAY_ADDRESS") or LOCAL, address
    ray = _ray()
    if ray.is_initialized() and given in (None, LOCAL, "auto"):  # by the caller's program, which ends it
        yield OnRay(ray)
        return
    with _token_of(address), _joined(ray, address, cores, options):
        yield OnRay(ray)


@contextmanager
def _token_of(address: str) -> Iterator[None]:
    """A token for a cluster of our own, taken out again with it: nothing else that is started is handed one."""
    if address != LOCAL or "RAY_AUTH_MODE" in os.environ:
        yield
        return
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(ours)
    try:
        _read_anew()
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        _read_anew()


def _read_anew() -> None:
    """Let Ray forget which token it has read, so that a program's own Ray starts as ever. It says nowhere how."""
    raylet = sys.modules["ray._raylet"]
    with suppress(AttributeError):  # of versions that know no tokens
        raylet.Config.initialize("")  # first: what is just ending still asks for the token
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _joined(ray: Any, address: str, cores: int | None, options: dict[str, Any]) -> Iterator[None]:
    """Connected to a cluster, see `spread_over`."""
    if address == LOCAL:
        options = {"num_cpus": cores or granted(), "include_dashboard": False} | options
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    heard = _handlers()
    try:
        _look_for(address)
        with warnings.catch_warnings():  # JAX and Lance warn of any fork; Ray's run other programs at once
            warnings.filterwarnings("ignore", ".*fork")
            ray.init(address, logging_level="error", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise UserError(
            f"--ray {address}: no cluster can be reached or started ({said}); start one with `ray start --head`, "
            "with the token (~/.ray/auth_token) or RAY_AUTH_MODE of this host, or name `local` or `none`"
        ) from None
    try:
        _restore(heard)
        yield
    finally:
        ray.shutdown()
        _restore(heard)


def uses_ray(address: str | None) -> bool:
    """Whether `spread_over` takes Ray for an address: where nothing is said, if it is installed."""
    return address != HERE and (address is not None or _is_installed("ray"))


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # None in sys.modules
        return False


def _look_for(address: str) -> None:
    """raises: OSError or ValueError where nobody listens at HOST:PORT, which Ray would try for minutes"""
    host, colon, port = address.rpartition(":")
    if colon and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError(f"--ray: Ray is not installed: {INSTALL}, or leave the flag out") from None
    except BaseException as problem:
        if is_wish(problem):
            raise
        raise UserError(f"--ray: {broken('ray', reason(problem))}") from None


def _handlers() -> dict[int, Any]:
    """Who hears which signal: Ray puts its own in their place."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


def _restore(heard: dict[int, Any]) -> None:
    for number, handler in heard.items():
        signal.signal(number, handler)
