"""What ivfast asks of a backend, and the one place that knows which backends there are."""

import importlib
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from ivfast.method import BLOCK_PAIRS, GROWTH_INTERVAL, LEAST_BATCH, LISTED, MANY_BUCKETS, SEEN
from ivfast.runtime.devices import Gpu, on_cpu
from ivfast.runtime.draws import generator
from ivfast.runtime.errors import UserError

INSTALL = {"jax": "pip install jax flax optax", "torch": "pip install torch"}
NEEDS = {"jax": ("jax", "flax", "optax"), "torch": ("torch",)}  # what a backend imports beside NumPy


class Chunk(NamedTuple):
    """Consecutive steps of one epoch, padded to one shape. Steps without a valid row do nothing."""

    x: np.ndarray  # (steps, batch, dim) float32
    x_pair: np.ndarray  # (steps, batch, dim) float32
    valid: np.ndarray  # (steps, batch) bool, False where a row is padding
    cells: np.ndarray | None = (
        None  # (steps, batch, 2, near) int32, k-means buckets near x and x_pair; None without blocks
    )
    new_lists: bool = False  # whether the lists of blocks are made anew before the first step


class Blocks(NamedTuple):
    """How a step goes in blocks of near pairs, each of which sees the buckets near it alone."""

    pairs: int  # of a block; batches are a multiple of it
    seen: int  # buckets that a block sees
    listed: int  # buckets that a vector votes for in each cell near it


class Setup(NamedTuple):
    """All that is fixed during a run, as numpy arrays and numbers. Vectors are inside (see Space)."""

    param_list: tuple[int, ...]
    metric: str
    start: np.ndarray  # (nlist, dim) float32, where the centers begin
    radius: np.ndarray  # (nlist,) float32, r, a bucket's root mean square per dimension
    mean: np.ndarray  # (dim,) float32, of the deep path's input
    scale: np.float32  # of the deep path's input
    delta_floor: float
    learning_rates: np.ndarray  # (epochs S,) float64, by finite step
    use_rate: float  # a = min(1, batch / (20 nlist))
    loss_scale: float = 1.0  # at the start
    blocks: Blocks | None = None  # None: every pair sees all buckets
    growth_interval: int = GROWTH_INTERVAL  # finite steps in a row that double the loss scale

    @property
    def deep(self) -> bool:
        """Whether there is a deep path."""
        return len(self.param_list) > 2


class Goal(NamedTuple):
    """What an epoch trains for, fitted before it on held-out pairs (see ivfast.choose.goal.fit_goal).

    Floats; within a backend, () of its own.
    """

    k: Any  # sharpness of the logits
    nprobe: Any  # buckets probed at 90 % recall
    slope: Any  # there, of log nprobe over recall
    weight: Any  # of search_cost beside meet


class Metrics(NamedTuple):
    """Sums over the finite steps of a chunk, and counts; still on the device where it has one."""

    loss_centers: Any  # () sum over pairs of meet(z_centers)
    loss_net: Any  # () sum over pairs of meet(z_net); 0 without a deep path
    n_pairs: Any  # () pairs in finite steps
    n_skipped: Any  # () steps skipped for a non-finite gradient
    n_in_a_row: Any  # () the longest run of skipped steps so far that was seen in the chunk


class Best(NamedTuple):
    """The best buckets of some rows, and what a softmax over all buckets needs beside them."""

    buckets: np.ndarray  # (n, width) int32, best first
    z: np.ndarray  # (n, width) float32, their logits
    log_sums: np.ndarray  # (t, n) float32, by T: log of the sum over all buckets of exp((z - best z) / T)
    mass: np.ndarray  # (t, nlist) float32, sum over the rows that count of softmax(z / T)


class Rank(Protocol):
    """What ranks buckets by one router on a device."""

    def __call__(self, x: np.ndarray, width: int, temperatures: np.ndarray, counted: np.ndarray) -> Best:
        """The best `width` buckets of each row.

        x: (n, dim) float32; temperatures: (t,), of any number; counted: (n,) 1 where mass counts a row, else 0
        """
        ...


class Ranker(Protocol):
    """Makes a Rank of a matrix of centers."""

    def __call__(self, centers: np.ndarray, metric: str, delta_floor: float, k: float) -> Rank:
        """centers: (nlist, dim) float32, inside; k: sharpness of the logits"""
        ...


class Backend(Protocol):
    """A framework that trains the network. Arrays on the device and states are values of the backend's own.

    params: weights on the device by name, as put returns and `state.params` holds: centers, logits and
    export read them without moments. train_chunk takes a state's params with the state.
    """

    setup: Setup

    def put(self, weights: dict[str, np.ndarray]) -> dict[str, Any]:
        """Weights on the device, without moments. weights: as starting_weights, or some of them"""
        ...

    def weights(self, params: dict[str, Any]) -> dict[str, np.ndarray]:
        """The inverse of put, of the backend's own types."""
        ...

    def centers(self, params: dict[str, Any]) -> np.ndarray:
        """Where u moves the centers, (nlist, dim) float32, inside; u alone is read."""
        ...

    def logits(self, params: dict[str, Any], x: np.ndarray, k: float) -> np.ndarray:
        """Logits z of the whole network, which has a deep path. x: (n, dim) float32; returns (n, nlist) float32"""
        ...

    def rank(
        self, params: dict[str, Any], k: float, x: np.ndarray, width: int, temperatures: np.ndarray, counted: np.ndarray
    ) -> Best:
        """The best buckets of the whole network, which has a deep path. See Rank"""
        ...

    def export(self, params: dict[str, Any]) -> dict[str, np.ndarray]:
        """`centers` as of centers, and the deep path's weights by name, float32."""
        ...

    def init_state(self, weights: dict[str, np.ndarray], use: np.ndarray) -> Any:
        """weights: as starting_weights; use: (nlist,) m at the start, of both routers."""
        ...

    def train_chunk(self, state: Any, chunk: Chunk, goal: Goal) -> tuple[Any, Metrics]:
        """Run the chunk's steps. The state handed in must not be used again."""
        ...

    def own_rows(self, n: int) -> tuple[int, int]:
        """Of n rows of a batch those that this process must read: from the first, up to the second."""
        ...

    def use(self, state: Any) -> dict[str, np.ndarray]:
        """Mean use m by router, (nlist,) float64 each."""
        ...

    def loss_scale(self, state: Any) -> float:
        """1 without mixed precision."""
        ...

    def state_dict(self, state: Any) -> dict[str, np.ndarray]:
        """Everything of a state, by name; the same names, shapes and types in all backends."""
        ...

    def from_state_dict(self, arrays: dict[str, np.ndarray]) -> Any:
        """The inverse of state_dict; raises KeyError on absent or unknown names."""
        ...


def weight_shapes(param_list: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Every weight of a network of these widths, in the order of the layers.

    Names: u (nlist, dim), layers_I.weight (in, out), layers_I.bias, norms_I.scale, norms_I.bias (out,);
    without a deep path u alone, and no norm behind the last layer.
    """
    shapes: dict[str, tuple[int, ...]] = {"u": (param_list[-1], param_list[0])}
    if len(param_list) == 2:
        return shapes
    widths = list(pairwise(param_list))
    for i, (n_in, n_out) in enumerate(widths):
        shapes |= {f"layers_{i}.weight": (n_in, n_out), f"layers_{i}.bias": (n_out,)}
        if i < len(widths) - 1:
            shapes |= {f"norms_{i}.scale": (n_out,), f"norms_{i}.bias": (n_out,)}
    return shapes


def blocks_of(nlist: int, batch: int) -> Blocks | None:
    """How steps of so many pairs go in blocks, None where they do not."""
    return Blocks(BLOCK_PAIRS, SEEN, LISTED) if nlist >= MANY_BUCKETS and batch >= LEAST_BATCH else None


def check_names(groups: dict[str, dict[str, Any]], setup: Setup) -> None:
    """Whether a state holds what a network has, and nothing else.

    groups: params, first, second, use and blocks, by name
    raises: KeyError
    """
    weights = weight_shapes(setup.param_list).keys()
    routers = {"centers", "net"} if setup.deep else {"centers"}
    lists = {"lists"} if setup.blocks else set()
    every = {"params": weights, "first": weights, "second": weights, "use": routers, "blocks": lists}
    for group, expected in every.items():
        if wrong := expected ^ groups[group].keys():
            raise KeyError(f"absent or unknown: {', '.join(f'{group}/{name}' for name in sorted(wrong))}")


def load_backend(name: str, setup: Setup, gpu: Gpu, precision: str = "float32") -> Backend:
    """Import one backend.

    gpu: device number, -1 is the CPU
    raises: UserError where its framework is not installed or the device is not there
    """
    return import_backend(name).make_backend(setup, gpu, precision)


def load_ranker(name: str, gpu: Gpu) -> Ranker:
    """What ranks buckets by centers on a backend's device. The framework is imported where it first ranks.

    gpu: device number, -1 is the CPU
    """

    def rank_by_centers(centers: np.ndarray, metric: str, delta_floor: float, k: float) -> Rank:
        return import_backend(name).rank_by_centers(centers, metric, delta_floor, k, gpu)

    return rank_by_centers


def check_device(name: str, gpu: Gpu) -> None:
    """Refuse now what load_backend would refuse later.

    raises: UserError where the backend's framework is not installed or the device is not there
    """
    import_backend(name).find_device(gpu)


def load_search(
    name: str, gpu: Gpu
) -> Callable[[np.ndarray, Iterable[np.ndarray], int, str], tuple[np.ndarray, np.ndarray]] | None:
    """A backend's exact search for neighbours on an accelerator (`search` of its nearest.py); None on the CPU.

    raises: UserError where its framework is not installed or the device is not there
    """
    if on_cpu(gpu):
        return None
    check_device(name, gpu)
    return partial(import_backend(name).find_nearest, gpu=gpu)


def import_backend(name: str) -> Any:
    """A backend's module.

    raises: UserError where its framework is not installed, or can't be imported
    """
    from ivfast.runtime.packages import broken, is_wish, reason, why_not  # here, since a backend needs none of it

    package = name
    try:
        for package in NEEDS[name]:
            importlib.import_module(package)
        return importlib.import_module(f"ivfast_{name}")
    except ModuleNotFoundError as missing:
        wrong = f"{missing.name} is not installed; {INSTALL[name]}"
    except BaseException as problem:  # whatever a framework raises that is there but broken
        if is_wish(problem):
            raise
        wrong = broken(package, reason(problem), INSTALL[name].replace("install", "install --force-reinstall"))
    others = [other for other in installed_backends() if other != name]
    working = [f"--backend {other}" for other in others if not why_not(*NEEDS[other])]
    choice = f", or choose {' or '.join(working)}, which is installed" if working else ""
    raise UserError(f"--backend {name}: {wrong}{choice if others else ', or choose another --backend'}")


def installed_backends() -> list[str]:
    """Backends whose frameworks are installed, the default first. Nothing is imported."""
    return [name for name, packages in NEEDS.items() if all(map(find_spec, packages))]


def starting_weights(param_list: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Weights before the first step, float32, by the names of weight_shapes: u = 0, so training begins at k-means.

    Hidden layers are normal with standard deviation 1 / sqrt(fan in); the last layer is zero,
    so the network too begins at k-means.
    """
    weights = {
        name: (np.ones if name.endswith(".scale") else np.zeros)(shape, dtype=np.float32)
        for name, shape in weight_shapes(param_list).items()
    }
    for i, shape in enumerate(list(pairwise(param_list))[:-1]):
        normal = generator(seed, 0, "network", i).standard_normal(shape, dtype=np.float32)
        weights[f"layers_{i}.weight"] = normal * np.float32(shape[0] ** -0.5)
    return weights
