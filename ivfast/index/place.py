"""Where a base goes, and where a vector goes that comes later: the rule of the trained centers in both cases."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ivfast.data.twins import Distinct
from ivfast.data.vectors import Points
from ivfast.index.files import ProbesUse
from ivfast.index.probing import Prober
from ivfast.route.routers import ROUTERS, Router
from ivfast.route.tiles import make_tiles
from ivfast.runtime.progress import Progress
from ivfast.start.descent import Means
from ivfast.start.extend import Part, nearest_by_part
from ivfast.start.neighbors import nearest_of_all
from ivfast.store.demand import Demand, Probes, demand_of_base, find_probes
from ivfast.store.place import make_plans, place
from ivfast.store.records import Facts, storing_ts
from ivfast.store.reverse import AskingLog, ReverseNeighbors, nearest_with_twins, reverse_of

RANKS = np.array([1, 2, 3, 5, 8, 11, 15, 20])  # of a vector's nearest, whose scores are kept
ROWS = 8192  # looked at at once


class Stored(NamedTuple):
    """Where a base lies."""

    buckets: np.ndarray  # (n, width) int32, the first bucket of each vector first, -1 where none
    probes_use: ProbesUse
    reach: np.ndarray  # (n, 8) float32, see `reach_of`
    twins: Distinct | None  # among the vectors; None: all differ


class Askers(NamedTuple):
    """Who will ask for new vectors."""

    x: np.ndarray  # (m, dim) float32, as stored: the new vectors themselves, then others
    reverse: ReverseNeighbors


class Placer(NamedTuple):
    """What places vectors."""

    router: Router
    facts: Facts
    asking: np.ndarray  # (k,) float32, see ivfast.store.reverse.asking_weights
    width: int  # buckets a vector is in at most
    log: AskingLog | None = None  # queries that ask for a whole base as well

    def place_all(
        self, points: Points, copies: float, aside: np.ndarray, means: Means, progress: Progress,
        part: Part | None = None,
    ) -> Stored:  # fmt: skip
        """A whole base.

        aside: rows that are stored, but don't count as asking for others, nor do twins of theirs
        part: of base, where its graph is known
        """
        tiles = make_tiles(self.router, points, temperatures=storing_ts(self.facts), width=self.width)
        nlist = self.router.nlist
        demand, twins, use = None, None, ProbesUse(np.zeros(nlist, np.float32), np.ones(nlist, np.float32))
        reach = np.empty((len(points), len(RANKS)), dtype=np.float32)
        most = len(self.asking)

        def search(different: Points) -> np.ndarray:
            if part is None or different is not points:
                return nearest_of_all(different, most, progress, means)
            return nearest_by_part(points, part, most, progress, means)

        if len(points) > 1:
            with progress.stage("neighbours of base"):
                nearest, twins = nearest_with_twins(points, most, search, progress)
            for start in range(0, len(points), ROWS):
                reach[start : start + ROWS] = reach_of(points, start, _rows_near(nearest, twins, start))
            silent = aside if twins is None else np.unique(twins.of[aside])
            logged = self.log and self.log.among(points, nearest.shape[1], twins, progress)
            reverse = reverse_of(nearest, self.asking, silent, twins, logged)
            demand = demand_of_base(tiles, reverse, self.facts.nprobe)
            use = ProbesUse(demand.probes.log_use, demand.probes.cost)
        plans = make_plans([ROUTERS["centers"].default_rule], self.facts.terms([copies], demand))
        with progress.stage("placing vectors"), progress.bar("placing vectors", 2 * len(points)) as bar:
            return Stored(place(tiles, plans, self.width, bar=bar)[0].buckets, use, reach, twins)

    def place_new(
        self, points: Points, copies: float, askers: Points, reverse: ReverseNeighbors, use: ProbesUse
    ) -> np.ndarray:
        """Vectors that come later. use: of the base; returns (n, width) int32, -1 where none"""
        looks = find_probes(make_tiles(self.router, askers, width=self.width), self.facts.nprobe)
        demand = Demand(reverse, looks._replace(log_use=use.log_use, cost=use.cost))
        tiles = make_tiles(self.router, points, temperatures=storing_ts(self.facts), width=self.width)
        plans = make_plans([ROUTERS["centers"].default_rule], self.facts.terms([copies], demand))
        return place(tiles, plans, self.width)[0].buckets

    def rank_new(
        self, points: Points, copies: float, demand_of: Callable[[Probes], Demand]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The buckets of vectors that come later, and their keys: a budget over more than these chooses among them.

        demand_of: who asks for them, told by where they look themselves
        returns: (n, width) int32, -1 where none, and (n, width) float32, see Rule
        """
        tiles = make_tiles(self.router, points, temperatures=storing_ts(self.facts), width=self.width)
        demand = demand_of(find_probes(tiles, self.facts.nprobe))
        (plan,) = make_plans([ROUTERS["centers"].default_rule], self.facts.terms([copies], demand))
        buckets, keys = zip(*(plan.rule.rank(tile, self.width) for tile in tiles.tiles()), strict=True)
        return np.concatenate(buckets), np.concatenate(keys)


def _rows_near(nearest: np.ndarray, twins: Distinct | None, start: int) -> np.ndarray:
    """The nearest of ROWS rows from start on, (n, k) rows. nearest: of `nearest_with_twins`"""
    if twins is None:
        return nearest[start : start + ROWS]
    return twins.rows[nearest[twins.of[start : start + ROWS]]]


def reach_of(points: Points, start: int, nearest: np.ndarray) -> np.ndarray:
    """How near its 1st, 2nd, 3rd, 5th, .. 20th nearest is to each vector: whoever is nearer is among them.

    nearest: (n, k) rows of points, nearest first, of the rows from start on; the last stands for ranks beyond k
    returns: (n, 8) float32, inner products or squared distances as FAISS gives them for the rows as stored
    """
    n = len(nearest)
    near = nearest[:, np.minimum(RANKS, nearest.shape[1]) - 1]
    x, others = points.x(slice(start, start + n)), points.x(near.ravel()).reshape(*near.shape, -1)
    if points.metric == "IP":
        return np.einsum("nd,nrd->nr", x, others)
    return np.square(x[:, None] - others).sum(axis=2) * np.float32(points.space.scale) ** 2


class Placing(Protocol):
    """What an index asks of its trained model."""

    centers: np.ndarray
    metric: str

    @property
    def nlist(self) -> int:
        """Number of buckets."""
        ...

    @property
    def dim(self) -> int:
        """Entries of a vector."""
        ...

    @property
    def asking(self) -> np.ndarray:
        """How often the r-th nearest of a vector is asked for beside it, (k,) float32."""
        ...

    def prober(self) -> Prober:
        """What ranks buckets by the centers."""
        ...

    def as_stored(self, vectors: np.ndarray, name: str) -> np.ndarray:
        """Rows checked, and as the index stores them, (n, dim) float32."""
        ...

    @property
    def held_out_queries(self) -> np.ndarray | None:
        """Logged queries that did not train, (m, dim) float32, as stored; None where there was no log."""
        ...

    def place_points(
        self, points: Points, copies: float, aside: np.ndarray, progress: Progress, *, spare: bool = False
    ) -> Stored:
        """Where a whole base goes. spare: logged queries that did not train ask for nobody"""
        ...

    def place_new(self, rows: np.ndarray, copies: float, askers: Askers, use: ProbesUse) -> np.ndarray:
        """Where vectors go that come later."""
        ...

    def points(self, vectors: np.ndarray, name: str = "vectors") -> Points:
        """Vectors checked as a run checks its base."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the model into another folder."""
        ...
