"""Which pairs each training step sees: drawn once here, so both backends see the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ivfast.method import LISTS_LAST
from ivfast.network.backend import Chunk
from ivfast.runtime.draws import generator
from ivfast.start.cells import Cells
from ivfast.start.neighbors import LearnSet

CHUNK_BYTES = 128 << 20  # a chunk's pairs take at most this: a small part of a GPU's memory
LOG_SHARE = 0.5  # of an epoch's pairs that are a query's of a log
CHUNK_STEPS = 16  # a chunk has at most so many steps: enough to hide what starting a compiled call takes


class PairSource(NamedTuple):
    """All that the pairs of a run depend on."""

    learn: LearnSet
    batch_size: int
    drop_prop: float  # 0 without --use_drop
    seed: int
    cells: Cells | None = None  # a step's pairs stand in their order; None without blocks
    block_pairs: int = 1  # batches are padded to a multiple of it
    own: tuple[int, int] | None = None  # rows of a batch that are read, from the first up to the second; None: all

    @property
    def n_steps(self) -> int:
        """Steps an epoch: S = ceil(n_train / batch)."""
        return -(-self.learn.n_pairs // self.batch_size)

    @property
    def rows(self) -> int:
        """Of a batch, those of its padding too."""
        return -(-self.batch_size // self.block_pairs) * self.block_pairs


def chunk_steps(n_steps: int, batch_size: int, dim: int, most_steps: int = CHUNK_STEPS) -> int:
    """Steps in one chunk: as even as can be, so that the padding is small."""
    most = max(1, min(most_steps, CHUNK_BYTES // (8 * batch_size * dim)))
    return -(-n_steps // -(-n_steps // most))


def epoch_pairs(source: PairSource, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one epoch: every training vector once, each with one of its neighbours.

    Where queries of a log train as well, half of the pairs are theirs: each of them as often as the others but for
    one, and half of learn.

    The closer kin a neighbour is, the likelier it is drawn (see ivfast.start.kinship).

    returns: rows of learn, (n_train,) int64 and (n_train,) int32
    """
    neighbors, n_stored = source.learn.neighbors, source.learn.n_pairs
    train, nearest = neighbors.train, neighbors.train_neighbors
    rng = generator(source.seed, epoch, "order")
    order = rng.permutation(n_stored)
    if n_logged := len(train) - n_stored:
        half = round(LOG_SHARE * n_stored)
        rounds = [rng.permutation(n_logged) for _ in range(-(-half // n_logged))]
        order = np.concatenate([order[: n_stored - half], n_stored + np.concatenate(rounds)[:half]])
        order = order[rng.permutation(len(order))]
    column = draw_columns(generator(source.seed, epoch, "pair"), neighbors.train_kinship)
    return train[order], nearest[order, column[order]]


def draw_columns(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """One column of each row, as likely as its count. counts: (n, k) uint8, no row all zero; returns (n,) int64"""
    ticket = rng.integers(counts.sum(axis=1, dtype=np.int64))
    column, passed = np.zeros(len(counts), dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    for count in counts.T:  # not all at once: of ten million rows that would be a gigabyte
        passed += count
        column += passed <= ticket
    return column


def epoch_chunks(source: PairSource, epoch: int, steps: int, start: int = 0) -> Iterator[Chunk]:
    """The pairs of one epoch as arrays, `steps` steps at a time.

    start: the first step wanted
    """
    left, right = epoch_pairs(source, epoch)
    for first in range(start, source.n_steps, steps):
        yield _chunk(source, epoch, left, right, first, steps)


def _chunk(source: PairSource, epoch: int, left: np.ndarray, right: np.ndarray, first: int, steps: int) -> Chunk:
    batch, points, cells = source.batch_size, source.learn.points, source.cells
    x = np.zeros((steps, source.rows, points.dim), dtype=np.float32)
    x_pair = np.zeros_like(x)
    valid = np.zeros((steps, source.rows), dtype=bool)
    of_rows = None if cells is None else np.zeros((steps, source.rows, 2, cells.nearest.shape[1]), dtype=np.int32)
    own = slice(*(source.own or (0, source.rows)))
    for i in range(min(steps, source.n_steps - first)):
        at = slice((first + i) * batch, (first + i + 1) * batch)
        pairs = np.stack([left[at], right[at]], axis=1)
        n = len(pairs)
        if cells is not None and of_rows is not None:
            pairs = pairs[np.argsort(cells.place[cells.nearest[pairs[:, 0], 0]], kind="stable")]
            of_rows[i, :n] = cells.nearest[pairs]
        read = np.arange(n)[own]
        x[i, read] = points.x(pairs[read, 0])
        x_pair[i, read] = points.x(pairs[read, 1])
        valid[i, :n] = True
        if source.drop_prop:
            x[i, :n] *= drop_mask(source.seed, epoch, first + i, (batch, points.dim), source.drop_prop)[:n]
    new_lists = cells is not None and first // LISTS_LAST != (first - steps) // LISTS_LAST
    return Chunk(x, x_pair, valid, of_rows, new_lists)


def ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same chunks, each read by a thread while whoever asked for the one before is at work on it."""
    with ThreadPoolExecutor(1, thread_name_prefix="pairs") as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def drop_mask(seed: int, epoch: int, step: int, shape: tuple[int, int], drop_prop: float) -> np.ndarray:
    """What `use_drop` multiplies a batch of x by: 0 for a share drop_prop, else 1 / (1 - drop_prop).

    returns: float32 of the given shape (batch, dim)
    """
    keep = generator(seed, epoch, "drop", step).random(shape, dtype=np.float32) >= drop_prop
    return keep * np.float32(1 / (1 - drop_prop))
