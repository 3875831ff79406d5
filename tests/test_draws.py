"""Random numbers: repeatable, and of their own for each seed, epoch, stream and part."""

from itertools import combinations

import numpy as np
import pytest

from ivfast.runtime.draws import STREAMS, generator, spread


def test_same_arguments_draw_the_same():
    one, two = (generator(3, 2, "pair", 5).integers(1 << 62, size=100) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_every_seed_epoch_stream_and_part_draws_its_own():
    keys = [(s, e, name, p) for s in (0, 1) for e in (0, 1, 2) for name in STREAMS for p in (0, 1)]
    drawn = {key: generator(*key).integers(1 << 62, size=4).tolist() for key in keys}
    for one, two in combinations(keys, 2):
        assert not set(drawn[one]) & set(drawn[two]), (one, two)


def test_a_part_never_runs_into_the_next():
    long = generator(1, 1, "drop", 0).integers(1 << 62, size=200_000)
    following = generator(1, 1, "drop", 1).integers(1 << 62, size=1000)
    assert not np.isin(following, long).any()


def test_drawing_in_pieces_equals_drawing_at_once():
    whole = generator(1, 1, "order").random(1000)
    rng = generator(1, 1, "order")
    np.testing.assert_array_equal(whole, np.concatenate([rng.random(n) for n in (1, 499, 500)]))


def test_global_seeding_is_not_touched():
    np.random.seed(5)  # noqa: NPY002
    generator(1, 1, "order").random(10)
    assert np.random.random() == np.random.RandomState(5).random()  # noqa: NPY002


def test_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        generator(1, 1, "shuffle")


def test_spread_is_even_and_reaches_both_ends():
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(101, 5).tolist() == [0, 25, 50, 75, 100]
    found = spread(20_000, 4096)
    assert len(np.unique(found)) == 4096
    assert (found[0], found[-1]) == (0, 19_999)
