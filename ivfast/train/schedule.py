"""How large a step is."""

import math

import numpy as np

STEPS_PER_ROOT = 37.5  # steps a run needs, over sqrt(nlist): docs/experiments.md, "How many epochs"
FEWEST_EPOCHS, MOST_EPOCHS = 2, 20


def learning_rates(lr: float, epochs: int, warmup: int, n_steps: int) -> np.ndarray:
    """Learning rate of finite step t = 0, 1, ...: a linear rise, then a cosine to 0.

        lr (t + 1) / (warmup S)                                              t < warmup S
        lr (1 + cos(pi (t - warmup S) / ((epochs - warmup) S))) / 2          after

    n_steps: S, steps an epoch
    returns: (epochs S,) float64
    """
    t = np.arange(epochs * n_steps, dtype=np.float64)
    rise = warmup * n_steps
    fall = (epochs - warmup) * n_steps
    return np.where(
        t < rise,
        lr * (t + 1) / max(rise, 1),
        lr * (1 + np.cos(np.pi * (t - rise) / max(fall, 1))) / 2,
    )


def auto_epochs(n_train: int, batch_size: int, nlist: int) -> int:
    """Passes over learn that are worth their time: as many as make about 37.5 sqrt(nlist) steps, 2 to 20.

    Centers move by steps, however many vectors there are: a large learn is passed over less often.
    """
    n_steps = -(-n_train // batch_size)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS_PER_ROOT * math.sqrt(nlist) / n_steps)))


def auto_warmup(warmup: int, epochs: int) -> int:
    """The warmup that is asked for, at most a quarter of the epochs that were found, but one at least."""
    return min(warmup, max(1, epochs // 4))
