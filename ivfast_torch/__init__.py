"""The torch backend, the reference. Its one entry is make_backend."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ivfast.network.backend import Chunk, Goal, Metrics, Setup, check_names
from ivfast.runtime.errors import UserError
from ivfast_torch.model import Constants, DCNet, centers
from ivfast_torch.optimizer import Moments, init_moments
from ivfast_torch.precision import LossScale, init_scale, make_policy
from ivfast_torch.step import TrainState, forward, train_chunk


class Backend:
    """See ivfast.network.backend.Backend."""

    def __init__(self, setup: Setup, device: Any, precision: str) -> None:
        self.setup, self.device = setup, device
        self.policy = make_policy(precision)
        self.network = DCNet(setup.param_list, setup.metric, self.policy)
        # what is exported is a float32 network, and is judged as one
        judged = make_policy("float64" if precision == "float64" else "float32")
        self._judged = DCNet(setup.param_list, setup.metric, judged)
        self.constants = Constants(*(self._put(np.asarray(getattr(setup, name))) for name in Constants._fields))

    def _put(self, array: np.ndarray | float) -> Tensor:
        return torch.tensor(array, dtype=self.policy.stat, device=self.device)

    def init_state(self, weights: dict[str, np.ndarray], use: np.ndarray) -> TrainState:
        """weights: as starting_weights; use: (nlist,) m at the start, of both routers."""
        params = {name: self._put(value).requires_grad_() for name, value in weights.items()}
        routers = ("centers", "net") if self.setup.deep else ("centers",)
        return TrainState(
            params,
            init_moments(params),
            {router: self._put(use) for router in routers},
            torch.tensor(0, dtype=torch.int32),
            LossScale(*(part.to(self.device) for part in init_scale(self.setup.loss_scale, self.policy))),
        )

    def train_chunk(self, state: TrainState, chunk: Chunk, goal: Goal) -> tuple[TrainState, Metrics]:
        """Run the chunk's steps. The state handed in must not be used again."""
        x, x_pair = self._put(chunk.x), self._put(chunk.x_pair)
        valid = torch.tensor(chunk.valid, device=self.device)
        return train_chunk(
            state, x, x_pair, valid, Goal(*map(self._put, goal)), network=self.network, constants=self.constants
        )

    def logits(self, state: TrainState, router: str, x: np.ndarray, k: float) -> np.ndarray:
        """Z of router centers or net. x: (n, dim) float32; returns (n, nlist) float32"""
        with torch.no_grad():
            z = forward(self._judged, state.params, self._put(x), self.constants, self._put(k))
        return z[router].to(torch.float32).cpu().numpy()

    def export(self, state: TrainState) -> dict[str, np.ndarray]:
        """`centers` (nlist, dim) float32 inside, and the deep path's weights by name."""
        with torch.no_grad():
            arrays = {"centers": centers(state.params["u"], self.constants, self.setup.metric)}
        arrays |= {name: value for name, value in state.params.items() if name != "u"}
        return {name: _numpy(value).astype(np.float32) for name, value in arrays.items()}

    def weights(self, state: TrainState) -> dict[str, np.ndarray]:
        """As starting_weights, of their own types."""
        return {name: _numpy(value) for name, value in state.params.items()}

    def use(self, state: TrainState) -> dict[str, np.ndarray]:
        """M of each router, (nlist,) float64."""
        return {router: _numpy(m).astype(np.float64) for router, m in state.use.items()}

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
        arrays = {f"{group}/{name}": _numpy(v) for group, named in groups.items() for name, v in named.items()}
        return arrays | {"step": _numpy(state.step)}

    def from_state_dict(self, arrays: dict[str, np.ndarray]) -> TrainState:
        """The inverse of state_dict; raises KeyError on absent or unknown names."""
        groups: dict[str, dict[str, Tensor]] = {"params": {}, "first": {}, "second": {}, "use": {}, "scale": {}}
        for name, value in arrays.items():
            if name != "step":
                group, _, key = name.partition("/")
                groups[group][key] = torch.tensor(value, device=self.device).requires_grad_(group == "params")
        scale = LossScale(*(groups["scale"].pop(name) for name in LossScale._fields))
        if groups["scale"]:
            raise KeyError(f"unknown: {', '.join(groups['scale'])}")
        check_names(groups, self.setup)
        return TrainState(
            groups["params"],
            Moments(groups["first"], groups["second"]),
            groups["use"],
            torch.tensor(int(arrays["step"]), dtype=torch.int32),
            scale,
        )


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()


def make_backend(setup: Setup, gpu: int, precision: str = "float32") -> Backend:
    """gpu: device number, -1 is the CPU; precision: as make_policy.

    raises: UserError where there is no such device
    """
    return Backend(setup, find_device(gpu), precision)


def find_device(gpu: int) -> Any:
    """The device of a --gpu number."""
    if gpu < 0:
        return torch.device("cpu")
    devices = torch.cuda.device_count()
    if gpu >= devices:
        raise UserError(f"--gpu {gpu}: torch sees {devices} GPUs; choose one of them, or --gpu -1 for the CPU")
    return torch.device("cuda", gpu)
