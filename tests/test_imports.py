"""The floors of the house: a room imports only from rooms below it, and nothing goes in a circle."""

import subprocess
import sys

import pytest

from tests.imports import arrows, longest_chain, rooms

BELOW: dict[str, set[str]] = {"method": set(), "runtime": {"method"}}
BELOW["data"] = BELOW["network"] = {"method", "runtime"}
BELOW["start"] = BELOW["route"] = BELOW["data"] | {"data", "network"}
BELOW["store"] = {"method", "runtime", "data", "network", "start", "route"}
BELOW["choose"] = BELOW["index"] = BELOW["store"] | {"store"}
BELOW["train"] = BELOW["evaluate"] = BELOW["choose"] | {"choose"}
BELOW["spread"] = BELOW["store"] | {"store", "index"}
BELOW["commands"] = BELOW["train"] | {"train", "evaluate", "index"}
BELOW["front"] = BELOW["commands"] | {"commands", "spread"}
BELOW["demo"] = BELOW["__main__"] = BELOW["front"] | {"front"}
WATCHED = {"faiss", "rich", "matplotlib"}
OF_A_BACKEND = {"ivfast.method", "ivfast.network.backend", "ivfast.runtime.devices", "ivfast.runtime.errors"}


def room(module: str) -> str:
    """The folder of a module of ivfast, or its own name where it stands beside the folders."""
    return module.split(".")[1]


IMPORTS = arrows()


@pytest.mark.parametrize("module", [name for name in IMPORTS if name.startswith("ivfast.")])
def test_a_room_imports_only_from_rooms_below(module: str) -> None:
    # the package itself is its public face and its version, which anybody may ask for
    others = {other for other in IMPORTS[module] if other != "ivfast" and room(other) != room(module)}
    wrong = {other for other in others if not other.startswith("ivfast.") or room(other) not in BELOW[room(module)]}
    assert wrong == set()


@pytest.mark.parametrize("backend", ["ivfast_jax", "ivfast_torch"])
def test_a_backend_knows_three_modules_of_ivfast(backend: str) -> None:
    for module, others in IMPORTS.items():
        if module.split(".")[0] == backend:
            assert {other for other in others if other.split(".")[0] != backend} <= OF_A_BACKEND


def test_no_import_goes_in_a_circle() -> None:
    longest_chain(IMPORTS)  # raises RecursionError
    assert longest_chain(rooms(IMPORTS)) <= 11  # run_dcnet.py's are 9; beside them the front door and its index


@pytest.mark.parametrize(("backend", "framework"), [("ivfast_jax", "flax.linen, optax"), ("ivfast_torch", "torch")])
def test_a_backend_loads_neither_faiss_nor_rich(backend: str, framework: str) -> None:
    """Flax itself loads rich, so what the framework loads by itself does not count."""
    assert loaded(backend) & WATCHED <= loaded(framework)
    of_ours = {name for name in loaded(backend) if name.startswith("ivfast.")}
    assert of_ours == OF_A_BACKEND | {"ivfast.network", "ivfast.runtime", "ivfast.runtime.draws"}


def loaded(names: str) -> set[str]:
    """Modules that a new process holds after an import."""
    code = f"import sys, {names}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
