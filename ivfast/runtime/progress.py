"""Where a run says what it does: the terminal, train.log and metrics.jsonl."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

try:
    import resource
except ImportError:  # Windows has none
    resource = None

UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # ends of lines, escapes, bytes that are no text
PLAIN_WIDTH = 120  # columns of a table that goes to a file
PLAIN_SECONDS = 30.0  # without a terminal, a bar speaks at most this often


class Bar(Protocol):
    """Counts finished units of one long piece of work."""

    def advance(self, n: int) -> None:
        """N more units are done."""
        ...


class Progress:
    """`note` (one line), `metrics` (one record), `stage` (its time) and `bar` (long work), to all places at once.

    folder: where train.log and metrics.jsonl are appended to; None: the terminal alone
    brief: show bars, warnings and what is said alone
    """

    def __init__(self, folder: Path | None = None, console: Console | None = None, *, brief: bool = False) -> None:
        self.console, self.brief = console or _terminal(), brief
        self.folder = folder
        self._within = [0.0]  # of each stage under way, seconds of the finished stages in it
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def note(self, text: str) -> None:
        """One line for people: shown, and kept in train.log with its time. A brief one shows warnings alone."""
        if self.brief and not text.startswith("warning"):
            self.log(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """One line that is shown in any case."""
        self._show(text)
        self.log(text)

    def _show(self, text: str) -> None:
        # names of files are no markup, whatever brackets and colons they have
        self.console.print(one_line(text), markup=False, emoji=False)

    def table(self, table: Table) -> None:
        """A table for people, which the files of a run hold too."""
        if not self.brief:
            self.console.print(table)

    def log(self, text: str) -> None:
        """One line that is kept in train.log with its time, and not shown."""
        self._append("train.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def metrics(self, **record: object) -> None:
        """One record for programs: a line of metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(record))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A record of the seconds that a stage of the run took, once it has ended, and of the most memory held so far.

        Stages within it have records of their own and are left out of its seconds, so that all records add up. A stage
        that is cut short leaves none.
        """
        started = time.monotonic()
        self._within.append(0.0)
        try:
            yield
        except BaseException:
            self._within.pop()
            raise
        seconds = time.monotonic() - started
        self.metrics(stage=name, seconds=round(seconds - self._within.pop(), 3), **_peak())
        self._within[-1] += seconds

    def _append(self, name: str, line: str) -> None:
        if self.folder is None:
            return
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(one_line(line) + "\n")
        except OSError as problem:
            folder, self.folder = self.folder, None  # the run goes on without its log
            self._show(f"warning: {folder / name} cannot be written ({problem.strerror})")

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "rows") -> Iterator[Bar]:
        """A bar with rate and time left; without a terminal, a line now and then.

        total: units of work in all; unit: what is counted, for the rate
        """
        if not self.console.is_terminal:
            yield _PlainBar(self, title, total, unit)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(unit),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self.console, transient=True) as rich_bar:
            task = rich_bar.add_task(one_line(title), total=total)
            yield _RichBar(rich_bar, task)


def one_line(text: str) -> str:
    """A text on one line of plain letters: names of files may hold anything."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Terminal(Console):
    """Goes silent where nobody reads any more (`| head`, a full disk), instead of ending the run; train.log goes on."""

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # rich itself looks for broken pipes alone
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


def _terminal() -> Console:
    console = _Terminal(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    return console


class _RichBar:
    def __init__(self, rich_bar: RichProgress, task: TaskID) -> None:
        self.rich_bar, self.task = rich_bar, task

    def advance(self, n: int) -> None:
        self.rich_bar.advance(self.task, n)


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: RichTask) -> Text:
        return Text(f"{_rate(task.speed)} {self.unit}/s" if task.speed else "")


def _rate(speed: float) -> str:
    """Units a second, in at least two digits: an iteration may take minutes."""
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


class _PlainBar:
    def __init__(self, progress: Progress, title: str, total: int, unit: str) -> None:
        self.progress, self.title, self.total, self.unit = progress, title, total, unit
        self.done = 0
        self.start = self.spoken = time.monotonic()

    def advance(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.spoken >= PLAIN_SECONDS and self.done < self.total:
            self.spoken = now
            rate = self.done / (now - self.start)
            left = (self.total - self.done) / rate
            self.progress.say(
                f"{self.title}: {self.done:,} of {self.total:,} {self.unit}, {_rate(rate)} a second, {left:.0f} s left"
            )


def _peak() -> dict[str, float]:
    """The most memory that this process has held so far, in GB; nothing where the system does not say."""
    if resource is None:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)}


def silent() -> Progress:
    """A Progress that shows and keeps nothing, for library use and tests."""
    return Progress(None, Console(quiet=True))
