"""Which epoch is exported: the best on held-out vectors, or k-means where none is better."""

from typing import NamedTuple

import numpy as np

from ivfast.validation import SAME, Curves, Judgement, eligible, is_gain, value


class Candidate(NamedTuple):
    """One router at the end of one epoch."""

    epoch: int  # 0 is k-means
    k: float
    judgement: Judgement
    arrays: dict[str, np.ndarray]  # weights by name; u alone for centers; none for k-means


class Choice(NamedTuple):
    """What has been seen of one router so far."""

    start: Candidate  # epoch 0
    best: Candidate | None  # the latest eligible epoch within 0.5 % of the least value
    values: tuple[float, ...]  # of epochs 1, 2, ..
    least: float  # of the eligible epochs


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


def decide(choice: Choice, kmeans: list[Curves], seed: int) -> Verdict:
    """The best epoch where it gains for sure, else k-means."""
    if choice.best is None:
        return Verdict(choice.start, 0.0, 0.0, "no epoch was as good as k-means on held-out vectors")
    sure, gain, error = is_gain(choice.best.judgement, choice.start.judgement, kmeans, seed)
    told = f"{100 * gain:.1f} % less scanned than k-means on held-out vectors (standard error {100 * error:.1f} %)"
    if sure:
        return Verdict(choice.best, gain, error, f"epoch {choice.best.epoch}: {told}")
    return Verdict(
        choice.start, gain, error, f"no sure gain on held-out vectors (best epoch {choice.best.epoch}: {told})"
    )
