"""One stage after another over all files: what fails is told while the rest goes on, and results are merged."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ivfast.runtime.errors import RunError
from ivfast.runtime.progress import Progress
from ivfast.spread.answers import Asked, Nearest, merged, nearest, nothing
from ivfast.spread.border import ALL, NONE, Border, key_within, share_ties
from ivfast.spread.given import Given
from ivfast.spread.maps import Failed, Spread, Work
from ivfast.spread.ranks import AtKey, Counted, Within, count, lower, ties
from ivfast.spread.sources import Numbered, Source
from ivfast.store.place import BINS, border_of

NAMED = 5  # files that a message names


class Stages:
    """Stages of one command, each of them work for every file."""

    def __init__(self, spread: Spread, given: Given, progress: Progress) -> None:
        self.spread, self.given, self.progress = spread, given, progress
        self.failed: dict[str, None] = {}  # names of files, once each, in order

    def each(self, work: Work, items: Sequence[Any], names: Sequence[object], title: str) -> Iterator[tuple[int, Any]]:
        """The results of those items whose work could be done; the others are told and noted."""
        with self.progress.stage(title), self.progress.bar(title, len(items), "files") as bar:
            for number, result in self.spread.each(work, self.given, items, title):
                if isinstance(result, Failed):
                    self.failed[str(names[number])] = None
                    self.progress.say(f"error: {result.text}")
                else:
                    yield number, result
                bar.advance(1)

    def all(self, work: Work, items: Sequence[Any], names: Sequence[object], title: str) -> list[Any]:
        """The results in the order of the items; raises RunError where one could not be done."""
        found = dict(self.each(work, items, names, title))
        self.check(len(items))
        return [found[number] for number in range(len(items))]

    def check(self, n: int) -> None:
        """raises: RunError where one of n files could not be done, after all others were"""
        if self.failed:
            named, more = list(self.failed)[:NAMED], len(self.failed) - NAMED
            raise RunError(
                f"{len(self.failed)} of {n} files could not be done: {', '.join(named)}"
                f"{f' (and {more} more)' if more > 0 else ''}; mend or leave them out, and give the same command "
                "again: what is done is kept"
            )


def number_files(stages: Stages, sources: Sequence[Source]) -> list[Numbered]:
    """Count the rows of all files; those behind one that can't be counted wait, since their ids are not known."""
    counted: dict[int, Counted] = dict(stages.each(count, sources, sources, "counting rows"))
    if blind := [source for number, source in enumerate(sources) if number in counted and not counted[number].watched]:
        stages.progress.note(
            f"warning: {blind[0]}{f' (and {len(blind) - 1} more)' * (len(blind) > 1)}: its server says neither ETag "
            "nor Last-Modified, so that a changed file of the same size is not noticed"
        )
    files, first = [], 0
    for number, source in enumerate(sources):
        if number not in counted:
            if number + 1 < len(sources):
                stages.progress.say(f"{source}: the files behind it wait for it, since ids count through all of them")
            break
        files.append(Numbered(source, counted[number].stamp, first, counted[number].n))
        first += counted[number].n
    return files


def find_border(stages: Stages, files: Sequence[Numbered], histogram: np.ndarray, budget: int) -> Border:
    """Which copies of all files a budget pays for.

    histogram: (BINS,) int64, copies offered by the upper bits of their keys
    """
    names = [file.source for file in files]
    if budget == 0 or budget >= histogram.sum():
        return Border(ALL if budget else NONE, (0,) * len(files))
    upper = border_of(histogram, budget)
    left = budget - int(histogram[upper + 1 :].sum())
    within = np.zeros(BINS, dtype=np.int64)
    for _, found in stages.each(lower, [Within(file, upper) for file in files], names, "finding the border"):
        within += found
    stages.check(len(files))
    key, spare = key_within(within, upper, left)
    tied = stages.all(ties, [AtKey(file, key) for file in files], names, "counting ties")
    return Border(key, share_ties(spare, tied))


def find_nearest(stages: Stages, files: Sequence[Numbered], x: np.ndarray, k: int, title: str) -> Nearest:
    """The exact k nearest among the vectors of all files. x: (q, dim) float32, as stored"""
    best, names = nothing(len(x), k), [file.source for file in files]
    for _, found in stages.each(nearest, [Asked(file, x, k) for file in files], names, title):
        best = merged(best, found)
    stages.check(len(files))
    return best
