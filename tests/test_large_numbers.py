"""Numbers beyond 32 bits, and beyond the 16 of small tables: of rows, places, logits, and of what FAISS counts."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ivfast_jax.model
import ivfast_jax.optimizer
import ivfast_jax.precision
import ivfast_jax.step
import ivfast_torch.model
import ivfast_torch.precision
import ivfast_torch.step
from ivfast.data.vectors import Vectors
from ivfast.network.backend import Goal, weight_shapes
from ivfast.runtime.errors import UserError
from ivfast.start.descent import check_descent
from ivfast.start.kmeans import most_a_bucket, n_sampled
from ivfast.store.demand import Demand, Probes, TileAskers
from ivfast.store.reverse import reverse_neighbors, reverse_of

LARGEST = 2**31 - 1
BATCH, NLIST, DIM = 40_000, 65_536, 8  # 2 x 2.6e9 logits
PARAM_LIST = (DIM, 12, NLIST)

each_precision = pytest.mark.parametrize("precision", ["float32", "O2-float16"])


def probes_of(nlist: int, buckets: np.ndarray) -> Probes:
    """Where askers look; what it costs is all alike."""
    above = np.linspace(3, -3, buckets.size).reshape(buckets.shape).astype(np.float32)
    return Probes(buckets, above, np.zeros(nlist, np.float32), np.ones(nlist, np.float32))


def test_cells_of_a_tile_are_counted_beyond_32_bits() -> None:
    """Row 1,023 of 4 million buckets: int32 rows or buckets would wrap."""
    n, nlist = 1024, 1 << 22
    own = np.arange(n, dtype=np.int32)
    none = np.empty(0, dtype=np.int32)
    buckets = np.full((n, 2), nlist - 1, dtype=np.int32)
    demand = Demand(reverse_neighbors(none, none, none, own, np.ones(1, np.float32)), probes_of(nlist, buckets))
    cell = demand.askers(0, n).cell
    assert cell.max() == n * nlist - 1
    assert cell.min() == nlist - 1


@pytest.mark.parametrize("width", [10, 32_767, 32_768, 70_000])
def test_chances_of_a_vector_in_more_buckets_than_16_bits_count(width: int) -> None:
    """The asker looks into the last bucket of the vector, and into one that the vector is not in."""
    nlist = width + 2
    probes = probes_of(nlist, np.array([[width - 1, width + 1]], dtype=np.int32))
    cell = probes.buckets.astype(np.int64)
    askers = TileAskers(np.array([0]), np.array([0]), np.ones(1, np.float32), 1.0, cell, probes.above, probes)
    chances = askers.chances(np.arange(width, dtype=np.int32)[None], 1.0)
    assert np.flatnonzero(chances).tolist() == [width - 1]
    assert chances[0, -1] == pytest.approx(1 / (1 + np.exp(-3)))


@pytest.mark.parametrize("k", [65_534, 65_535, 65_536, 70_000])
def test_place_of_an_asker_beyond_16_bits_is_kept(k: int) -> None:
    weights = np.arange(1, k + 1, dtype=np.float32)
    stored = np.concatenate([np.delete(np.arange(k + 1), row) for row in (0, 1)])  # of two askers all others
    asker, place = np.repeat(np.arange(2), k), np.tile(np.arange(k), 2)
    reverse = reverse_neighbors(stored, asker, place, np.arange(k + 1), weights)
    last = reverse.place[reverse.first[k] : reverse.first[k + 1]]  # itself, then as the last of both
    assert last.tolist() == [0, k, k]
    assert reverse.weights[last].tolist() == [1, k, k]


def test_points_a_bucket_fit_the_32_bits_in_which_faiss_counts_them() -> None:
    for n, nlist in ((1000, 7), (10**10, 16_384), (10**12, 1 << 24), (10**12, LARGEST)):
        n_points = n_sampled(n, nlist)
        most = most_a_bucket(n_points, nlist)
        assert most <= LARGEST
        assert most * nlist >= n_points  # FAISS leaves none out


def test_more_rows_than_32_bits_number_are_refused() -> None:
    """A map of one row, as long as wanted."""

    def vectors(n: int) -> Vectors:
        return Vectors("base", Path("base.npy"), np.broadcast_to(np.float32(1), (n, 4)))

    check_descent(vectors(LARGEST))
    with pytest.raises(UserError, match=r"base: base.npy has 2,147,483,648 vectors, expected 2,147,483,647 at most"):
        check_descent(vectors(LARGEST + 1))


def test_numbers_of_rows_near_the_largest_are_kept() -> None:
    own = np.array([LARGEST, LARGEST - 1])
    reverse = reverse_neighbors(
        np.array([0, 1]), np.array([LARGEST - 1, LARGEST]), np.zeros(2, int), own, np.ones(1, np.float32)
    )
    assert reverse.asker.tolist() == [LARGEST, LARGEST - 1, LARGEST - 1, LARGEST]
    few = reverse_of(np.array([[1], [0]], dtype=np.int32), np.ones(1, np.float32))
    assert few.asker.tolist() == [0, 1, 1, 0]


@each_precision
def test_a_step_of_more_logits_than_32_bits_number_can_be_traced_by_jax(precision: str) -> None:
    def of(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    package = ivfast_jax
    network = package.model.DCNet(PARAM_LIST, "L2", package.precision.make_policy(precision))
    params = {name: of(*shape) for name, shape in weight_shapes(PARAM_LIST).items()}
    constants = package.model.Constants(of(NLIST, DIM), of(NLIST), of(DIM), of(), of(), of(100), of())
    count = of(dtype=jnp.int32)
    state = package.step.TrainState(
        params, package.optimizer.Moments(params, params), dict.fromkeys(("centers", "net"), of(NLIST)), count,
        package.precision.LossScale(of(), count, count, count),
    )  # fmt: skip
    x, goal = of(1, BATCH, DIM), Goal(*(of() for _ in range(4)))

    chunk = partial(package.step.train_chunk, network=network)
    after, metrics = jax.eval_shape(chunk, state, x, x, of(1, BATCH, dtype=jnp.bool_), goal, constants=constants)
    assert {name: value.shape for name, value in after.params.items()} == weight_shapes(PARAM_LIST)
    assert metrics.n_pairs.shape == ()


@each_precision
def test_a_step_of_more_logits_than_32_bits_number_can_be_traced_by_torch(precision: str) -> None:
    def of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    package = ivfast_torch
    network = package.model.DCNet(PARAM_LIST, "L2", package.precision.make_policy(precision))
    params = {name: of(*shape) for name, shape in weight_shapes(PARAM_LIST).items()}
    constants = package.model.Constants(of(NLIST, DIM), of(NLIST), of(DIM), of(), of(), of(100), of())
    x, goal = of(BATCH, DIM), Goal(*(of() for _ in range(4)))
    use = dict.fromkeys(("centers", "net"), of(NLIST))
    gradients, losses = package.step.gradients_of(
        params, of(), use, x, x, of(BATCH, dtype=torch.bool), goal, network, constants
    )
    assert {name: tuple(value.shape) for name, value in gradients.items()} == weight_shapes(PARAM_LIST)
    assert losses.mean_p["net"].shape == (NLIST,)
