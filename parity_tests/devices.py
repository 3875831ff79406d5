"""Training on eight devices that the host pretends to have, beside training on one. Run as a process of its own:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu python -m parity_tests.devices CASE

It prints one JSON: gaps of every array of the states by precision and mesh, and what a step sends between devices.
"""

import json
import re
import sys
from collections import Counter
from typing import Any

import jax
import numpy as np

from ivfast.network.backend import Chunk, starting_weights
from ivfast_jax import Backend
from ivfast_jax.layout import make_layout
from parity_tests.cases import BATCH, GOAL, Case, Problem, make_problem
from parity_tests.test_blocks import make_blocks


def uneven(problem: Problem) -> Problem:
    """With batches that no number of devices divides."""
    return problem._replace(source=problem.source._replace(batch_size=BATCH - 3))


MESHES = {"data 8": (8, 1), "model 8": (1, 8), "data 4 x model 2": (4, 2)}
CASES = {
    "IP-deep": lambda: uneven(make_problem(Case("IP", deep=True, drop=False))),
    "L2-linear": lambda: uneven(make_problem(Case("L2", deep=False, drop=True))),
    "IP-deep-blocks": lambda: make_blocks(Case("IP", deep=True, drop=True)),
    "L2-linear-blocks": lambda: make_blocks(Case("L2", deep=False, drop=False)),
}
WIDE, SEEN = 512, 64  # buckets where what is sent is counted, and of them those a block sees
EPOCHS = 9  # of six steps
SPOILED = 3  # the step of each epoch that is not finite
SIZES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "pred": 1, "f16": 2, "bf16": 2}
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def backend_on(problem: Problem, mesh: tuple[int, int], precision: str) -> Backend:
    """mesh: devices along data, along model"""
    n_data, n_model = mesh
    return Backend(problem.setup, make_layout(jax.devices()[: n_data * n_model], problem.setup, n_model), precision)


def state_after(problem: Problem, mesh: tuple[int, int], precision: str) -> dict[str, np.ndarray]:
    """The state after nine epochs, of which a step each is skipped; and what is computed from it."""
    backend = backend_on(problem, mesh, precision)
    stat = "float64" if precision == "float64" else "float32"
    start = {name: value.astype(stat) if value.dtype == np.float64 else value for name, value in problem.state.items()}
    state = backend.from_state_dict(start)
    sums = Counter()
    for epoch in range(1, EPOCHS + 1):
        for number, chunk in enumerate(problem.chunks(epoch)):
            state, metrics = backend.train_chunk(state, spoiled(chunk) if number == 0 else chunk, GOAL)
            sums.update({name: float(value) for name, value in metrics._asdict().items()})
    found = backend.state_dict(state) | {f"sums/{name}": np.array(value) for name, value in sums.items()}
    found["centers"] = backend.centers(state.params)
    if problem.setup.deep:
        rows = problem.source.learn.points.x(slice(0, 37))  # no multiple of the devices
        best = backend.rank(state.params, GOAL.k, rows, 5, np.array([1.0, 2.0]), np.ones(37))
        found |= {f"best/{name}": value for name, value in best._asdict().items()}
    return found


def spoiled(chunk: Chunk) -> Chunk:
    """With one entry that is not finite."""
    x = chunk.x.copy()
    x[SPOILED, 5, 0] = np.inf
    return chunk._replace(x=x)


def gaps(problem: Problem, mesh: tuple[int, int], precision: str, one: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each array from that of one device, over its largest entry where that is above 1."""
    found = state_after(problem, mesh, precision)
    assert found.keys() == one.keys()
    return {
        name: float(np.abs(found[name].astype(float) - value).max() / max(1.0, np.abs(value).max()))
        for name, value in one.items()
    }


def widened(problem: Problem) -> Problem:
    """With so many buckets that a whole row of logits is much more than its best few. Nothing is trained."""
    old = problem.setup
    blocks = old.blocks._replace(seen=SEEN) if old.blocks else None
    start = np.resize(old.start, (WIDE, old.start.shape[1]))
    setup = old._replace(
        param_list=(*old.param_list[:-1], WIDE), start=start, radius=np.resize(old.radius, WIDE), blocks=blocks
    )
    return problem._replace(setup=setup)


def collectives(problem: Problem, mesh: tuple[int, int]) -> list[tuple[str, int]]:
    """What the compiled chunk sends between devices: names of operations, with bytes of their results."""
    backend = backend_on(problem, mesh, "float32")
    state = backend.init_state(starting_weights(problem.setup.param_list, 1), np.full(WIDE, 1 / WIDE))
    given = backend._on_devices(problem.chunks(1)[0], GOAL)
    with jax.set_mesh(backend.layout.mesh):
        text = backend._chunk.lower(state, **given).compile().as_text() or ""
    return [
        (operation, sum(map(size_of, re.findall(r"(\w+)\[([\d,]*)\]", shapes))))
        for shapes, operation in COLLECTIVE.findall(text)
    ]


def size_of(shape: tuple[str, str]) -> int:
    """Bytes of an array as compiled text names it."""
    return SIZES[shape[0]] * int(np.prod([int(n) for n in shape[1].split(",") if n]))


def main(name: str) -> None:
    """Print all of one case."""
    jax.config.update("jax_enable_x64", val=True)
    problem = CASES[name]()
    result: dict[str, Any] = {"devices": len(jax.devices()), "gaps": {}, "collectives": {}}
    for precision in ("float64", "float32"):
        one = state_after(problem, (1, 1), precision)
        result["skipped"] = float(one["sums/n_skipped"])
        for title, mesh in MESHES.items():
            result["gaps"][f"{precision}, {title}"] = gaps(problem, mesh, precision, one)
    for title, mesh in MESHES.items():
        result["collectives"][title] = collectives(widened(problem), mesh)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
