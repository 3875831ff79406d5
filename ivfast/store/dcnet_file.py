"""dcnet.safetensors: the network, and what was fitted for each router."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from ivfast.data.space import Space
from ivfast.method import RECALL
from ivfast.network.backend import Backend, Setup, load_backend, weight_shapes
from ivfast.route.routers import ROUTERS, Router, centers_router, net_router
from ivfast.runtime.config import METRICS
from ivfast.runtime.devices import Gpu
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import file_hash, save_tensors, what_is
from ivfast.runtime.tensors import read_tensors
from ivfast.store.records import Facts, Predicted, Storing
from ivfast.store.reverse import AskingLog
from ivfast.store.rules import RULES

SCHEMA = 4


class Model(NamedTuple):
    """All of dcnet.safetensors."""

    facts: dict[str, Facts]  # by router
    net: dict[str, np.ndarray]  # centers and deep weights of the network, empty where there is no deep path
    mean: np.ndarray  # (dim,) float32, of the deep path's input
    scale: np.float32
    space: Space
    delta_floor: float
    param_list: tuple[int, ...]
    asking: np.ndarray  # (k,) float32, see ivfast.store.reverse.asking_weights
    about: dict[str, Any]  # settings, chosen epochs, data fingerprint, versions
    log: np.ndarray | None = None  # (n, dim) float32, inside: logged queries that trained; None: none did

    @property
    def asking_log(self) -> AskingLog | None:
        """The log, as it tells who asks for a base."""
        return None if self.log is None else AskingLog(self.log, self.about["settings"]["seed"])

    @property
    def recall(self) -> float:
        """That it was trained for."""
        return recall_of(self.about)

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
    if model.log is not None:
        arrays["log"] = model.log
    routers = {}
    for name, facts in model.facts.items():
        storings = []
        for i, storing in enumerate(facts.storings):
            if storing.m is not None:
                arrays[f"use.{name}.{i}"] = storing.m
            storings.append({
                "copies": storing.copies, "storing_t": storing.storing_t, "wait": storing.wait,
                "predicted": storing.predicted,
            })  # fmt: skip
        routers[name] = {
            "k": facts.k, "probing_t": facts.probing_t, "nprobe": facts.nprobe, "storings": storings,
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
    if what := what_is(path):
        raise UserError(f"{path} is {what}, expected a file or nothing; put the file there, or move it")
    if not path.is_file():
        return None
    try:
        arrays, metadata = read_tensors(path)
        about = json.loads(metadata.get("ivfast", "{}"))
    except OSError as problem:
        said = problem.strerror or problem
        raise UserError(f"{path} cannot be read ({said}); check its permissions and its disk, it is kept") from None
    except (SafetensorError, ValueError, AttributeError, RecursionError) as problem:
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


def recall_of(about: dict[str, Any]) -> float:
    """That was trained for; of a file of earlier versions 0.90."""
    return about["settings"].get("recall", RECALL)


def _check_arrays(param_list: list[int], arrays: dict[str, np.ndarray]) -> None:
    """raises: ValueError where an array is absent, of another shape than param_list says, or not finite"""
    dim, nlist = param_list[0], param_list[-1]
    shapes: dict[str, tuple[int, ...]] = {
        "space.mean": (dim,), "space.scale": (), "input.mean": (dim,), "input.scale": (),
        "asking": (arrays["asking"].size,),
    }  # fmt: skip
    if "log" in arrays:
        shapes["log"] = (max((1, *arrays["log"].shape[:1])), dim)
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
    for name in ("seed", "ftopk", "normalize"):
        model.about["settings"][name]
    if model.space.metric not in METRICS:
        raise ValueError(f"metric {model.space.metric!r}")
    for kind in ROUTERS.values():
        if not kind.linear and not model.net:
            continue
        facts = model.facts[kind.name]
        fitted = [storing for storing in facts.storings if RULES[kind.default_rule].fitted]
        numbers = [facts.k, facts.probing_t, facts.nprobe, model.delta_floor]
        numbers += [storing.storing_t for storing in fitted]
        if wrong := [storing.copies for storing in facts.storings if not 0 <= storing.copies < float("inf")]:
            raise ValueError(f"{kind.name} has copies {wrong}, expected numbers from 0")
        if wrong := [storing.wait for storing in fitted if not 0 <= storing.wait < float("inf")]:
            raise ValueError(f"{kind.name} has wait {wrong}, expected numbers from 0")
        for number in numbers:
            if number is None or not 0 < number < float("inf"):
                raise ValueError(
                    f"{kind.name} has {number!r} among k, probing_t, nprobe, storing_t, delta_floor, expected numbers "
                    "above 0"
                )
        if lacking := [storing.copies for storing in fitted if storing.m is None]:
            raise ValueError(f"{kind.name} lacks m for copies {lacking}")


def _as_model(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Model:
    facts = {}
    for name, router in about["routers"].items():
        use = _below(arrays, f"use.{name}.")
        storings = tuple(
            Storing(
                copies=float(stored["copies"]),
                predicted={level: Predicted(*map(float, pair)) for level, pair in stored["predicted"].items()},
                storing_t=stored["storing_t"],
                m=use.get(str(i)),
                wait=float(stored.get("wait", 0)),  # files of earlier versions have none
            )
            for i, stored in enumerate(router["storings"])
        )
        facts[name] = Facts(
            k=router["k"],
            probing_t=router["probing_t"],
            nprobe=router["nprobe"],
            storings=storings,
            calibration_error=float(router["calibration_error"]),
            recall=recall_of(about["about"]),
        )
    return Model(
        facts=facts,
        net=_below(arrays, "net."),
        mean=arrays["input.mean"],
        scale=np.float32(arrays["input.scale"]),
        space=Space(about["metric"], arrays["space.mean"], np.float32(arrays["space.scale"])),
        delta_floor=about["delta_floor"],
        param_list=tuple(about["param_list"]),
        asking=arrays["asking"],
        log=arrays.get("log"),
        about=about["about"],
    )


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def model_router(model: Model, k: float, backend_name: str, gpu: Gpu) -> Router:
    """The whole network of a file as a router: its centers are where a new network starts."""
    backend, params = net_params(model, backend_name, gpu)
    linear = centers_router("centers", model.net["centers"], model.space.metric, model.delta_floor, k)
    return net_router(lambda x: backend.logits(params, x, k), linear, partial(backend.rank, params, k))


def net_params(model: Model, backend_name: str, gpu: Gpu) -> tuple[Backend, dict[str, Any]]:
    """A backend, and a file's network on its device."""
    nlist, dim = model.param_list[-1], model.param_list[0]
    setup = Setup(
        param_list=model.param_list,
        metric=model.space.metric,
        start=model.net["centers"],
        radius=np.ones(nlist, np.float32),
        mean=model.mean,
        scale=model.scale,
        delta_floor=model.delta_floor,
        learning_rates=np.zeros(1),
        use_rate=0.0,
    )
    backend = load_backend(backend_name, setup, gpu)
    weights = {name: value for name, value in model.net.items() if name != "centers"}
    weights = {"u": np.zeros((nlist, dim), dtype=np.float32)} | weights
    return backend, backend.put(weights)
