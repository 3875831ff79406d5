"""Threads beside the CPU time that a control group grants: libraries count cores, and don't see a quota."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path("/")
ROUNDING = "with another number FAISS, torch and XLA may round otherwise"
NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC: XLA's


def cores() -> int:
    """Those that this process may use, where the system tells (Linux); else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control groups of this process grant, the least of all above it; None: all.

    root: where /proc and /sys lie
    """
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        parts = Path(group.lstrip("/")).parts
        folders = [Path(*parts[:n]) for n in range(len(parts), -1, -1)]
        if number == "0" and not controllers:  # version 2; in a container its own group is the root
            quotas += [_of_v2(root / "sys/fs/cgroup" / folder) for folder in folders]
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys(("cpu", controllers, "cpu,cpuacct")):
                quotas += [_of_v1(root / "sys/fs/cgroup" / mount / folder) for folder in folders]
    found = [quota for quota in quotas if quota is not None]
    return min(found, default=None)


def _of_v2(folder: Path) -> float | None:
    """Of cpu.max, such as `400000 100000`, or `max 100000`."""
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return _share(quota, period)


def _of_v1(folder: Path) -> float | None:
    """Of cpu.cfs_quota_us, -1 where there is none, over cpu.cfs_period_us."""
    return _share(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _share(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal()) or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def granted(root: Path = ROOT) -> int:
    """Threads that can run at once: cores, or fewer by the quota."""
    quota = cpu_quota(root)
    return cores() if quota is None else max(1, min(cores(), math.ceil(quota)))


def name_threads(root: Path = ROOT) -> None:
    """Tell libraries that are not loaded yet how many threads a quota grants, where the user named no number.

    For a process that is ours, before NumPy, FAISS, torch and XLA count cores.
    """
    if (most := granted(root)) < cores() and NAMES[0] not in os.environ:
        for name in NAMES:
            os.environ.setdefault(name, str(most))


@contextmanager
def within_quota(root: Path = ROOT) -> Iterator[None]:
    """No more threads of FAISS, and of torch where it is loaded, than a quota grants; put back at the end.

    For a command that another program calls. What the user named stays.
    """
    most = granted(root)
    if most >= cores() or NAMES[0] in os.environ:
        yield
        return
    import faiss  # here, since this module is read before threads are named

    torch: Any = sys.modules.get("torch")
    setters = [(faiss.omp_set_num_threads, faiss.omp_get_max_threads())]
    setters += [(torch.set_num_threads, torch.get_num_threads())] if torch else []
    for set_threads, before in setters:
        set_threads(min(before, most))
    try:
        yield
    finally:
        for set_threads, before in setters:
            set_threads(before)


def about_threads(root: Path = ROOT) -> str:
    """How many threads there are and may be, in one line; it begins with `warning` where they wait for each other."""
    import faiss

    quota, count = cpu_quota(root), faiss.omp_get_max_threads()
    torch: Any = sys.modules.get("torch")
    threads = f"threads: {count} of FAISS"
    threads += f", {torch.get_num_threads()} of torch" if torch else ""
    threads += f"; {cores()} cores may be used"
    if quota is None:
        return f"{threads}; {ROUNDING}"
    threads += f", of which a quota of CPU time (cgroup) grants {quota:g}"
    if count > granted(root):
        return f"warning: {threads}: set OMP_NUM_THREADS={granted(root)} and NPROC={granted(root)}, or training crawls"
    return f"{threads}; {ROUNDING}"
