"""Where the arrays of a run lie: on a mesh of devices, a batch along one axis, the buckets along the other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ivfast.network.backend import Setup, weight_shapes
from ivfast_jax.optimizer import Moments
from ivfast_jax.precision import LossScale
from ivfast_jax.shards import BOTH, DATA, MODEL
from ivfast_jax.step import TrainState

STATE = 4  # arrays of a weight's size that a step holds: itself, two moments, its gradient
LARGEST_STATE = 8 << 30  # bytes of them, of all buckets, that one device is to hold


class Layout(NamedTuple):
    """The mesh, and what lies where on it. Arrays without buckets lie on all devices alike."""

    mesh: Mesh  # axes data and model
    last: int  # number of the network's last layer, whose columns are buckets; -1: there is none
    blocks: bool  # whether steps go in blocks, which then lie along both axes

    @property
    def shared(self) -> bool:
        """Whether other processes have some of its devices."""
        return any(device.process_index != jax.process_index() for device in self.mesh.devices.flat)

    @property
    def n_data(self) -> int:
        """Into how many parts a batch is split."""
        return self.mesh.shape[DATA] * (self.mesh.shape[MODEL] if self.blocks else 1)

    def weight(self, name: str) -> NamedSharding:
        """Of a weight, and of what else has its shape."""
        spec = {
            "u": PartitionSpec(MODEL),
            f"layers_{self.last}.weight": PartitionSpec(None, MODEL),
            f"layers_{self.last}.bias": PartitionSpec(MODEL),
        }.get(name, PartitionSpec())
        return NamedSharding(self.mesh, spec)

    def place(self, group: str, name: str) -> NamedSharding:
        """Of an array of a state. group, name: as Backend.state_dict calls it"""
        if group in ("params", "first", "second"):
            return self.weight(name)
        return self.buckets() if group == "use" else self.everywhere()

    def constant(self, name: str) -> NamedSharding:
        """Of one of Constants."""
        return self.buckets() if name in ("start", "radius") else self.everywhere()

    def buckets(self) -> NamedSharding:
        """Of what has a row for each bucket."""
        return NamedSharding(self.mesh, PartitionSpec(MODEL))

    def everywhere(self) -> NamedSharding:
        """Of what all devices need entirely."""
        return NamedSharding(self.mesh, PartitionSpec())

    def batches(self) -> NamedSharding:
        """Of (steps, batch, ...)."""
        return NamedSharding(self.mesh, PartitionSpec(None, BOTH if self.blocks else DATA))

    def put(self, array: np.ndarray, where: NamedSharding) -> Array:
        """An array on the devices, of its own type. With several processes each places what its devices hold."""
        if where.is_fully_addressable:
            return jax.device_put(array, where)
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    def of_process(self) -> "Layout":
        """The part of the mesh that this process has: all buckets, since these are split within a process alone."""
        own = [row for row in self.mesh.devices if row[0].process_index == jax.process_index()]
        return self._replace(mesh=_mesh(np.array(own)))

    def here(self, array: Array) -> Array:
        """An array as this process has it entirely. array: without a batch"""
        if array.is_fully_addressable:
            return array
        placed: Any = array.sharding
        where = NamedSharding(self.of_process().mesh, placed.spec)
        parts = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, where, parts)

    def own_rows(self, n: int) -> tuple[int, int]:
        """The rows of a batch that devices of this process need: from the first, up to the second. n: of all"""
        places: dict[Any, Any] = dict(self.batches().addressable_devices_indices_map((1, n)))
        found = [index[1].indices(n) for index in places.values()]
        return min(start for start, _, _ in found), max(stop for _, stop, _ in found)


def make_layout(devices: Sequence[Any], setup: Setup, model: int | None = None) -> Layout:
    """A mesh of all devices.

    devices: of all processes, as many of each, process by process
    model: into how many parts the buckets are split; None: into as few as can hold them
    """
    own = [device for device in devices if device.process_index == jax.process_index()]
    model = parts_of_buckets(len(own), setup) if model is None else model
    return Layout(
        _mesh(np.array(devices).reshape(-1, model)),
        len(setup.param_list) - 2 if setup.deep else -1,
        setup.blocks is not None,
    )


def _mesh(grid: np.ndarray) -> Mesh:
    return Mesh(grid, BOTH, axis_types=(AxisType.Auto, AxisType.Auto))


def parts_of_buckets(n_devices: int, setup: Setup) -> int:
    """The fewest parts of equal size that a device can hold, else the most."""
    nlist, dim = setup.param_list[-1], setup.param_list[0]
    width = dim + (setup.param_list[-2] if setup.deep else 0)
    fitting = [n for n in range(1, n_devices + 1) if n_devices % n == 0 and nlist % n == 0]
    small = [n for n in fitting if STATE * 4 * nlist * width / n <= LARGEST_STATE]
    return small[0] if small else fitting[-1]


def state_places(layout: Layout, setup: Setup) -> TrainState:
    """Where each array of a state lies, in the shape of one."""
    weights: dict[str, Any] = {name: layout.weight(name) for name in weight_shapes(setup.param_list)}
    routers = ("centers", "net") if setup.deep else ("centers",)
    everywhere: Any = layout.everywhere()
    use: dict[str, Any] = dict.fromkeys(routers, layout.buckets())
    return TrainState(
        weights,
        Moments(weights, weights),
        use,
        everywhere,
        LossScale(*(everywhere for _ in LossScale._fields)),
        everywhere if setup.blocks else None,
    )
