"""The JAX backend: JAX, Flax and optax. Its one entry is make_backend."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ivfast.network.backend import Chunk, Goal, Metrics, Setup, check_names
from ivfast.runtime.errors import UserError
from ivfast_jax.model import Constants, DCNet, centers
from ivfast_jax.optimizer import Moments, init_moments
from ivfast_jax.precision import LossScale, init_scale, make_policy
from ivfast_jax.step import TrainState, forward, train_chunk


class Backend:
    """See ivfast.network.backend.Backend."""

    def __init__(self, setup: Setup, device: Any, precision: str) -> None:
        self.setup, self.device = setup, device
        self.policy = make_policy(precision)
        self.network = DCNet(setup.param_list, setup.metric, self.policy)
        # what is exported is a float32 network, and is judged as one
        judged = self.network.clone(policy=make_policy("float64" if precision == "float64" else "float32"))
        self.constants = Constants(*(self._put(np.asarray(getattr(setup, name))) for name in Constants._fields))
        # else XLA leaves out the rounding to a half type where it sees one go straight back
        options = {"xla_allow_excess_precision": False}
        chunk = partial(train_chunk, network=self.network)
        self._chunk = jax.jit(chunk, donate_argnums=0, compiler_options=options)
        self._forward = jax.jit(partial(forward, judged))
        self._centers = jax.jit(partial(centers, metric=setup.metric))

    def _put(self, array: np.ndarray | float) -> Array:
        return jax.device_put(np.asarray(array, dtype=self.policy.stat), self.device)

    def init_state(self, weights: dict[str, np.ndarray], use: np.ndarray) -> TrainState:
        """weights: as starting_weights; use: (nlist,) m at the start, of both routers."""
        params = {name: self._put(value) for name, value in weights.items()}
        routers = ("centers", "net") if self.setup.deep else ("centers",)
        return TrainState(
            params,
            init_moments(params),
            {router: self._put(use) for router in routers},
            jax.device_put(jnp.int32(0), self.device),
            jax.device_put(init_scale(self.setup.loss_scale, self.policy), self.device),
        )

    def train_chunk(self, state: TrainState, chunk: Chunk, goal: Goal) -> tuple[TrainState, Metrics]:
        """Run the chunk's steps. The state handed in must not be used again."""
        x, x_pair = self._put(chunk.x), self._put(chunk.x_pair)
        valid = jax.device_put(chunk.valid, self.device)
        return self._chunk(state, x, x_pair, valid, Goal(*map(self._put, goal)), constants=self.constants)

    def logits(self, state: TrainState, router: str, x: np.ndarray, k: float) -> np.ndarray:
        """Z of router centers or net. x: (n, dim) float32; returns (n, nlist) float32"""
        z = self._forward(state.params, self._put(x), self.constants, self._put(k))
        return np.asarray(z[router], dtype=np.float32)

    def export(self, state: TrainState) -> dict[str, np.ndarray]:
        """`centers` (nlist, dim) float32 inside, and the deep path's weights by name."""
        arrays = {"centers": self._centers(state.params["u"], self.constants)}
        arrays |= {name: value for name, value in state.params.items() if name != "u"}
        return {name: np.array(value, dtype=np.float32) for name, value in arrays.items()}

    def weights(self, state: TrainState) -> dict[str, np.ndarray]:
        """As starting_weights, of their own types."""
        return {name: np.array(value) for name, value in state.params.items()}

    def use(self, state: TrainState) -> dict[str, np.ndarray]:
        """M of each router, (nlist,) float64."""
        return {router: np.array(m, dtype=np.float64) for router, m in state.use.items()}

    def scale(self, state: TrainState) -> float:
        """The loss scale, 1 without mixed precision."""
        return float(state.scale.value)

    def state_dict(self, state: TrainState) -> dict[str, np.ndarray]:
        """Everything of a state, by name; the same names, shapes and types in all backends."""
        groups = {
            "params": state.params,
            "first": state.moments.first,
            "second": state.moments.second,
            "use": state.use,
            "scale": state.scale._asdict(),
        }
        arrays = {f"{group}/{name}": np.array(v) for group, named in groups.items() for name, v in named.items()}
        return arrays | {"step": np.array(state.step)}

    def from_state_dict(self, arrays: dict[str, np.ndarray]) -> TrainState:
        """The inverse of state_dict; raises KeyError on absent or unknown names."""
        groups: dict[str, dict[str, Array]] = {"params": {}, "first": {}, "second": {}, "use": {}, "scale": {}}
        for name, value in arrays.items():
            if name != "step":
                group, _, key = name.partition("/")
                groups[group][key] = jax.device_put(jnp.asarray(value), self.device)
        scale = LossScale(*(groups["scale"].pop(name) for name in LossScale._fields))
        if groups["scale"]:
            raise KeyError(f"unknown: {', '.join(groups['scale'])}")
        check_names(groups, self.setup)
        return TrainState(
            groups["params"],
            Moments(groups["first"], groups["second"]),
            groups["use"],
            jax.device_put(jnp.int32(arrays["step"]), self.device),
            scale,
        )


def make_backend(setup: Setup, gpu: int, precision: str = "float32") -> Backend:
    """gpu: device number, -1 is the CPU; precision: as make_policy.

    raises: UserError where there is no such device
    """
    return Backend(setup, find_device(gpu), precision)


def find_device(gpu: int) -> Any:
    """The device of a --gpu number."""
    if gpu < 0:
        return jax.devices("cpu")[0]
    try:
        devices = jax.devices("gpu")
    except RuntimeError:
        devices = []
    if gpu >= len(devices):
        raise UserError(f"--gpu {gpu}: JAX sees {len(devices)} GPUs; choose one of them, or --gpu -1 for the CPU")
    return devices[gpu]
