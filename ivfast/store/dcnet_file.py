"""dcnet.safetensors: the network, and what was fitted for each router."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ivfast.data.vectors import Space
from ivfast.network.backend import Backend, Setup, load_backend, weight_shapes
from ivfast.route.routers import Router, centers_router, net_router
from ivfast.runtime.config import METRICS
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import file_hash, save_tensors
from ivfast.store.rules import Plan, log_use

SCHEMA = 3


class Predicted(NamedTuple):
    """At one level of recall, fixed probing."""

    nprobe: float  # linear between neighbouring whole ones
    scanned: float  # share of the vectors stored, copies counted


class Facts(NamedTuple):
    """Numbers that go with one router."""

    k: float
    temperature: float  # T, of adaptive probing
    nprobe: float  # at which the best buckets of 90 % of held-out answers are probed
    storing: dict[float, float]  # T_s by percent
    use: dict[float, np.ndarray]  # m by T_s, (nlist,) float64
    predicted: dict[float, dict[str, Predicted]]  # by percent and level of recall, under the default rule
    calibration_error: float  # of softmax(z / T), as chances that a right answer lies in a bucket


class Model(NamedTuple):
    """All of dcnet.safetensors."""

    facts: dict[str, Facts]  # by router
    net: dict[str, np.ndarray]  # centers and deep weights of the net, empty without a deep path
    mean: np.ndarray  # (dim,) float32, of the deep path's input
    scale: np.float32
    space: Space
    delta_floor: float
    param_list: tuple[int, ...]
    asking: np.ndarray  # (k,) float32, see ivfast.store.demand.asking_weights
    about: dict[str, Any]  # settings, chosen epochs, data fingerprint, versions

    @property
    def ftopk(self) -> int:
        """That it was trained with: a vector is stored in so many buckets at most."""
        return self.about["settings"]["ftopk"]

    def fits(self, centers: np.ndarray) -> bool:
        """Whether it is for centers of that shape; see load_model for their bytes."""
        return centers.shape == (self.param_list[-1], self.param_list[0])


def save_model(path: Path, model: Model, centers_path: Path) -> None:
    """Write dcnet.safetensors beside the ivfast.npy that it belongs to."""
    arrays = {f"net.{name}": value for name, value in model.net.items()}
    arrays |= {
        "asking": model.asking,
        "input.mean": model.mean,
        "input.scale": np.array(model.scale, dtype=np.float32),
        "space.mean": model.space.mean,
        "space.scale": np.array(model.space.scale, dtype=np.float32),
    }
    routers = {}
    for name, facts in model.facts.items():
        for t, m in facts.use.items():
            arrays[f"use.{name}.{t!r}"] = m
        storing = {repr(percent): t for percent, t in facts.storing.items()}
        predicted = {repr(percent): levels for percent, levels in facts.predicted.items()}
        routers[name] = {
            "k": facts.k, "T": facts.temperature, "nprobe": facts.nprobe, "T_s": storing, "predicted": predicted,
            "calibration_error": facts.calibration_error,
        }  # fmt: skip
    metadata = {
        "schema": SCHEMA,
        "metric": model.space.metric,
        "param_list": model.param_list,
        "delta_floor": model.delta_floor,
        "ivfast_sha256": file_hash(centers_path),
        "routers": routers,
        "about": model.about,
    }
    # one key, since safetensors writes several in no fixed order and equal runs give equal bytes
    save_tensors(path, arrays, {"ivfast": json.dumps(metadata, sort_keys=True)})


def load_model(path: Path, centers_path: Path) -> Model | None:
    """Read dcnet.safetensors; None where it is absent or belongs to another ivfast.npy.

    raises: UserError where the file cannot be read
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("ivfast", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError) as problem:
        raise UserError(f"{path} cannot be read ({problem}); remove it, or train again") from None
    schema = about.get("schema") if isinstance(about, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, expected {SCHEMA}; train again with this version, or remove it: "
            "the centers can be evaluated alone"
        )
    if about.get("ivfast_sha256") != file_hash(centers_path):
        return None
    try:
        _check_arrays(about["param_list"], arrays)
        model = _as_model(about, arrays)
        _check_facts(model)
        return model
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise UserError(
            f"{path} is not as schema {SCHEMA} has it ({problem!r}), expected a file that ivfast wrote; train again"
        ) from None


def _check_arrays(param_list: list[int], arrays: dict[str, np.ndarray]) -> None:
    """raises: ValueError where an array is absent, of another shape than param_list says, or not finite"""
    dim, nlist = param_list[0], param_list[-1]
    shapes: dict[str, tuple[int, ...]] = {
        "space.mean": (dim,), "space.scale": (), "input.mean": (dim,), "input.scale": (),
        "asking": (arrays["asking"].size,),
    }  # fmt: skip
    shapes |= {name: (nlist,) for name in arrays if name.startswith("use.")}
    if len(param_list) > 2:
        weights = weight_shapes(tuple(param_list))
        weights["centers"] = weights.pop("u")  # what u made of them
        shapes |= {f"net.{name}": shape for name, shape in weights.items()}
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if found.get(name) != shapes.get(name):
            raise ValueError(f"{name} has shape {found.get(name)}, expected {shapes.get(name)}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")


def _check_facts(model: Model) -> None:
    """raises: KeyError, TypeError or ValueError where a router lacks a number that evaluating it takes"""
    model.about["settings"]["seed"]
    if model.space.metric not in METRICS:
        raise ValueError(f"metric {model.space.metric!r}")
    for name in ("kmeans", "centers", "net") if model.net else ("kmeans", "centers"):
        facts = model.facts[name]
        for number in (facts.k, facts.temperature, facts.nprobe, model.delta_floor, *facts.storing.values()):
            if not 0 < number < float("inf"):
                raise ValueError(
                    f"{name} has {number!r} among k, T, nprobe, T_s, delta_floor, expected numbers above 0"
                )
        if absent := set(facts.storing.values()) - facts.use.keys():
            raise ValueError(f"{name} lacks m at T_s {absent}")


def _as_model(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Model:
    facts = {
        name: Facts(
            router["k"],
            router["T"],
            router["nprobe"],
            {float(percent): t for percent, t in router["T_s"].items()},
            {float(t): m for t, m in _below(arrays, f"use.{name}.").items()},
            {
                float(percent): {level: Predicted(*map(float, pair)) for level, pair in levels.items()}
                for percent, levels in router["predicted"].items()
            },
            float(router["calibration_error"]),
        )
        for name, router in about["routers"].items()
    }
    return Model(
        facts,
        _below(arrays, "net."),
        arrays["input.mean"],
        np.float32(arrays["input.scale"]),
        Space(about["metric"], arrays["space.mean"], np.float32(arrays["space.scale"])),
        about["delta_floor"],
        tuple(about["param_list"]),
        arrays["asking"],
        about["about"],
    )  # fmt: skip


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def make_plans(router: str, facts: Facts | None, percents: tuple[float, ...]) -> list[Plan]:
    """Every rule that a router has, at every percent. Without facts: ratio alone."""
    plans = [] if router == "net" else [Plan("ratio", percent) for percent in percents]
    if router == "kmeans" or facts is None:
        return plans
    for rule in ("membership", "benefit"):
        for percent in percents:
            t = facts.storing[percent]
            plans.append(Plan(rule, percent, t, log_use(facts.use[t]) if rule == "benefit" else None))
    return plans


def model_router(model: Model, k: float, backend_name: str, gpu: int) -> Router:
    """The whole DCNet of a file as a router: its centers are where a new network starts."""
    backend, state = net_state(model, backend_name, gpu)
    linear = centers_router("centers", model.net["centers"], model.space.metric, model.delta_floor, k)
    return net_router(lambda x: backend.logits(state, "net", x, k), linear)


def net_state(model: Model, backend_name: str, gpu: int) -> tuple[Backend, object]:
    """A backend that holds a file's net."""
    nlist, dim = model.param_list[-1], model.param_list[0]
    setup = Setup(
        model.param_list, model.space.metric, model.net["centers"], np.ones(nlist, np.float32),
        model.mean, model.scale, model.delta_floor, np.zeros(1), 0.0,
    )  # fmt: skip
    backend = load_backend(backend_name, setup, gpu)
    weights = {name: value for name, value in model.net.items() if name != "centers"}
    weights = {"u": np.zeros((nlist, dim), dtype=np.float32)} | weights
    return backend, backend.init_state(weights, np.full(nlist, 1 / nlist))
