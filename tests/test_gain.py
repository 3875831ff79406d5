"""When a trained epoch replaces k-means: eligible, and a gain that is sure."""

import math

import numpy as np
import pytest

from ivfast.choose.judgement import Curves, Judgement, eligible, is_gain, standard_error


def flat(share: float | np.ndarray, n: int = 400) -> Curves:
    """Curves that find everything at once and scan a given share."""
    scanned = np.broadcast_to(np.asarray(share, dtype=np.float64), (n,))[:, None]
    return Curves(np.full((n, 1), 10), np.ones((n, 1)), scanned, 10)


def judgement(benefit: float | np.ndarray, nearest: float | np.ndarray | None = None) -> Judgement:
    return Judgement([flat(benefit)], None if nearest is None else flat(nearest))


def test_epoch_worse_than_kmeans_under_nearest_is_not_eligible():
    start = judgement(0.3, 0.20)
    assert eligible(judgement(0.1, 0.20), start)
    assert eligible(judgement(0.4, 0.19), start)
    assert not eligible(judgement(0.1, 0.201), start)
    assert eligible(judgement(0.9), judgement(0.3))  # a net has no nearest


def test_standard_error_is_that_of_the_mean_difference():
    rng = np.random.default_rng(1)
    before, after = rng.normal(0.5, 0.1, 400), rng.normal(0.4, 0.1, 400)
    found = standard_error(judgement(after), judgement(before), [flat(0.25)], seed=3)
    expected = (before - after).std() / math.sqrt(400) / 0.25
    assert found == pytest.approx(expected, rel=0.2)  # 200 resamples: 5 % of itself


def test_standard_error_pairs_the_resamples():
    before = np.random.default_rng(1).normal(0.5, 0.1, 400)
    found = standard_error(judgement(before - 0.01), judgement(before), [flat(0.25)], seed=3)
    assert found == pytest.approx(0, abs=1e-9)


def test_standard_error_depends_on_the_seed_alone():
    rng = np.random.default_rng(1)
    sides = judgement(rng.normal(0.4, 0.1, 400)), judgement(rng.normal(0.5, 0.1, 400))
    one, two, other = (standard_error(*sides, [flat(0.25)], seed) for seed in (3, 3, 4))
    assert one == two
    assert one != other


@pytest.mark.parametrize(("better", "spread", "sure"), [
    (0.004, 0.0, False),  # under half a percent, however sure
    (0.006, 0.0, True),
    (0.02, 0.3, False),  # standard error of 400 at a spread of 0.3 is 0.015: two of them are more than 2.5 %
    (0.02, 0.22, True),  # 0.011: more than the gain, but less than 0.5 % worse
    (0.006, 0.16, False),  # 0.008
    (-0.1, 0.0, False),
])  # fmt: skip
def test_gain_must_pass_half_a_percent_and_surely_be_no_loss_of_it(better: float, spread: float, sure: bool):
    noise = np.random.default_rng(5).standard_normal(400)
    noise = spread * (noise - noise.mean()) / noise.std()
    found, gain, error = is_gain(judgement(0.5 * (1 - better + noise)), judgement(0.5), [flat(0.3)], seed=1)
    assert gain == pytest.approx(better, abs=1e-9)
    assert error == pytest.approx(spread / 20, rel=0.2)
    assert found == sure
