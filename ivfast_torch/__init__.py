"""The torch backend, the reference. Its one entry is make_backend."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ivfast.network.backend import Best, Chunk, Goal, Metrics, Rank, Setup, check_names
from ivfast.runtime.devices import Gpu, numbers_of, on_cpu
from ivfast.runtime.errors import UserError
from ivfast_torch.model import Constants, DCNet, centers, nearest_buckets
from ivfast_torch.nearest import search
from ivfast_torch.optimizer import Moments, init_moments
from ivfast_torch.precision import LossScale, init_scale, make_policy
from ivfast_torch.rank import best_of_centers, best_of_net
from ivfast_torch.step import TrainState, forward, train_chunk

torch.from_numpy(np.empty(0))  # here, since torch only warns where it was built for another NumPy


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
        self._chunk = partial(train_chunk, network=self.network, blocks=setup.blocks)
        self._forward = partial(forward, judged)
        self._best = partial(best_of_net, judged)
        self._centers = partial(centers, metric=setup.metric)
        listed = setup.blocks.listed if setup.blocks else 0
        self._lists = partial(nearest_buckets, metric=setup.metric, policy=self.policy, listed=listed)

    def put(self, weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Weights on the device, without moments. weights: as starting_weights, or some of them"""
        return {name: self._put_stat(value) for name, value in weights.items()}

    def weights(self, params: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """The inverse of put, of the backend's own types."""
        return {name: np.array(_numpy(value)) for name, value in params.items()}

    def centers(self, params: dict[str, Tensor]) -> np.ndarray:
        """Where u moves the centers, (nlist, dim) float32, inside; u alone is read."""
        return np.array(_numpy(self._centers(params["u"], self.constants)), dtype=np.float32)

    def logits(self, params: dict[str, Tensor], x: np.ndarray, k: float) -> np.ndarray:
        """Logits z of the whole network, which has a deep path. x: (n, dim) float32; returns (n, nlist) float32"""
        z = self._forward(params, self._put_stat(x), self.constants, self._put_stat(k))
        return _numpy(z["net"]).astype(np.float32, copy=False)

    def rank(
        self,
        params: dict[str, Tensor],
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

    def export(self, params: dict[str, Tensor]) -> dict[str, np.ndarray]:
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
            torch.tensor(0, dtype=torch.int32),
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

    def own_rows(self, n: int) -> tuple[int, int]:
        """Of n rows of a batch those that this process must read: from the first, up to the second."""
        return 0, n

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
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in names}
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
            torch.tensor(arrays["step"], dtype=torch.int32),
            loss_scale,
            groups["blocks"].get("lists"),
        )

    def _put_stat(self, value: np.ndarray | float) -> Tensor:
        """On the device, of policy.stat."""
        return self._put(np.asarray(value, dtype=self._stat))

    def _put(self, array: np.ndarray) -> Tensor:
        """On the device, of the array's own type."""
        return torch.tensor(array, device=self.device)


def _numpy(value: Tensor) -> np.ndarray:
    """On the host; on the CPU perhaps the device's own memory."""
    return value.detach().cpu().numpy()


def make_backend(setup: Setup, gpu: Gpu, precision: str = "float32") -> Backend:
    """gpu: as --gpu; precision: as make_policy.

    raises: UserError where there is no such device
    """
    return Backend(setup, find_device(gpu), precision)


def rank_by_centers(centers: np.ndarray, metric: str, delta_floor: float, k: float, gpu: Gpu) -> Rank:
    """What ranks buckets by a matrix of centers, on a device. See ivfast.network.backend.load_ranker"""
    device = find_device(gpu)

    def put(value: np.ndarray | float) -> Tensor:
        return torch.tensor(np.asarray(value, dtype=np.float32), device=device)

    c, sharpness, floor = put(centers), put(k), put(delta_floor)

    def rank(x: np.ndarray, width: int, temperatures: np.ndarray, counted: np.ndarray) -> Best:
        found = _best_of_centers(
            put(x), c, sharpness, floor, put(temperatures), put(counted), metric=metric, width=width
        )
        return Best(*map(_numpy, found))

    return rank


_best_of_centers = best_of_centers


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
        return [torch.device("cpu")]
    devices = _gpus()
    numbers = numbers_of(gpu, len(devices), "torch")
    if len(numbers) > 1:
        raise UserError(
            f"--backend torch: trains on one device, found --gpu with {len(numbers)}; name one of them, or use "
            "--backend jax, which trains on all"
        )
    return [devices[number] for number in numbers]


def find_device(gpu: Gpu) -> Any:
    """The first device of --gpu, for what runs on one alone."""
    return find_devices(gpu)[0]


def _gpus() -> list[Any]:
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
