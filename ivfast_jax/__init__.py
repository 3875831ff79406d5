"""The JAX backend: JAX, Flax and optax. Its one entry is make_backend."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from ivfast.network.backend import Best, Chunk, Goal, Metrics, Rank, Setup, check_names
from ivfast.runtime.devices import Gpu, numbers_of, on_cpu
from ivfast.runtime.errors import UserError
from ivfast_jax import hosts as hosts
from ivfast_jax.layout import Layout, make_layout, state_places
from ivfast_jax.model import Constants, DCNet, centers, nearest_buckets
from ivfast_jax.nearest import search
from ivfast_jax.optimizer import Moments, init_moments
from ivfast_jax.precision import LossScale, init_scale, make_policy
from ivfast_jax.rank import best_of_centers, best_of_net
from ivfast_jax.step import TrainState, forward, train_chunk


class Backend:
    """See ivfast.network.backend.Backend.

    A state lies on the devices of all processes, and all of them train it together. Whatever else looks at weights does
    so on the devices of its own process, which hold all of them.
    """

    def __init__(self, setup: Setup, device: Layout, precision: str) -> None:
        layout = device  # of one or of many
        self.setup, self.layout, self.own = setup, layout, layout.of_process()
        self.policy = make_policy(precision)._replace(growth_interval=setup.growth_interval)
        self.network = DCNet(setup.param_list, setup.metric, self.policy)
        # what is exported is a float32 network, and is judged as one
        self._stat = "float64" if precision == "float64" else "float32"
        judged = DCNet(setup.param_list, setup.metric, make_policy(self._stat))
        self.constants = self._constants(layout)
        self.own_constants = self._constants(self.own) if layout.shared else self.constants
        # else XLA leaves out the rounding to a half type where it sees one go straight back
        options = {"xla_allow_excess_precision": False}
        chunk = partial(train_chunk, network=self.network, blocks=setup.blocks)
        result = state_places(layout, setup), layout.everywhere()
        self._chunk = jax.jit(chunk, donate_argnums=0, compiler_options=options, out_shardings=result)
        self._forward = jax.jit(partial(forward, judged))
        self._best = jax.jit(partial(best_of_net, judged), static_argnames="width")
        self._centers = jax.jit(partial(centers, metric=setup.metric))
        listed = setup.blocks.listed if setup.blocks else 0
        lists = partial(nearest_buckets, metric=setup.metric, policy=self.policy, listed=listed)
        self._lists = jax.jit(lists, out_shardings=self.own.everywhere())

    def put(self, weights: dict[str, np.ndarray]) -> dict[str, Array]:
        """Weights on the devices, without moments. weights: as starting_weights, or some of them"""
        return {name: self._put_stat(value, self.own.weight(name)) for name, value in weights.items()}

    def weights(self, params: dict[str, Array]) -> dict[str, np.ndarray]:
        """The inverse of put, of the backend's own types."""
        return {name: self._read(value) for name, value in params.items()}

    def centers(self, params: dict[str, Array]) -> np.ndarray:
        """Where u moves the centers, (nlist, dim) float32, inside; u alone is read."""
        return self._read(self._centers(self.layout.here(params["u"]), self.own_constants)).astype(np.float32)

    def logits(self, params: dict[str, Array], x: np.ndarray, k: float) -> np.ndarray:
        """Logits z of the whole network, which has a deep path. x: (n, dim) float32; returns (n, nlist) float32"""
        with jax.set_mesh(self.own.mesh):
            z = self._forward(self._here(params), self._put_stat(x), self.own_constants, self._put_stat(k))
        return _numpy(z["net"]).astype(np.float32, copy=False)

    def rank(
        self,
        params: dict[str, Array],
        k: float,
        x: np.ndarray,
        width: int,
        temperatures: np.ndarray,
        counted: np.ndarray,
    ) -> Best:
        """The best buckets of the whole network, which has a deep path. See Rank"""
        points, sharpness, *rest = (self._put_stat(value) for value in (x, k, temperatures, counted))
        with jax.set_mesh(self.own.mesh):
            found = self._best(self._here(params), points, self.own_constants, sharpness, *rest, width=width)
        return Best(*map(_numpy, found))

    def export(self, params: dict[str, Array]) -> dict[str, np.ndarray]:
        """`centers` as of centers, and the deep path's weights by name, float32."""
        deep = {name: self._read(value).astype(np.float32) for name, value in params.items() if name != "u"}
        return {"centers": self.centers(params)} | deep

    def init_state(self, weights: dict[str, np.ndarray], use: np.ndarray) -> TrainState:
        """weights: as starting_weights; use: (nlist,) m at the start, of both routers."""
        params, *moments = (
            {name: self._put_stat(value, self.layout.weight(name)) for name, value in group.items()}
            for group in (weights, *init_moments(weights))
        )
        routers = ("centers", "net") if self.setup.deep else ("centers",)
        scale = init_scale(self.setup.loss_scale, self.policy)
        return TrainState(
            params,
            Moments(*moments),
            {router: self._put_stat(use, self.layout.buckets()) for router in routers},
            self._put(np.array(0, dtype=np.int32), self.layout.everywhere()),
            LossScale(*(self._put(_numpy(part), self.layout.everywhere()) for part in scale)),
            self._new_lists(params) if self.setup.blocks else None,
        )

    def train_chunk(self, state: TrainState, chunk: Chunk, goal: Goal) -> tuple[TrainState, Metrics]:
        """Run the chunk's steps. The state handed in must not be used again."""
        if chunk.new_lists:
            state = state._replace(lists=self._new_lists(state.params))
        with jax.set_mesh(self.layout.mesh):
            return self._chunk(state, **self._on_devices(chunk, goal))

    def own_rows(self, n: int) -> tuple[int, int]:
        """Of n rows of a batch those that this process must read: from the first, up to the second."""
        return self.layout.own_rows(n + self._lacking(n))

    def use(self, state: TrainState) -> dict[str, np.ndarray]:
        """Mean use m by router, (nlist,) float64 each."""
        return {router: self._read(m).astype(np.float64) for router, m in state.use.items()}

    def loss_scale(self, state: TrainState) -> float:
        """1 without mixed precision."""
        return float(state.loss_scale.value)

    def state_dict(self, state: TrainState) -> dict[str, np.ndarray]:
        """Everything of a state, by name; the same names, shapes and types in all backends."""
        groups = {
            "params": state.params,
            "first": state.moments.first,
            "second": state.moments.second,
            "use": state.use,
            "scale": state.loss_scale._asdict(),
            "blocks": {} if state.lists is None else {"lists": state.lists},
        }
        arrays = {
            f"{group}/{name}": self._read(value) for group, named in groups.items() for name, value in named.items()
        }
        return arrays | {"step": self._read(state.step)}

    def from_state_dict(self, arrays: dict[str, np.ndarray]) -> TrainState:
        """The inverse of state_dict; raises KeyError on absent or unknown names."""
        names = ("params", "first", "second", "use", "scale", "blocks")
        groups: dict[str, dict[str, Any]] = {name: {} for name in names}
        for name, value in arrays.items():
            if name != "step":
                group, _, key = name.partition("/")
                groups[group][key] = value
        scale = {name: groups["scale"].pop(name) for name in LossScale._fields}
        if groups["scale"]:
            raise KeyError(f"unknown: {', '.join(groups['scale'])}")
        check_names(groups, self.setup)
        groups["scale"], everywhere = scale, self.layout.everywhere()
        placed = {
            group: {name: self._put(value, self.layout.place(group, name)) for name, value in named.items()}
            for group, named in groups.items()
        }
        return TrainState(
            placed["params"],
            Moments(placed["first"], placed["second"]),
            placed["use"],
            self._put(np.array(arrays["step"], dtype=np.int32), everywhere),
            LossScale(**placed["scale"]),
            placed["blocks"].get("lists"),
        )

    def _constants(self, layout: Layout) -> Constants:
        return Constants(
            *(self._put_stat(getattr(self.setup, name), layout.constant(name)) for name in Constants._fields)
        )

    def _new_lists(self, params: dict[str, Array]) -> Array:
        """Computed by each process for itself, to the same bits: a process that starts a run is alone."""
        lists = self._lists(self.layout.here(params["u"]), self.own_constants)
        return self._put(_numpy(lists), self.layout.everywhere()) if self.layout.shared else lists

    def _on_devices(self, chunk: Chunk, goal: Goal) -> dict[str, Any]:
        """What train_chunk of step.py takes beside the state."""
        at, everywhere = self.layout.batches(), self.layout.everywhere()
        sides = {name: self._put_stat(self._split(getattr(chunk, name)), at) for name in ("x", "x_pair")}
        cells = None if chunk.cells is None else self._put(self._split(chunk.cells), at)
        rest = {"valid": self._put(self._split(chunk.valid), at), "cells": cells, "constants": self.constants}
        return sides | rest | {"goal": Goal(*(self._put_stat(value, everywhere) for value in goal))}

    def _lacking(self, n: int) -> int:
        """Rows of a batch that lack until every device has as many. n: of the batch"""
        return -n % (self.layout.n_data * (self.setup.blocks.pairs if self.setup.blocks else 1))

    def _split(self, rows: np.ndarray) -> np.ndarray:
        """A chunk's rows with those that lack, which count for nothing. (steps, batch, ...)"""
        if not (lacking := self._lacking(rows.shape[1])):
            return rows
        return np.pad(rows, [(0, 0), (0, lacking)] + [(0, 0)] * (rows.ndim - 2))

    def _here(self, params: dict[str, Array]) -> dict[str, Array]:
        return {name: self.layout.here(value) for name, value in params.items()}

    def _read(self, value: Array) -> np.ndarray:
        """On the host, a copy."""
        return np.array(_numpy(self.layout.here(value)))

    def _put_stat(self, value: Any, where: NamedSharding | None = None) -> Array:
        """A number or an array, on the devices, of policy.stat. where: None: on all of this process, entirely"""
        return self._put(np.asarray(value, dtype=self._stat), where or self.own.everywhere())

    def _put(self, array: np.ndarray, where: NamedSharding) -> Array:
        """On the devices, of the array's own type."""
        return self.layout.put(array, where)


def _numpy(value: Array) -> np.ndarray:
    """On the host; on the CPU perhaps the device's own memory."""
    return np.asarray(value)


def make_backend(setup: Setup, gpu: Gpu, precision: str = "float32") -> Backend:
    """gpu: as --gpu; precision: as make_policy.

    raises: UserError where there is no such device
    """
    return Backend(setup, make_layout(find_devices(gpu), setup), precision)


def rank_by_centers(centers: np.ndarray, metric: str, delta_floor: float, k: float, gpu: Gpu) -> Rank:
    """What ranks buckets by a matrix of centers, on a device. See ivfast.network.backend.load_ranker"""
    device = find_device(gpu)

    def put(value: np.ndarray | float) -> Array:
        return jax.device_put(np.asarray(value, dtype=np.float32), device)

    c, sharpness, floor = put(centers), put(k), put(delta_floor)

    def rank(x: np.ndarray, width: int, temperatures: np.ndarray, counted: np.ndarray) -> Best:
        found = _best_of_centers(
            put(x), c, sharpness, floor, put(temperatures), put(counted), metric=metric, width=width
        )
        return Best(*map(_numpy, found))

    return rank


_best_of_centers = jax.jit(best_of_centers, static_argnames=("metric", "width"))


def find_nearest(
    x: np.ndarray, blocks: Iterable[np.ndarray], k: int, metric: str, gpu: Gpu
) -> tuple[np.ndarray, np.ndarray]:
    """The exact k nearest of x among all rows of the blocks, on the device of a --gpu number.

    See search of nearest.py.
    """
    return search(x, blocks, k, metric, find_device(gpu))


def find_devices(gpu: Gpu) -> list[Any]:
    """The devices of --gpu.

    raises: UserError where one is not there, or the framework trains on fewer
    """
    if on_cpu(gpu):
        return _cpus()
    devices = _gpus()
    if jax.distributed.is_initialized():
        return devices  # each process has named its own when it joined
    return [devices[number] for number in numbers_of(gpu, len(devices), "JAX")]


def find_device(gpu: Gpu) -> Any:
    """The first device of --gpu, for what runs on one alone."""
    return next(device for device in find_devices(gpu) if device.process_index == jax.process_index())


def _cpus() -> list[Any]:
    """One, unless XLA_FLAGS asks for more."""
    try:
        return jax.devices("cpu")
    except (RuntimeError, AssertionError) as problem:  # jaxlib asserts that a GPU is there
        said = " ".join(str(problem).split())[:200] or "no platform that it may use is here"
        raise UserError(f"--gpu -1: JAX starts no CPU ({said}); unset JAX_PLATFORMS, or add cpu to it") from None


def _gpus() -> list[Any]:
    try:
        return jax.devices("gpu")
    except (RuntimeError, AssertionError):
        return []
