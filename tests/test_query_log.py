"""A log of queries: parted, searched for, joined with learn; and whole runs with it."""

import numpy as np

from ivfast.start.logged import split_log


def test_a_log_is_parted_into_all_of_its_queries() -> None:
    for n, n_held in ((100, 50), (200, 100), (2000, 500), (20_000, 4000)):
        trains, held = split_log(n, seed=1)
        assert len(held) == n_held
        assert np.array_equal(np.sort(np.r_[trains, held]), np.arange(n))
