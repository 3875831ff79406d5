"""Training pairs: what each epoch sees, whatever the chunks."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.space import Space
from ivfast.data.vectors import Points
from ivfast.network.backend import Chunk
from ivfast.start.cells import Cells
from ivfast.start.neighbors import LearnSet, make_neighbors
from ivfast.train.pairs import CHUNK_BYTES, PairSource, ahead, chunk_steps, drop_mask, epoch_chunks, epoch_pairs
from tests.conftest import points_of

N, FTOPK, DIM = 130, 3, 4
HELD_OUT = np.arange(0, N, 6)
TRAIN = np.setdiff1d(np.arange(N), HELD_OUT)  # 108 rows


def make_source(batch_size: int = 16, drop_prop: float = 0.0, seed: int = 1) -> PairSource:
    """Rows that tell their number: row i is i + 1 in every entry."""
    rng = np.random.default_rng(0)
    neighbors = np.stack([rng.choice(TRAIN[row != TRAIN], FTOPK, replace=False) for row in TRAIN])
    rows = np.repeat(np.arange(1, N + 1, dtype=np.float32)[:, None], DIM, axis=1)
    found = make_neighbors(TRAIN, neighbors, HELD_OUT, np.zeros((len(HELD_OUT), FTOPK), np.int64), FTOPK)
    return PairSource(LearnSet(points_of(rows), found), batch_size, drop_prop, seed)


def numbers(side: np.ndarray) -> list[int]:
    """Row numbers of vectors without drop."""
    assert (side == side[:, :1]).all()
    return (side[:, 0].astype(int) - 1).tolist()


def steps_of(chunks: list[Chunk]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All steps that have a valid row."""
    steps = [step for chunk in chunks for step in zip(chunk.x, chunk.x_pair, chunk.valid, strict=True)]
    return [step for step in steps if step[2].any()]


@pytest.mark.parametrize("batch_size", [1, 16, 27, 108, 500])
def test_every_training_vector_is_x_once_an_epoch(batch_size: int):
    source = make_source(batch_size)
    steps = steps_of(list(epoch_chunks(source, 2, 3)))
    assert len(steps) == source.n_steps == -(-len(TRAIN) // batch_size)
    seen = [number for x, _, valid in steps for number in numbers(x[valid])]
    assert sorted(seen) == TRAIN.tolist()
    assert seen != sorted(seen)  # in a drawn order


def test_pair_is_one_of_its_neighbours_and_never_held_out():
    source = make_source()
    table = dict(zip(TRAIN.tolist(), source.learn.neighbors.train_neighbors.tolist(), strict=True))
    for epoch in (1, 2, 3):
        for x, x_pair, valid in steps_of(list(epoch_chunks(source, epoch, 4))):
            for one, other in zip(numbers(x[valid]), numbers(x_pair[valid]), strict=True):
                assert other in table[one]
                assert {one, other}.isdisjoint(HELD_OUT.tolist())


def test_neighbours_are_drawn_by_their_kinship_and_anew_each_epoch():
    source = make_source()
    counts = np.random.default_rng(1).integers(1, 9, (len(TRAIN), FTOPK)).astype(np.uint8)
    neighbors = source.learn.neighbors._replace(train_kinship=counts)
    source = source._replace(learn=source.learn._replace(neighbors=neighbors))
    drawn = np.empty((400, len(TRAIN)), dtype=np.int64)
    for epoch in range(400):
        left, right = epoch_pairs(source, epoch + 1)
        drawn[epoch] = right[np.argsort(left)]
    assert len({row.tobytes() for row in drawn}) == 400
    chance = counts / counts.sum(axis=1, keepdims=True)
    found = (drawn[:, :, None] == neighbors.train_neighbors).mean(axis=0)
    # standard deviation of a share of 400 draws: at most 0.025; five of them among 324 shares
    np.testing.assert_allclose(found, chance, atol=0.125)
    error = (found - chance) / np.sqrt(chance * (1 - chance) / 400)
    assert 0.9 < error.std() < 1.1


@pytest.mark.parametrize("other", [{"epoch": 2}, {"seed": 2}])
def test_epochs_and_seeds_differ(other: dict[str, int]):
    one = epoch_pairs(make_source(seed=1), 1)
    two = epoch_pairs(make_source(seed=other.get("seed", 1)), other.get("epoch", 1))
    assert (one[0] == two[0]).mean() < 0.1  # an order of 108: one in place on average
    again = epoch_pairs(make_source(seed=1), 1)
    np.testing.assert_array_equal(one, again)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 6), st.sampled_from([0.0, 0.4]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_pairs_never_depend_on_chunks(batch_size: int, steps: int, start: int, drop_prop: float):
    source = make_source(batch_size, drop_prop)
    start = min(start, source.n_steps - 1)
    whole = steps_of(list(epoch_chunks(source, 3, source.n_steps)))
    parts = steps_of(list(epoch_chunks(source, 3, steps, start)))
    assert len(parts) == source.n_steps - start
    for one, two in zip(whole[start:], parts, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("batch_size", [16, 500])
def test_padding_is_masked_and_zero(batch_size: int):
    source = make_source(batch_size, drop_prop=0.3)
    chunks = list(epoch_chunks(source, 1, 4))
    for chunk in chunks:
        assert chunk.x.shape == chunk.x_pair.shape == (4, batch_size, DIM)
        assert chunk.x.dtype == chunk.x_pair.dtype == np.float32
        assert chunk.valid.shape == (4, batch_size)
        assert (chunk.x[~chunk.valid] == 0).all()
        assert (chunk.x_pair[~chunk.valid] == 0).all()
        assert (chunk.x_pair[chunk.valid] > 0).all()
    assert sum(int(chunk.valid.sum()) for chunk in chunks) == len(TRAIN)


def test_pairs_do_not_depend_on_the_batch_size():
    orders = [
        [n for x, _, v in steps_of(list(epoch_chunks(make_source(b), 1, 2))) for n in numbers(x[v])] for b in (7, 50)
    ]
    assert orders[0] == orders[1]


def test_drop_zeroes_its_share_of_x_and_scales_the_rest():
    source = make_source(16, drop_prop=0.3)
    plain = steps_of(list(epoch_chunks(make_source(16), 1, 4)))
    dropped = steps_of(list(epoch_chunks(source, 1, 4)))
    zeros = 0
    for (x, x_pair, valid), (x_dropped, pair_dropped, _) in zip(plain, dropped, strict=True):
        assert x_pair.tobytes() == pair_dropped.tobytes()  # x' is never dropped
        kept = x_dropped[valid] != 0
        np.testing.assert_allclose(x_dropped[valid][kept], x[valid][kept] / 0.7, rtol=1e-6)
        zeros += int((~kept).sum())
    n = len(TRAIN) * DIM
    assert zeros == pytest.approx(0.3 * n, abs=4 * (0.21 * n) ** 0.5)


def test_drop_mask_has_its_share_of_zeros_and_a_mean_of_1():
    mask = drop_mask(1, 2, 3, (500, 200), 0.05)
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.95)}
    assert (mask == 0).mean() == pytest.approx(0.05, abs=4 * (0.0475 / mask.size) ** 0.5)
    assert ((mask == 0).mean(axis=0) < 1).all()  # entries are dropped, not dimensions
    assert ((mask == 0).mean(axis=1) < 0.5).all()  # nor vectors


@pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4)])
def test_drop_masks_of_seeds_epochs_and_steps_differ(other: tuple[int, int, int]):
    one, two = drop_mask(1, 2, 3, (100, 10), 0.5), drop_mask(*other, (100, 10), 0.5)
    assert 0.4 < (one == two).mean() < 0.6


@given(
    st.integers(1, 300), st.sampled_from([1, 64, 2048, 100_000]), st.sampled_from([2, 256, 2048]), st.integers(1, 20)
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_chunks_are_few_and_as_even_as_can_be(n_steps: int, batch_size: int, dim: int, most_steps: int):
    found = chunk_steps(n_steps, batch_size, dim, most_steps)
    fits = [s for s in range(1, most_steps + 1) if s == 1 or 2 * 4 * s * batch_size * dim <= CHUNK_BYTES]
    assert chunk_steps(n_steps, batch_size, dim) == chunk_steps(n_steps, batch_size, dim, 16)
    fewest = min(-(-n_steps // s) for s in fits)
    assert found == min(s for s in fits if -(-n_steps // s) == fewest)


def test_rows_come_through_the_space():
    source = make_source()
    moved = Points(source.learn.points.vectors, Space("L2", np.full(DIM, 3, np.float32), np.float32(2)))
    source = source._replace(learn=source.learn._replace(points=moved))
    chunk = next(epoch_chunks(source, 1, source.n_steps))
    left, right = epoch_pairs(source, 1)
    np.testing.assert_array_equal(chunk.x[chunk.valid][:, 0], (left + 1 - 3) / 2)
    np.testing.assert_array_equal(chunk.x_pair[chunk.valid][:, 0], (right + 1 - 3) / 2)


def in_cells(source: PairSource, block_pairs: int) -> PairSource:
    """The same in blocks: row i is in a drawn cell of nine, and the line of cells is drawn, too."""
    rng = np.random.default_rng(3)
    cells = Cells(rng.integers(0, 9, (N, 3)).astype(np.int32), rng.permutation(9).astype(np.int32))
    return source._replace(cells=cells, block_pairs=block_pairs)


@pytest.mark.parametrize(("batch_size", "padded"), [(16, 16), (27, 28), (500, 500), (501, 504)])
def test_a_step_in_blocks_has_the_same_pairs_in_the_order_of_the_line(batch_size: int, padded: int):
    plain = make_source(batch_size)
    source = in_cells(plain, 4)
    assert source.cells is not None
    for chunk, other in zip(epoch_chunks(source, 1, 3), epoch_chunks(plain, 1, 3), strict=True):
        assert chunk.cells is not None
        assert other.cells is None
        assert chunk.x.shape == (3, padded, DIM)
        assert (chunk.valid.shape, chunk.cells.shape, chunk.cells.dtype) == ((3, padded), (3, padded, 2, 3), np.int32)
        assert not chunk.x[~chunk.valid].any()
        for i in range(3):
            left, right = (numbers(side[i][chunk.valid[i]]) for side in (chunk.x, chunk.x_pair))
            unsorted = (numbers(side[i][other.valid[i]]) for side in (other.x, other.x_pair))
            assert sorted(zip(left, right, strict=True)) == sorted(zip(*unsorted, strict=True))
            cells = source.cells.nearest[np.array([left, right], dtype=np.int64).T]
            assert chunk.cells[i][chunk.valid[i]].tolist() == cells.tolist()
            places = source.cells.place[cells[:, 0, 0]]
            assert (np.diff(places) >= 0).all()
            assert chunk.valid[i].tolist() == sorted(chunk.valid[i], reverse=True)


def test_lists_are_made_anew_at_an_epoch_s_begin_and_every_so_many_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ivfast.train.pairs.LISTS_LAST", 10)
    source = in_cells(make_source(2), 2)  # 54 steps
    anew = [chunk.new_lists for chunk in epoch_chunks(source, 2, 4)]
    firsts = [i * 4 for i, new in enumerate(anew) if new]
    assert firsts == [0, 12, 20, 32, 40, 52]
    assert [chunk.new_lists for chunk in epoch_chunks(source, 2, 4, 8)] == anew[2:]
    assert not any(chunk.new_lists for chunk in epoch_chunks(make_source(2), 2, 4))


def test_the_next_chunk_is_read_while_one_is_used():
    read = [threading.Event() for _ in range(3)]

    def chunks() -> Iterator[Chunk]:
        for event, chunk in zip(read, epoch_chunks(make_source(), 1, 3), strict=False):
            event.set()
            yield chunk

    found = ahead(chunks())
    first = next(found)
    assert read[1].wait(20)
    rest = list(found)
    for one, two in zip([first, *rest], epoch_chunks(make_source(), 1, 3), strict=True):
        assert one.x.tobytes() == two.x.tobytes()


def test_an_error_in_reading_passes_through_and_who_stops_early_ends_the_thread():
    def broken() -> Iterator[Chunk]:
        yield next(epoch_chunks(make_source(), 1, 3))
        raise OSError("no such disk")

    found = ahead(broken())
    next(found)
    with pytest.raises(OSError, match="no such disk"):
        next(found)
    before = threading.active_count()
    stopped = ahead(epoch_chunks(make_source(), 1, 1))
    next(stopped)
    assert threading.active_count() == before + 1
    stopped.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert threading.active_count() == before
