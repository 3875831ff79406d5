"""One pass over the pairs: chunks handed to the backend, sums read back a chunk later."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ivfast.network.backend import Backend, Chunk, Goal, Metrics
from ivfast.network.precision import MOST_SKIPS
from ivfast.runtime.errors import RunError
from ivfast.runtime.progress import Progress


class Sums(NamedTuple):
    """Of the finite steps of some chunks."""

    loss_centers: float = 0.0
    loss_net: float = 0.0
    n_pairs: int = 0
    n_skipped: int = 0
    waited: float = 0.0  # share of an epoch's time in which training waited for its pairs to be read

    def plus(self, metrics: Metrics) -> "Sums":
        """With one more chunk; waits for the device."""
        return Sums(
            self.loss_centers + float(metrics.loss_centers),
            self.loss_net + float(metrics.loss_net),
            self.n_pairs + int(metrics.n_pairs),
            self.n_skipped + int(metrics.n_skipped),
            self.waited,
        )

    def losses(self, *, deep: bool) -> dict[str, float]:
        """Means over pairs, and counts, for metrics.jsonl."""
        found: dict[str, float] = {"loss_centers": self.loss_centers / max(self.n_pairs, 1), "n_pairs": self.n_pairs}
        if deep:
            found["loss_net"] = self.loss_net / max(self.n_pairs, 1)
        return found | {"n_skipped": self.n_skipped}

    def in_words(self, scale: float, *, deep: bool) -> str:
        """The same for people. scale: the loss scale now"""
        if not self.n_pairs + self.n_skipped:
            return "no step was left"
        if not self.n_pairs:
            return f"all {self.n_skipped} steps skipped, loss scale now {scale:g}"
        found = self.losses(deep=deep)
        text = f"loss {found['loss_centers']:.4f}" + (f", net {found['loss_net']:.4f}" if deep else "")
        skipped = f"; {self.n_skipped} steps skipped, loss scale now {scale:g}" if self.n_skipped else ""
        return text + skipped


class TooManySkipsError(RunError):
    """50 steps in a row had a non-finite gradient; carries the last good state."""

    def __init__(self, state: Any, scale: float) -> None:
        super().__init__(
            f"{MOST_SKIPS} steps in a row had a non-finite gradient, down to a loss scale of {scale:g}: lower --lr, "
            "use --amp_dtype bfloat16, or --use_amp False; check the data for extreme values"
        )
        self.state = state


def run_chunks(
    backend: Backend, state: Any, chunks: Iterable[Chunk], goal: Goal, log_interval: int, n_steps: int, done: int,
    title: str, progress: Progress, after_chunk: Callable[[Any, int], None],
) -> tuple[Any, Sums]:  # fmt: skip
    """Train on the rest of an epoch's chunks.

    n_steps: steps of the epoch; done: of them, before the first chunk
    title: of the bar and of log lines
    after_chunk: called with the state and the steps done; may save, or raise to stop
    returns: the next state, and sums over the epoch
    raises: TooManySkipsError
    """
    deep = backend.setup.deep
    totals, since, first = Sums(), Sums(), done
    waiting: Metrics | None = None
    began, waits = time.monotonic(), []
    with progress.bar(title, n_steps, "steps") as bar:
        bar.advance(done)
        for chunk in _timed(chunks, waits):
            state, metrics = backend.train_chunk(state, chunk, goal)
            if waiting is not None:  # read while the next chunk is under way
                since = _read(backend, state, waiting, since)
            waiting = metrics
            before, done = done, min(done + len(chunk.x), n_steps)
            if done // log_interval > before // log_interval and done < n_steps:
                since, waiting = _read(backend, state, waiting, since), None
                progress.metrics(title=title, step=done, k=goal.k, **since.losses(deep=deep))
                progress.note(f"{title}, step {done}/{n_steps}: {since.in_words(backend.loss_scale(state), deep=deep)}")
                totals, since = _add(totals, since), Sums()
            bar.advance(done - before)
            after_chunk(state, done)
        if waiting is not None:
            since = _read(backend, state, waiting, since)
    totals = _add(totals, since)._replace(waited=sum(waits) / (time.monotonic() - began))
    if done > first:
        scale, waited = backend.loss_scale(state), round(totals.waited, 4)
        progress.metrics(
            title=title, step=n_steps, k=goal.k, loss_scale=scale, waited=waited, **totals.losses(deep=deep)
        )
    return state, totals


def _timed(chunks: Iterable[Chunk], waits: list[float]) -> Iterator[Chunk]:
    """The same chunks. waits: grows by the seconds that each took to come"""
    coming = iter(chunks)
    while True:
        asked = time.monotonic()
        chunk = next(coming, None)
        waits.append(time.monotonic() - asked)
        if chunk is None:
            return
        yield chunk


def _read(backend: Backend, state: Any, metrics: Metrics, sums: Sums) -> Sums:
    if int(metrics.n_in_a_row) >= MOST_SKIPS:
        raise TooManySkipsError(state, backend.loss_scale(state))
    return sums.plus(metrics)


def _add(left: Sums, right: Sums) -> Sums:
    return Sums(
        left.loss_centers + right.loss_centers,
        left.loss_net + right.loss_net,
        left.n_pairs + right.n_pairs,
        left.n_skipped + right.n_skipped,
    )
