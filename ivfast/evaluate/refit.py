"""What an evaluation needs of each router: as it was trained, or fitted on learn where no file says it."""

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ivfast.choose.facts import fit_facts, fit_storings
from ivfast.choose.goal import fit_k, pair_logits
from ivfast.choose.held_out import HeldOut, make_held_out
from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.far import without_far
from ivfast.data.space import Space
from ivfast.data.twins import Distinct, distinct_rows
from ivfast.data.vectors import Points, Vectors, learn_path, measure_space, open_vectors, space_of
from ivfast.data.with_queries import with_queries
from ivfast.evaluate.folder import Found
from ivfast.evaluate.results import RouterSetting
from ivfast.method import RECALL
from ivfast.network.backend import load_ranker
from ivfast.route.routers import ROUTERS, Router, centers_router
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.devices import Gpu
from ivfast.runtime.draws import generator, spread
from ivfast.runtime.files import what_is
from ivfast.runtime.progress import Progress, silent
from ivfast.start.kmeans import measure_buckets
from ivfast.start.logged import part_log, with_log
from ivfast.start.neighbors import LearnSet, check_split, find_neighbors, split
from ivfast.store.dcnet_file import Model, model_router
from ivfast.store.records import Facts

MOST_LEARN = 60_000  # learn vectors at most on which facts are fitted where dcnet.safetensors has none
HELD_OUT_ENTRIES = 1 << 24  # held-out logits that set thresholds at most: 64 MiB


def open_learn(
    data_path: Path, learn_name: str | None, found: Found, ftopk: int, cleaning: Cleaning, progress: Progress
) -> Vectors | None:
    """Learn, checked; None where it is not named or not there."""
    path = learn_path(data_path, learn_name) if learn_name else None
    if path is None or not path.is_file():
        what = (path and what_is(path)) or "missing"
        progress.note(
            f"learn {path or '(no --learn_name)'} is {what}: fixed probing, with nearest and ratio assignment only"
        )
        return None
    learn = without_far(scan(open_vectors(path, "learn", found.centers.shape[1]), found.metric, progress, cleaning))
    check_split(learn, ftopk)
    return learn


def space_for(found: Found, learn: Vectors | None) -> Space:
    """How stored rows become x: as trained, else measured on learn, else on the centers."""
    if found.model:
        return found.model.space
    if learn:
        return measure_space(learn, found.metric)
    return space_of(found.centers, found.metric)


class Source(Protocol):
    """Where an evaluation takes what it needs of each router from."""

    @property
    def asking(self) -> np.ndarray:
        """How often askers count, (k,) float32, see asking_weights."""
        ...

    @property
    def delta_floor(self) -> float:
        """What delta is at least."""
        ...

    def k(self, name: str, centers: np.ndarray) -> float:
        """Sharpness of a router's logits. centers: (nlist, dim) float32, inside"""
        ...

    def facts(self, router: Router, k: float) -> Facts:
        """All numbers of a router, with a record for each number of copies."""
        ...

    def held_out_logits(self, router: Router) -> np.ndarray:
        """Logits of the held-out vectors that set thresholds, (n, nlist) float32."""
        ...


class FromFile:
    """As trained: dcnet.safetensors says it. What to do with numbers of copies it has not seen is fitted on learn."""

    def __init__(self, model: Model, learn: Points, copies: tuple[float, ...]) -> None:
        self.model, self.learn, self.copies = model, learn, copies
        self.seed: int = model.about["settings"]["seed"]
        self.asking, self.delta_floor = model.asking, model.delta_floor

    def k(self, name: str, centers: np.ndarray) -> float:
        """As trained."""
        del centers
        return self.model.facts[name].k

    def facts(self, router: Router, k: float) -> Facts:
        """As trained, with records for new numbers of copies."""
        del k
        facts = self.model.facts[router.name]
        new = tuple(number for number in self.copies if facts.storing(number) is None)
        if not new:
            return facts
        learn = self.learn if self._distinct.all_differ else self.learn.only(self._distinct.rows)
        storings = fit_storings(self._held, router, facts.nprobe, new, learn)
        return facts._replace(storings=facts.storings + storings)

    @cached_property
    def _distinct(self) -> Distinct:
        return distinct_rows(self.learn.vectors)

    @cached_property
    def _held(self) -> HeldOut:
        model = self.model
        return held_out_of(self.learn, model.ftopk, model.param_list[-1], self.seed, log=model.log, recall=model.recall)

    def held_out_logits(self, router: Router) -> np.ndarray:
        """Of the vectors that training held out, or the logged queries."""
        if (log := self.model.asking_log) is not None:
            asked = log.parts[1]
            return _logits(router, with_queries(self.learn, asked), len(self.learn) + np.arange(len(asked)))
        return _logits(router, self.learn, split(self._distinct, self.seed)[1])


class FittedOn:
    """Centers of any origin, (nlist, dim) float32, inside: everything is fitted on learn."""

    def __init__(
        self,
        centers: np.ndarray,
        learn: Points,
        copies: tuple[float, ...],
        ftopk: int,
        seed: int,
        recall: float = RECALL,
    ) -> None:
        self.copies, self.seed = copies, seed
        self.held = held_out_of(learn, ftopk, len(centers), seed, recall=recall)
        self.delta_floor = measure_buckets(self.held.learn.points, centers, seed).delta_floor

    @property
    def asking(self) -> np.ndarray:
        """Measured on held-out vectors."""
        return self.held.asking

    def k(self, name: str, centers: np.ndarray) -> float:
        """Fitted, with the shares of the buckets as m."""
        del name
        points = self.held.learn.points
        share = measure_buckets(points, centers, self.seed).share
        x, x_pair = self.held.pair_points()
        return fit_k(pair_logits(x, x_pair, centers, points.metric, self.delta_floor), share)

    def facts(self, router: Router, k: float) -> Facts:
        """All fitted."""
        return fit_facts(self.held, router, k, self.copies)

    def held_out_logits(self, router: Router) -> np.ndarray:
        """Of the vectors that were held out here."""
        return _logits(router, self.held.learn.points, self.held.rows)


def held_out_of(
    learn: Points, ftopk: int, nlist: int, seed: int, most: int = MOST_LEARN, log: np.ndarray | None = None,
    recall: float = RECALL,
) -> HeldOut:  # fmt: skip
    """Held-out vectors and their neighbours among at most so many learn vectors.

    log: (n, dim) float32, inside: queries of which some are held out instead
    recall: that searches are to reach
    """
    if len(learn) > most:
        drawn = generator(seed, 0, "sample", 3).choice(len(learn), most, replace=False)
        learn = learn.only(np.sort(drawn))
    ftopk = min(ftopk, len(learn) - 1)
    found = LearnSet(learn, find_neighbors(learn, ftopk, seed, silent()))
    if log is not None:
        found = with_log(found, *part_log(log, found, seed, silent()))
    return make_held_out(found, nlist, min(ftopk, nlist), seed, recall=recall)


def _logits(router: Router, learn: Points, rows: np.ndarray) -> np.ndarray:
    rows = rows[spread(len(rows), n_threshold_rows(len(rows), router.nlist))]
    return LogitTiles(router, learn, rows).all()


def n_threshold_rows(n: int, nlist: int) -> int:
    """How many of n held-out vectors set the thresholds of adaptive probing."""
    return min(n, max(1, HELD_OUT_ENTRIES // nlist))


def make_settings(
    found: Found, space: Space, source: Source | None, copies: tuple[float, ...], backend: str, gpu: Gpu
) -> list[RouterSetting]:
    """Every router found, and what evaluating it takes.

    source: None where there is no learn: what needs nothing fitted is evaluated alone
    backend, gpu: where the network runs
    """
    inside, ranker = {"centers": space.inside(found.centers)}, load_ranker(backend, gpu)
    if found.kmeans is not None:
        inside = {"kmeans": space.inside(found.kmeans)} | inside
    if source is None:
        floor = float(np.finfo(np.float32).tiny)
        plain = (centers_router(name, centers, space.metric, floor, 1.0, ranker) for name, centers in inside.items())
        return [RouterSetting(router, ROUTERS[router.name], copies, None, None) for router in plain]
    routers = []
    for name, centers in inside.items():
        k = source.k(name, centers)
        routers.append((centers_router(name, centers, space.metric, source.delta_floor, k, ranker), k))
    if found.model and found.model.net:
        k = found.model.facts["net"].k
        routers.append((model_router(found.model, k, backend, gpu), k))
    return [
        RouterSetting(router, ROUTERS[router.name], copies, source.facts(router, k), source.held_out_logits(router))
        for router, k in routers
    ]
