"""Which epoch is exported, against the rule of docs/how-it-works.md in plain Python."""

import numpy as np
import pytest
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from ivfast.choose.judgement import Curves, Judgement, value
from ivfast.choose.verdict import Candidate, Choice, decide, first_choice, near_the_least, part_of_the_way, seen

KMEANS = 0.2  # share that k-means scans under ratio
START = (0.2, 0.2)  # benefit and nearest of epoch 0


def flat(share: float | np.ndarray) -> Curves:
    """Curves of 300 held-out vectors that find everything at once and scan a given share."""
    scanned = np.broadcast_to(np.asarray(share, dtype=np.float64), (300,))[:, None]
    return Curves(np.full((300, 1), 10), np.ones((300, 1)), scanned, 10)


def candidate(epoch: int, benefit: float | np.ndarray, nearest: float | np.ndarray | None) -> Candidate:
    nearest_curves = None if nearest is None else flat(nearest)
    return Candidate(epoch, 12.0 + epoch, Judgement([flat(benefit)], nearest_curves), {"centers": np.full(1, epoch)})


def after(epochs: list[tuple[float, float | None]], start: tuple[float, float | None] = START) -> Choice:
    choice = first_choice(candidate(0, *start))
    for epoch, shares in enumerate(epochs, 1):
        choice = seen(choice, candidate(epoch, *shares), [flat(KMEANS)])
    return choice


def value_by_hand(benefit: float, nearest: float | None) -> float:
    return benefit / KMEANS if nearest is None else (benefit + nearest) / 2 / KMEANS


def best_by_hand(epochs: list[tuple[float, float | None]]) -> int | None:
    """The latest eligible epoch within 0.5 % of the least of the eligible ones."""
    good = {
        epoch: value_by_hand(benefit, nearest)
        for epoch, (benefit, nearest) in enumerate(epochs, 1)
        if nearest is None or nearest <= 0.2
    }
    return max((epoch for epoch, found in good.items() if found <= 1.005 * min(good.values())), default=None)


# steps of 0.3 % of 0.2, so that no value lies on the border of 0.5 %
BENEFIT = st.integers(-10, 10).map(lambda i: 0.2 * (1 + 0.003 * i))
NEAREST = st.sampled_from([0.2, 0.2, 0.2, 0.2001, 0.1913])


@given_by(st.lists(st.tuples(BENEFIT, NEAREST), max_size=12))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_best_is_the_latest_eligible_epoch_near_the_least(epochs: list):
    choice = after(epochs)
    assert (choice.best.epoch if choice.best else None) == best_by_hand(epochs)
    assert choice.values == pytest.approx([value_by_hand(*shares) for shares in epochs])
    assert choice.start.epoch == 0


@given_by(st.lists(BENEFIT, max_size=12))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_every_epoch_of_a_net_is_eligible(benefits: list):
    epochs: list[tuple[float, float | None]] = [(benefit, None) for benefit in benefits]
    choice = after(epochs, (0.2, None))
    assert (choice.best.epoch if choice.best else None) == best_by_hand(epochs)


def test_epoch_that_is_worse_under_nearest_is_passed_over_however_good():
    choice = after([(0.15, 0.2), (0.01, 0.201), (0.16, 0.2)])
    assert decide(choice, [], [flat(KMEANS)], 1).chosen.epoch == 1


def test_scripted_run_ends_with_its_latest_good_epoch():
    choice = after([(0.19, 0.2), (0.17, 0.19), (0.1501, 0.19), (0.15, 0.19), (0.1505, 0.19), (0.18, 0.19)])
    verdict = decide(choice, [], [flat(KMEANS)], 1)
    assert verdict.chosen.epoch == 5
    assert verdict.chosen.k == 17.0
    assert verdict.chosen.arrays["centers"].tolist() == [5]
    assert verdict.gain == pytest.approx(1 - (0.1505 + 0.19) / 0.4)
    assert "epoch 5" in verdict.text


def test_kmeans_stays_where_no_epoch_is_eligible():
    verdict = decide(after([(0.1, 0.21), (0.1, 0.22)]), [], [flat(KMEANS)], 1)
    assert verdict.chosen.epoch == 0
    assert verdict.chosen.arrays["centers"].tolist() == [0]


@pytest.mark.parametrize("epochs", [[], [(0.3, 0.2)], [(0.199, 0.2)]])  # the last: 0.25 % better
def test_kmeans_stays_where_the_gain_is_under_half_a_percent(epochs: list):
    assert decide(after(epochs), [], [flat(KMEANS)], 1).chosen.epoch == 0


@pytest.mark.parametrize(("spread", "chosen"), [(0.3, 1), (0.5, 0)])
def test_kmeans_stays_where_the_gain_is_unsure(spread: float, chosen: int):
    """A gain of 4 %: two standard errors may be 4.5 %. Of 300 vectors one is the spread over 17.3: 1.7 % or 2.9 %."""
    noise = np.random.default_rng(0).standard_normal(300)
    noise = spread * (noise - noise.mean()) / noise.std()
    choice = first_choice(candidate(0, 0.2, None))
    choice = seen(choice, candidate(1, 0.2 * (0.96 + noise), None), [flat(KMEANS)])
    verdict = decide(choice, [], [flat(KMEANS)], 1)
    assert verdict.gain == pytest.approx(0.04)
    assert verdict.chosen.epoch == chosen


def test_seen_changes_nothing_it_was_handed():
    choice = after([(0.18, 0.2)])
    before = choice.values, choice.best, choice.least
    seen(choice, candidate(2, 0.1, 0.1), [flat(KMEANS)])
    assert (choice.values, choice.best, choice.least) == before


def test_part_of_the_way_shrinks_what_is_0_at_the_start_and_k_in_log():
    names = ["u", "layers_0.weight", "layers_9.weight", "layers_9.bias", "layers_10.weight", "layers_10.bias"]
    arrays = {name: np.full(2, 3, dtype=np.float32) for name in names}
    part = part_of_the_way(Candidate(4, 20.0, Judgement([flat(0.1)], None), arrays), 5.0, 0.5)
    assert {name: float(a[0]) for name, a in part.arrays.items()} == {
        **dict.fromkeys(names, 3.0), "u": 1.5, "layers_10.weight": 1.5, "layers_10.bias": 1.5,
    }  # fmt: skip
    assert all(a.dtype == np.float32 for a in part.arrays.values())
    assert (part.epoch, part.way) == (4, 0.5)
    assert part.k == pytest.approx(10)
    assert float(arrays["u"][0]) == 3


@given_by(st.lists(st.tuples(BENEFIT, NEAREST), min_size=4, max_size=4), BENEFIT, NEAREST)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_eligible_ways_near_the_least_are_kept_longest_first(shares: list, whole: float, nearest: float):
    choice = seen(first_choice(candidate(0, *START)), candidate(1, whole, nearest), [flat(KMEANS)])
    ways = (0.7, 0.5, 0.35, 0.2)
    shorter = [candidate(2, *s)._replace(way=way) for way, s in zip(ways, shares, strict=True)]
    good = {1.0: value_by_hand(whole, nearest)} if nearest <= 0.2 else {}
    good |= {way: value_by_hand(*s) for way, s in zip(ways, shares, strict=True) if s[1] <= 0.2}
    found = [c.way for c in near_the_least(choice, shorter, [flat(KMEANS)])]
    wanted = [way for way, v in good.items() if v <= 1.005 * min(good.values())]
    assert found == sorted(wanted, reverse=True)


@pytest.mark.parametrize(("spreads", "way"), [
    ((0.45, 0.3, 0.1), 0.35),  # a standard error is the spread over 17.3, the root of 300 vectors
    ((0.3, 0.45, 0.4), 0.7),
    ((0.45, 0.45, 0.45), 1.0),  # all alike: the first, that is the longest
])  # fmt: skip
def test_of_ways_as_good_the_one_is_taken_that_gains_most_for_sure(spreads: tuple[float, ...], way: float):
    noise = np.random.default_rng(0).standard_normal(300)
    noise = (noise - noise.mean()) / noise.std()
    whole = candidate(1, 0.2 * (0.96 + 0.45 * noise), None)
    choice = seen(first_choice(candidate(0, 0.2, None)), whole, [flat(KMEANS)])
    shorter = [
        candidate(2, 0.2 * (0.96 + spread * noise), None)._replace(way=part)
        for part, spread in zip((0.7, 0.5, 0.35), spreads, strict=True)
    ]
    assert decide(choice, shorter, [flat(KMEANS)], 1).chosen.way == way


def test_a_shorter_way_is_taken_where_the_longer_ones_are_unsure():
    noise = np.random.default_rng(0).standard_normal(300)
    noise = (noise - noise.mean()) / noise.std()
    choice = seen(first_choice(candidate(0, 0.2, None)), candidate(1, 0.2 * (0.96 + 0.5 * noise), None), [flat(KMEANS)])
    shorter = [
        candidate(2, 0.2 * (0.96 + spread * noise), None)._replace(way=way) for way, spread in ((0.7, 0.48), (0.5, 0.3))
    ]
    assert decide(choice, shorter, [flat(KMEANS)], 1).chosen.way == 0.5
    assert decide(choice, shorter[:1], [flat(KMEANS)], 1).text.startswith(
        "no sure gain on held-out vectors (best epoch 1:"
    )


def given(benefit: float | np.ndarray, nearest: float) -> Candidate:
    return candidate(0, benefit, nearest)._replace(way=0.0, arrays={})


@given_by(st.lists(st.tuples(BENEFIT, NEAREST), max_size=6), BENEFIT, NEAREST)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_what_is_chosen_is_no_worse_than_a_given_start(epochs: list, benefit: float, nearest: float):
    """But for the half percent that counts as equal. The gains are sure: all vectors scan the same."""
    start = given(benefit, nearest)
    chosen = decide(after(epochs)._replace(given=start), [], [flat(KMEANS)], 1).chosen
    found, at_start = (value(c.judgement, [flat(KMEANS)]) for c in (chosen, start))
    if nearest <= 0.2 and at_start < 0.995:
        assert found <= 1.005 * at_start
    assert found <= 1
    assert (chosen is start) <= (nearest <= 0.2 and at_start < 0.995)


def test_a_given_start_is_asked_last_where_what_is_better_is_unsure():
    noise = np.random.default_rng(0).standard_normal(300)
    noise = (noise - noise.mean()) / noise.std()
    start = given(0.19, 0.2)
    choice = after([(0.2 * (0.9 + 2 * noise), 0.2)])._replace(given=start)
    verdict = decide(choice, [], [flat(KMEANS)], 1)
    assert verdict.chosen is start
    assert verdict.text.startswith("the given start: 2.5 % less scanned than k-means")
    assert decide(choice._replace(given=given(0.19, 0.2001)), [], [flat(KMEANS)], 1).chosen.is_kmeans
    assert not start.is_kmeans


def test_part_of_the_way_from_a_given_start_is_told_as_such():
    choice = after([(0.19, 0.2)])._replace(given=given(0.18, 0.19))
    verdict = decide(choice, [candidate(4, 0.15, 0.18)._replace(way=0.35)], [flat(KMEANS)], 1)
    assert verdict.text.startswith("epoch 4, 0.35 of its way from the given start: ")


def test_verdict_tells_a_part_of_the_way():
    choice = seen(first_choice(candidate(0, *START)), candidate(3, 0.19, 0.2), [flat(KMEANS)])
    verdict = decide(choice, [candidate(4, 0.15, 0.18)._replace(way=0.35)], [flat(KMEANS)], 1)
    assert verdict.chosen.way == 0.35
    assert verdict.text.startswith("epoch 4, 0.35 of its way from k-means: 17.5 % less")
