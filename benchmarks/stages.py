"""Runs the command line in a process of its own and says what each of its stages took: seconds and memory."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.runs import ROOT

SAMPLE_SECONDS = 0.5  # between two looks at the memory of the run: shorter peaks may be missed


class Stage(NamedTuple):
    """All records of one name."""

    name: str
    times: int
    seconds: float
    peak_mb: float  # anonymous memory (RssAnon) at most, in 10^6 bytes; 0 where no sample fell into the stage


class Watched(NamedTuple):
    """A finished run."""

    seconds: float
    peak_mb: float
    stages: list[Stage]  # in the order in which they first ended
    said: str
    finished: bool = True  # not ended before its time

    @property
    def other(self) -> float:
        """Seconds outside all stages: imports, compilation, notes."""
        return self.seconds - sum(stage.seconds for stage in self.stages)


def watched_run(out: Path, flags: list[str], limit: float | None = None) -> Watched:
    """Run run_dcnet.py with `--save_path out`, a folder that holds no run yet. limit: seconds, then it is ended"""
    command = [sys.executable, str(ROOT / "run_dcnet.py"), "--save_path", str(out), *flags]
    started = time.monotonic()
    told = os.environ | {"PYTHONFAULTHANDLER": "1"}  # ended before its time, it says where it was
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=told) as child:
        sampler = Sampler(child.pid, out / "metrics.jsonl")
        sampler.start()
        try:
            said, finished = child.communicate(timeout=limit)[1], True
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)
            said, finished = child.communicate()[1], False
    seconds = time.monotonic() - started
    sampler.ended.set()
    sampler.join()
    if child.returncode and finished:
        raise SystemExit(f"{' '.join(command)}\n{said}")
    return Watched(seconds, max(sampler.peaks.values(), default=0.0), stages_of(out, sampler.peaks), said, finished)


class Sampler(threading.Thread):
    """Looks at the anonymous memory of a process until it ends.

    peaks: by how many stages had ended by then, MB at most
    """

    def __init__(self, pid: int, metrics: Path) -> None:
        super().__init__(daemon=True)
        self.status, self.metrics_file, self.ended = Path(f"/proc/{pid}/status"), metrics, threading.Event()
        self.peaks: dict[int, float] = {}

    def run(self) -> None:
        """Sample."""
        while not self.ended.wait(SAMPLE_SECONDS):
            mb = anonymous_mb(self.status)
            n_ended = len(stage_records(self.metrics_file))
            self.peaks[n_ended] = max(self.peaks.get(n_ended, 0.0), mb)


def anonymous_mb(status: Path) -> float:
    """RssAnon of a /proc/PID/status in 10^6 bytes; 0 where the process has gone."""
    try:
        lines = status.read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon:")), 0.0)


def stage_records(metrics: Path) -> list[tuple[str, float]]:
    """Names and seconds, in the order in which stages ended."""
    if not metrics.is_file():
        return []
    lines = [line for line in metrics.read_text().splitlines() if line.endswith("}")]  # the last may be half written
    return [(found["stage"], found["seconds"]) for found in map(json.loads, lines) if "stage" in found]


def stages_of(out: Path, peaks: dict[int, float]) -> list[Stage]:
    """Records of one name added up. peaks: of a Sampler"""
    stages: dict[str, Stage] = {}
    for i, (name, seconds) in enumerate(stage_records(out / "metrics.jsonl")):
        before = stages.get(name, Stage(name, 0, 0.0, 0.0))
        peak = max(before.peak_mb, peaks.get(i, 0.0))
        stages[name] = Stage(name, before.times + 1, before.seconds + seconds, peak)
    return list(stages.values())
