"""The JAX backend: JAX, Flax and optax. Its one entry is make_backend."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from ivfast.network.backend import Best, Chunk, Goal, Metrics, Rank, Setup, check_names
from ivfast.runtime.errors import UserError
from ivfast_jax.model import Constants, DCNet, centers, nearest_buckets
from ivfast_jax.nearest import search
from ivfast_jax.optimizer import Moments, init_moments
from ivfast_jax.precision import LossScale, init_scale, make_policy
from ivfast_jax.rank import best_of_centers, best_of_net
from ivfast_jax.step import TrainState, forward, train_chunk


class Backend:
    """See ivfast.network.backend.Backend."""

    def __init__(self, setup: Setup, device: Any, precision: str) -> None:
        self.setup, self.device = setup, device
        self.policy = make_policy(precision)._replace(growth_interval=setup.growth_interval)
        self.network = DCNet(setup.param_list, setup.metric, self.policy)
        # what is exported is a float32 network, and is judged as one
        self._stat = "float64" if precision == "float64" else "float32"
        judged = DCNet(setup.param_list, setup.metric, make_policy(self._stat))
        self.constants = Constants(*(self._put_stat(getattr(setup, name)) for name in Constants._fields))
        # else XLA leaves out the rounding to a half type where it sees one go straight back
        options = {"xla_allow_excess_precision": False}
        chunk = partial(train_chunk, network=self.network, blocks=setup.blocks)
        self._chunk = jax.jit(chunk, donate_argnums=0, compiler_options=options)
        self._forward = jax.jit(partial(forward, judged))
        self._best = jax.jit(partial(best_of_net, judged), static_argnames="width")
        self._centers = jax.jit(partial(centers, metric=setup.metric))
        listed = setup.blocks.listed if setup.blocks else 0
        self._lists = jax.jit(partial(nearest_buckets, metric=setup.metric, policy=self.policy, listed=listed))

    def put(self, weights: dict[str, np.ndarray]) -> dict[str, Array]:
        """Weights on the device, without moments. weights: as starting_weights, or some of them"""
        return {name: self._put_stat(value) for name, value in weights.items()}

    def weights(self, params: dict[str, Array]) -> dict[str, np.ndarray]:
        """The inverse of put, of the backend's own types."""
        return {name: np.array(_numpy(value)) for name, value in params.items()}

    def centers(self, params: dict[str, Array]) -> np.ndarray:
        """Where u moves the centers, (nlist, dim) float32, inside; u alone is read."""
        return np.array(_numpy(self._centers(params["u"], self.constants)), dtype=np.float32)

    def logits(self, params: dict[str, Array], x: np.ndarray, k: float) -> np.ndarray:
        """Logits z of the whole network, which has a deep path. x: (n, dim) float32; returns (n, nlist) float32"""
        z = self._forward(params, self._put_stat(x), self.constants, self._put_stat(k))
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
        found = self._best(params, points, self.constants, sharpness, *rest, width=width)
        return Best(*map(_numpy, found))

    def export(self, params: dict[str, Array]) -> dict[str, np.ndarray]:
        """`centers` as of centers, and the deep path's weights by name, float32."""
        deep = {name: np.array(_numpy(value), dtype=np.float32) for name, value in params.items() if name != "u"}
        return {"centers": self.centers(params)} | deep

    def init_state(self, weights: dict[str, np.ndarray], use: np.ndarray) -> TrainState:
        """weights: as starting_weights; use: (nlist,) m at the start, of both routers."""
        params = self.put(weights)
        routers = ("centers", "net") if self.setup.deep else ("centers",)
        return TrainState(
            params,
            init_moments(params),
            {router: self._put_stat(use) for router in routers},
            self._put(np.array(0, dtype=np.int32)),
            LossScale(*(self._put(_numpy(part)) for part in init_scale(self.setup.loss_scale, self.policy))),
            self._lists(params["u"], self.constants) if self.setup.blocks else None,
        )

    def train_chunk(self, state: TrainState, chunk: Chunk, goal: Goal) -> tuple[TrainState, Metrics]:
        """Run the chunk's steps. The state handed in must not be used again."""
        x, x_pair = self._put_stat(chunk.x), self._put_stat(chunk.x_pair)
        goal = Goal(*map(self._put_stat, goal))
        if chunk.new_lists:
            state = state._replace(lists=self._lists(state.params["u"], self.constants))
        cells = None if chunk.cells is None else self._put(chunk.cells)
        return self._chunk(state, x, x_pair, self._put(chunk.valid), goal, constants=self.constants, cells=cells)

    def use(self, state: TrainState) -> dict[str, np.ndarray]:
        """Mean use m by router, (nlist,) float64 each."""
        return {router: np.array(_numpy(m), dtype=np.float64) for router, m in state.use.items()}

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
            f"{group}/{name}": np.array(_numpy(value))
            for group, named in groups.items()
            for name, value in named.items()
        }
        return arrays | {"step": np.array(_numpy(state.step))}

    def from_state_dict(self, arrays: dict[str, np.ndarray]) -> TrainState:
        """The inverse of state_dict; raises KeyError on absent or unknown names."""
        names = ("params", "first", "second", "use", "scale", "blocks")
        groups: dict[str, dict[str, Array]] = {name: {} for name in names}
        for name, value in arrays.items():
            if name != "step":
                group, _, key = name.partition("/")
                groups[group][key] = self._put(value)
        loss_scale = LossScale(*(groups["scale"].pop(name) for name in LossScale._fields))
        if groups["scale"]:
            raise KeyError(f"unknown: {', '.join(groups['scale'])}")
        check_names(groups, self.setup)
        return TrainState(
            groups["params"],
            Moments(groups["first"], groups["second"]),
            groups["use"],
            self._put(np.array(arrays["step"], dtype=np.int32)),
            loss_scale,
            groups["blocks"].get("lists"),
        )

    def _put_stat(self, value: np.ndarray | float) -> Array:
        """On the device, of policy.stat."""
        return self._put(np.asarray(value, dtype=self._stat))

    def _put(self, array: np.ndarray) -> Array:
        """On the device, of the array's own type."""
        return jax.device_put(array, self.device)


def _numpy(value: Array) -> np.ndarray:
    """On the host; on the CPU perhaps the device's own memory."""
    return np.asarray(value)


def make_backend(setup: Setup, gpu: int, precision: str = "float32") -> Backend:
    """gpu: device number, -1 is the CPU; precision: as make_policy.

    raises: UserError where there is no such device
    """
    return Backend(setup, find_device(gpu), precision)


def rank_by_centers(centers: np.ndarray, metric: str, delta_floor: float, k: float, gpu: int) -> Rank:
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
    x: np.ndarray, blocks: Iterable[np.ndarray], k: int, metric: str, gpu: int
) -> tuple[np.ndarray, np.ndarray]:
    """The exact k nearest of x among all rows of the blocks, on the device of a --gpu number.

    See search of nearest.py.
    """
    return search(x, blocks, k, metric, find_device(gpu))


def find_device(gpu: int) -> Any:
    """The device of a --gpu number."""
    if gpu < 0:
        return _cpu()
    devices = _gpus()
    if gpu >= len(devices):
        raise UserError(f"--gpu {gpu}: JAX sees {len(devices)} GPUs; choose one of them, or --gpu -1 for the CPU")
    return devices[gpu]


def _cpu() -> Any:
    try:
        return jax.devices("cpu")[0]
    except (RuntimeError, AssertionError) as problem:  # jaxlib asserts that a GPU is there
        said = " ".join(str(problem).split())[:200] or "no platform that it may use is here"
        raise UserError(f"--gpu -1: JAX starts no CPU ({said}); unset JAX_PLATFORMS, or add cpu to it") from None


def _gpus() -> list[Any]:
    try:
        return jax.devices("gpu")
    except (RuntimeError, AssertionError):
        return []
