"""The evaluation's story: which routers lie in a folder, and what they scan on a data set."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast import report
from ivfast.backends import Backend, Setup, check_device, load_backend
from ivfast.calibration import fit_k, pair_logits
from ivfast.config import Config, check_normalize, check_percents
from ivfast.data import (
    UNIT_TOLERANCE,
    EvaluationSet,
    Space,
    Vectors,
    learn_path,
    measure_space,
    open_evaluation_set,
    open_vectors,
    space_of,
)
from ivfast.draws import generator, spread
from ivfast.errors import UserError
from ivfast.evaluation import Result, RouterSetting, evaluate_router, held_out_rows
from ivfast.export import Model, load_model
from ivfast.facts import Facts, fit_facts, make_plans, measure_use
from ivfast.intake import check_split, cleaning, scan_set
from ivfast.neighbors import find_neighbors, split
from ivfast.npy import open_array
from ivfast.preparation import measure_buckets, reverse_of_base
from ivfast.progress import Progress, silent
from ivfast.routers import LogitTiles, Router, centers_router, net_router
from ivfast.scanning import scan
from ivfast.validation import HeldOut, choose_temperatures, held_out_demand, held_out_tiles, make_held_out

MOST_LEARN = 60_000  # learn vectors on which facts are fitted where dcnet.safetensors has none


class Found(NamedTuple):
    """What lies in a folder."""

    path: Path  # of the centers
    centers: np.ndarray  # (nlist, dim) float32, as stored
    kmeans: np.ndarray | None
    model: Model | None
    metric: str

    def settings(self, config: Config) -> Config:
        """Settings of an evaluation: as the files say, where they do."""
        nlist, dim = self.centers.shape
        config = replace(config, nlist=nlist, metric=self.metric, param_list=(dim, nlist))
        if self.model:
            config = replace(config, param_list=self.model.param_list, ftopk=self.model.ftopk)
        return config


def find_model(config: Config, given: set[str]) -> Found:
    """Read --ai_center and what lies beside it.

    raises: UserError where a flag contradicts the files
    """
    assert config.ai_center is not None
    path = config.ai_center
    centers = _open_centers(path, None)
    nlist, dim = centers.shape
    model = load_model(path.parent / "dcnet.safetensors", path)
    if "nlist" in given and config.nlist != nlist:
        raise UserError(f"--nlist {config.nlist}, but {path} has {nlist} centers; leave --nlist out")
    if "param_list" in given and (config.param_list[0], config.param_list[-1]) != (dim, nlist):
        raise UserError(
            f"--param_list {' '.join(map(str, config.param_list))}, but {path} is {nlist} x {dim}; leave it out"
        )
    if model and "param_list" in given and config.param_list != model.param_list:
        raise UserError(
            f"--param_list differs from that of dcnet.safetensors, {' '.join(map(str, model.param_list))}; leave it out"
        )
    if model and "metric" in given and config.metric != model.space.metric:
        raise UserError(
            f"--metric {config.metric}, but the centers were trained for {model.space.metric}; leave it out"
        )
    if model and "ftopk" in given and config.ftopk != model.ftopk:
        raise UserError(f"--ftopk {config.ftopk}, but the centers were trained with {model.ftopk}; leave it out")
    metric = model.space.metric if model else config.metric
    check_normalize(config, metric)
    if metric == "IP":
        _check_norms(centers, path)
    if model and (model.param_list[-1], model.param_list[0]) != (nlist, dim):
        raise UserError(f"{path.parent / 'dcnet.safetensors'} is for other centers than {path}; remove it")
    if model and model.net:
        check_device(config.backend, config.gpu)
    kmeans_path = path.parent / "kmeans.npy"
    kmeans = _open_centers(kmeans_path, centers.shape) if kmeans_path.is_file() else None
    return Found(path, centers, kmeans, model, metric)


def _open_centers(path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    array = open_array(path, "centers")
    if array.dtype.kind != "f":
        raise UserError(f"centers: {path} holds {array.dtype}, expected float32; name an ivfast.npy")
    if shape is not None and array.shape != shape:
        raise UserError(
            f"centers: {path} has shape {array.shape}, expected {shape} as the ivfast.npy beside it; remove it"
        )
    with np.errstate(over="ignore"):
        centers = np.array(array, dtype=np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(centers).all(axis=1))):
        raise UserError(f"centers: {path} row {bad[0]} holds NaN or infinity, expected finite numbers; export it anew")
    return centers


def _check_norms(centers: np.ndarray, path: Path) -> None:
    """Means of unit rows are no longer than 1; for longer ones 2 - 2 <x, c> is no squared distance."""
    norms = np.sqrt(np.square(centers, dtype=np.float64).sum(axis=1))
    longest = int(norms.argmax())
    if norms[longest] > 1 + UNIT_TOLERANCE:
        raise UserError(
            f"centers: {path} row {longest} has norm {norms[longest]:.4g}, expected at most 1 under --metric IP; "
            "divide the rows by their norms, or use --metric L2"
        )


def evaluate(
    config: Config, found: Found, progress: Progress, scanned_learn: Vectors | None = None,
    scanned_data: EvaluationSet | None = None,
) -> list[Result]:  # fmt: skip
    """Evaluate every router found on DATA_NAME and write the report into save_path.

    scanned_*: where they were opened and scanned already
    """
    nlist, dim = found.centers.shape
    check_percents(config, nlist)
    data = scanned_data
    if data is None:
        data = open_evaluation_set(config.data_path, config.data_name, dim)
        data = scan_set(data, found.metric, progress, cleaning(config))
    if found.model is None and (beside := found.path.parent / "dcnet.safetensors").is_file():
        progress.note(f"{beside} belongs to another {found.path.name}: its net and what was fitted are left out")
    learn = scanned_learn or _open_learn(config, found, progress)
    space = _space(found, learn)
    fitting = _Fitting(config, found, space, learn) if learn else None
    routers = _make_routers(config, found, space, fitting)
    nprobes = tuple(p for p in config.nprobes if p <= nlist)
    width = min(config.ftopk, nlist)
    reverse = None
    if fitting and any(setting.needs_demand for setting in routers) and len(data.base) > 1:
        reverse = reverse_of_base(config, data.base, space, fitting.asking, progress)
    results = []
    for setting in routers:
        results += evaluate_router(setting, data, space, width, nprobes, config.valid_batch_size, progress, reverse)
    about = found.model.about if found.model else {}
    is_kmeans = found.kmeans is not None and np.array_equal(found.centers, found.kmeans)
    report.write(config, data, results, about, progress, is_kmeans=is_kmeans)
    return results


def _open_learn(config: Config, found: Found, progress: Progress) -> Vectors | None:
    """Learn, where it is named and there."""
    path = learn_path(config.data_path, config.learn_name) if config.learn_name else None
    if path is None or not path.is_file():
        progress.note(
            f"learn {path or '(no --learn_name)'} is not at hand: fixed probing, with nearest and ratio assignment only"
        )
        return None
    learn = scan(open_vectors(path, "learn", found.centers.shape[1]), found.metric, progress, cleaning(config))
    check_split(learn, config)
    return learn


def _space(found: Found, learn: Vectors | None) -> Space:
    if found.model:
        return found.model.space
    if learn:
        return measure_space(learn, found.metric)
    return space_of(found.centers, found.metric)


class _Fitting:
    """Learn, and what is fitted on it where dcnet.safetensors does not say."""

    def __init__(self, config: Config, found: Found, space: Space, learn: Vectors) -> None:
        self.found, self.space, self.learn = found, space, learn
        self.percents, self.ftopk = config.percents, config.ftopk
        self.seed = found.model.about["settings"]["seed"] if found.model else config.seed
        self.nlist = len(found.centers)

    @cached_property
    def held(self) -> HeldOut:
        """Held-out vectors and their neighbours among at most 60,000 learn vectors."""
        learn = self.learn
        if len(learn) > MOST_LEARN:
            drawn = generator(self.seed, 0, "sample", 3).choice(len(learn), MOST_LEARN, replace=False)
            learn = learn.only(np.sort(drawn))
        ftopk = min(self.ftopk, len(learn) - 1)
        neighbors = find_neighbors(learn, self.space, ftopk, self.seed, silent())
        return make_held_out(learn, self.space, neighbors, self.nlist, min(ftopk, self.nlist), self.seed)

    @property
    def asking(self) -> np.ndarray:
        """As trained, or told by learn (see asking_weights)."""
        return self.found.model.asking if self.found.model else self.held.asking

    @cached_property
    def delta_floor(self) -> float:
        """As trained, or measured with the centers at hand."""
        if self.found.model:
            return self.found.model.delta_floor
        centers = self.space.inside(self.found.centers)
        return measure_buckets(self.held.learn, self.space, centers, self.seed).delta_floor

    def k(self, name: str, centers: np.ndarray) -> float:
        """As trained, or fitted with the shares of the buckets as m."""
        if self.found.model:
            return self.found.model.facts[name].k
        held = self.held
        share = measure_buckets(held.learn, self.space, centers, self.seed).share
        x, x_pair = (held.learn.take(self.space, rows) for rows in held.pairs)
        return fit_k(pair_logits(x, x_pair, centers, self.space.metric, self.delta_floor), share)

    def facts(self, router: Router, k: float) -> Facts:
        """As trained, with T_s for percents not seen before; or all fitted."""
        if not self.found.model:
            return fit_facts(self.held, router, k, self.percents)
        facts = self.found.model.facts[router.name]
        new = tuple(percent for percent in self.percents if percent not in facts.storing)
        if router.name == "kmeans" or not new:
            return facts
        tiles = held_out_tiles(self.held, router)
        demand = held_out_demand(self.held, router, facts.nprobe)
        storing = facts.storing | choose_temperatures(self.held, tiles, new, demand)
        unknown = set(storing.values()) - facts.use.keys()
        use = measure_use(self.learn, self.space, router, unknown, self.seed) if unknown else {}
        return facts._replace(storing=storing, use=facts.use | use)

    def held_out_logits(self, router: Router) -> np.ndarray:
        """Logits of the held-out vectors that set thresholds, (n, nlist) float32."""
        if self.found.model:
            learn, rows = self.learn, split(len(self.learn), self.seed)[1]
        else:
            learn, rows = self.held.learn, self.held.rows
        rows = rows[spread(len(rows), held_out_rows(len(rows), self.nlist))]
        return LogitTiles(router, learn, self.space, rows).all()


def _make_routers(config: Config, found: Found, space: Space, fitting: _Fitting | None) -> list[RouterSetting]:
    inside = {"centers": space.inside(found.centers)}
    if found.kmeans is not None:
        inside = {"kmeans": space.inside(found.kmeans)} | inside
    if fitting is None:
        floor = float(np.finfo(np.float32).tiny)
        return [
            RouterSetting(
                centers_router(name, c, space.metric, floor, 1.0), make_plans(name, None, config.percents), None, None
            )
            for name, c in inside.items()
        ]
    routers = []
    for name, c in inside.items():
        k = fitting.k(name, c)
        routers.append((centers_router(name, c, space.metric, fitting.delta_floor, k), k))
    if found.model and found.model.net:
        k = found.model.facts["net"].k
        routers.append((model_router(found.model, k, config.backend, config.gpu), k))
    settings = []
    for router, k in routers:
        facts = fitting.facts(router, k)
        plans = make_plans(router.name, facts, config.percents)
        held_out = fitting.held_out_logits(router)
        settings.append(RouterSetting(router, plans, facts.temperature, held_out, facts.predicted, facts.nprobe))
    return settings


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
