"""How large a step is."""

import numpy as np


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
