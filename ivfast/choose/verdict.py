"""Which epoch is exported: the best on held-out vectors, or k-means where none is better."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.judgement import SAME, Curves, Judgement, eligible, is_gain, value

WAYS = (0.7, 0.5, 0.35, 0.2)  # parts of the way from k-means to the last epoch that are judged as well


class Candidate(NamedTuple):
    """One router at the end of one epoch."""

    epoch: int  # 0 is k-means
    k: float
    judgement: Judgement
    arrays: dict[str, np.ndarray]  # weights by name; u alone for centers; none for k-means
    way: float = 1.0  # how much of the way from the start to the epoch's weights; 0: the start, where one was given

    @property
    def is_kmeans(self) -> bool:
        """Whether it is k-means itself."""
        return self.epoch == 0 and self.way > 0


class Choice(NamedTuple):
    """What has been seen of one router so far."""

    start: Candidate  # k-means
    best: Candidate | None  # the latest eligible epoch within 0.5 % of the least value
    values: tuple[float, ...]  # of epochs 1, 2, ..
    least: float  # of the eligible epochs
    given: Candidate | None = None  # where training started, if not at k-means


class Verdict(NamedTuple):
    """What is exported, and why."""

    chosen: Candidate
    gain: float  # over k-means, as a share of its value
    error: float  # standard error of the gain
    text: str


def first_choice(start: Candidate) -> Choice:
    """Before the first epoch."""
    return Choice(start, None, (), float("inf"))


def seen(choice: Choice, candidate: Candidate, kmeans: list[Curves]) -> Choice:
    """After one more epoch."""
    found = value(candidate.judgement, kmeans)
    choice = choice._replace(values=(*choice.values, found))
    if not eligible(candidate.judgement, choice.start.judgement):
        return choice
    least = min(choice.least, found)
    best = candidate if found <= (1 + SAME) * least else choice.best
    return choice._replace(best=best, least=least)


def over_kmeans(found: float, choice: Choice, kmeans: list[Curves]) -> float:
    """A value over that of k-means' own centers stored alike, for people: 1 is no gain."""
    return found / value(choice.start.judgement, kmeans)


def part_of_the_way(candidate: Candidate, start_k: float, way: float) -> Candidate:
    """Weights and k between the start and an epoch.

    Where learn has few vectors a bucket, training learns them by heart. A part of the way does so less. u and the last
    layer are 0 at the start, so they are shrunk; k is interpolated in its logarithm.

    way: how much of it, 0 to 1
    """
    layers = [name for name in candidate.arrays if name.startswith("layers_")]
    last = max(layers, key=_layer).split(".")[0] if layers else ""
    arrays = {
        name: array * np.float32(way) if name == "u" or name.split(".")[0] == last else array
        for name, array in candidate.arrays.items()
    }
    return candidate._replace(arrays=arrays, k=start_k ** (1 - way) * candidate.k**way, way=way)


def _layer(name: str) -> int:
    return int(name.split(".")[0].removeprefix("layers_"))


def near_the_least(choice: Choice, shorter: list[Candidate], kmeans: list[Curves]) -> list[Candidate]:
    """The best epoch and the eligible parts of the way to the last, as far as within 0.5 % of the least value.

    Where a start was given it is the last of them, however far from the least: better than no gain at all.

    shorter: parts of the way, the longest first
    returns: likewise
    """
    ways = [choice.best] if choice.best else []
    others = [*shorter, choice.given] if choice.given else shorter
    ways += [candidate for candidate in others if eligible(candidate.judgement, choice.start.judgement)]
    found = [value(candidate.judgement, kmeans) for candidate in ways]
    return [c for c, v in zip(ways, found, strict=True) if v <= (1 + SAME) * min(found) or c is choice.given]


def decide(choice: Choice, shorter: list[Candidate], kmeans: list[Curves], seed: int) -> Verdict:
    """Choose what gains most for sure of what is near the least value: gain less its standard error, else k-means.

    Ways of almost one value differ in what of it was learned by heart, and a shorter one has a smaller error. A given
    start is taken where nothing else gains for sure.
    """
    near = near_the_least(choice, shorter, kmeans)
    verdicts = [_judge(choice, candidate, kmeans, seed) for candidate in near]
    sure = [verdict for candidate, verdict in zip(near, verdicts, strict=True) if verdict.chosen is candidate]
    trained = [verdict for verdict in sure if verdict.chosen is not choice.given]
    if sure:
        return max(trained or sure, key=lambda verdict: verdict.gain - verdict.error)
    none = Verdict(choice.start, 0.0, 0.0, "no epoch was as good as k-means on held-out vectors")
    return next(iter(verdicts), none)


def _judge(choice: Choice, candidate: Candidate, kmeans: list[Curves], seed: int) -> Verdict:
    start = choice.start
    sure, gain, error = is_gain(candidate.judgement, start.judgement, kmeans, seed)
    shown = f"{100 * gain:.1f} % less scanned than k-means on held-out vectors (standard error {100 * error:.1f} %)"
    epoch = f"epoch {candidate.epoch}"
    if candidate is choice.given:
        epoch = "the given start"
    elif candidate.way < 1:
        epoch += f", {candidate.way:g} of its way from {'the given start' if choice.given else 'k-means'}"
    if sure:
        return Verdict(candidate, gain, error, f"{epoch}: {shown}")
    return Verdict(start, gain, error, f"no sure gain on held-out vectors (best {epoch}: {shown})")
