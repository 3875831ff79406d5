"""Learning rates against their formula in plain Python."""

import math

import numpy as np
import pytest

from ivfast.train.schedule import auto_epochs, auto_warmup, learning_rates

CASES = [  # lr, epochs, warmup, steps an epoch
    (0.0005, 20, 3, 7),
    (1.0, 4, 1, 1),
    (0.01, 5, 0, 3),
    (0.01, 2, 1, 100),
    (2.0, 1, 0, 1),
]


def by_hand(lr: float, epochs: int, warmup: int, n_steps: int) -> list[float]:
    rates = []
    for t in range(epochs * n_steps):
        if t < warmup * n_steps:
            rates.append(lr * (t + 1) / (warmup * n_steps))
        else:
            done = (t - warmup * n_steps) / ((epochs - warmup) * n_steps)
            rates.append(lr * (1 + math.cos(math.pi * done)) / 2)
    return rates


@pytest.mark.parametrize("case", CASES)
def test_rates_follow_the_formula(case: tuple[float, int, int, int]):
    np.testing.assert_allclose(learning_rates(*case), by_hand(*case), rtol=1e-12)  # float64 rounding


@pytest.mark.parametrize("case", CASES)
def test_there_is_one_rate_a_step_and_each_moves(case: tuple[float, int, int, int]):
    lr, epochs, _, n_steps = case
    rates = learning_rates(*case)
    assert rates.shape == (epochs * n_steps,)
    assert (rates > 0).all()  # the last step included
    assert rates.max() <= lr


def test_without_warmup_the_first_step_is_whole():
    assert learning_rates(0.3, 5, 0, 4)[0] == 0.3


def test_warmup_rises_to_the_whole_rate_at_its_end():
    rates = learning_rates(0.3, 5, 2, 4)
    assert (np.diff(rates[:8]) > 0).all()
    assert rates[7] == pytest.approx(0.3)
    assert rates[8] == pytest.approx(0.3)  # the cosine starts at its top
    assert (np.diff(rates[8:]) < 0).all()


def test_no_epochs_have_no_rates():
    assert learning_rates(0.1, 0, 0, 10).shape == (0,)


@pytest.mark.parametrize(
    ("n_train", "batch", "nlist", "epochs"),
    [
        (990_000, 2048, 4096, 5),  # 484 steps an epoch, 2,400 wanted
        (47_500, 2048, 256, 20),  # 24 steps, 600 wanted: the most
        (190_000, 2048, 1024, 13),  # 93 steps, 1,200 wanted
        (9_990_000, 2048, 16384, 2),  # 4,878 steps, 4,800 wanted: the fewest
        (1000, 2048, 32, 20),
        (990_000, 1024, 4096, 3),  # smaller steps are more
    ],
)
def test_epochs_follow_the_steps_that_centers_need(n_train: int, batch: int, nlist: int, epochs: int):
    assert auto_epochs(n_train, batch, nlist) == epochs


def test_warmup_is_at_most_a_quarter_of_the_epochs_that_were_found():
    assert [auto_warmup(3, epochs) for epochs in (2, 5, 8, 12, 20)] == [1, 1, 2, 3, 3]
    assert auto_warmup(1, 20) == 1
    assert auto_warmup(0, 5) == 0
