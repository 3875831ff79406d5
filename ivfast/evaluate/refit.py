"""What an evaluation fits on learn where dcnet.safetensors does not say it."""

from functools import cached_property

import numpy as np

from ivfast.choose.facts import choose_temperatures, fit_facts, measure_use
from ivfast.choose.goal import fit_k, pair_logits
from ivfast.choose.held_out import HeldOut, held_out_demand, held_out_tiles, make_held_out
from ivfast.data.cleaning import scan
from ivfast.data.intake import cleaning
from ivfast.data.vectors import Space, Vectors, learn_path, measure_space, open_vectors, space_of
from ivfast.evaluate.folder import Found
from ivfast.evaluate.results import RouterSetting, held_out_rows
from ivfast.route.routers import LogitTiles, Router, centers_router
from ivfast.runtime.config import Config
from ivfast.runtime.draws import generator, spread
from ivfast.runtime.progress import Progress, silent
from ivfast.start.kmeans import measure_buckets
from ivfast.start.neighbors import check_split, find_neighbors, split
from ivfast.store.dcnet_file import Facts, make_plans, model_router

MOST_LEARN = 60_000  # learn vectors on which facts are fitted where dcnet.safetensors has none


def open_learn(config: Config, found: Found, progress: Progress) -> Vectors | None:
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


def space_for(found: Found, learn: Vectors | None) -> Space:
    """How stored rows become x: as trained, else measured on learn, else on the centers."""
    if found.model:
        return found.model.space
    if learn:
        return measure_space(learn, found.metric)
    return space_of(found.centers, found.metric)


class Fitting:
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


def make_settings(config: Config, found: Found, space: Space, fitting: Fitting | None) -> list[RouterSetting]:
    """Every router found, with its plans and what adaptive probing needs."""
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
