"""What a run will cost, told before it starts: seconds and memory of each stage, from its sizes and a machine's rates.

The names of the stages are those of metrics.jsonl, so that a plan can be held against the run.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from rich.table import Table

from ivfast.choose.facts import LEAST_USE_PER_BUCKET, MOST_USE, USE_PER_BUCKET
from ivfast.choose.held_out import JUDGED as MOST_JUDGED
from ivfast.choose.held_out import MOST_ASKING, SAMPLE_LEAST, SAMPLE_PER_BUCKET
from ivfast.choose.own_queries import ASKED_SHARE, LEAST_ASKED, MOST_ASKED, STAND_FOR_ALL
from ivfast.choose.verdict import WAYS
from ivfast.data.query_log import MOST as MOST_LOGGED
from ivfast.method import COUNTED, MANY_BUCKETS, SEEN
from ivfast.route.routers import trained_routers
from ivfast.route.tiles import BEST_BUCKETS, CACHED_BYTES
from ivfast.start.kmeans import n_sampled
from ivfast.start.logged import n_drawn
from ivfast.start.neighbors import LIMITS, N_ASKED, n_held_out

# Measured on 2 cores of an AMD EPYC (benchmarks/million.py): 60,000 lines of code at nlist 512, and where buckets are
# many a million at 4,096. A factor says how many products of rows and centers a stage takes the time of.
START_SECONDS = 4.0  # imports, and all that is outside the stages
KMEANS_ITERATIONS = 21  # after so many k-means has mostly ended by itself, however many --niter allows
EXACT_SEARCH = 0.7  # of the exact neighbours, beside their product: FAISS works in cache
NEIGHBOR_SECONDS = 77.0  # of the approximate neighbours of a million vectors of 256 entries
KINSHIP_SECONDS = 3.0  # of a million vectors
BUCKETS = 1.0  # of the vectors whose buckets are measured
JUDGED, JUDGED_OF_MANY = 6.0, 3.6  # of the pool and the held-out vectors, at each judgement of a router
FITTED, FITTED_OF_MANY = 8.0, 4.6  # of all vectors that facts of one router are fitted on
MORE_WAITS = 1.3  # times that, where waiting is tried as well (a million at 4,096: 1.3)
WORTH = 21.0  # of the pool, stored as a log asks and not (60,000 lines of code, 2,000 comments)
DRAWING = 0.5  # searches of drawn queries beside those for what they ask: half of them are drawn beside stored vectors
KNOWN_SECONDS = 7.0  # of a million vectors of base, where their neighbours are learn's
ASSIGNED = 4.0  # of base, by one router
SEARCHED = 20.0  # of the queries, by one router
REPORT_SECONDS = 1.0
WRITE_RATE = 3e8  # bytes a second, hashed and written

RUNTIME_BYTES = 3e8  # of the libraries and of compiled code
KMEANS_COPIES = 2.0  # of the vectors that k-means sees, where they are not mapped
EXACT_COPIES = 3.0  # of learn, while its neighbours are searched for exactly; above, it is mapped
GRAPH_BYTES = 3 * 4 * N_ASKED  # a vector, while its neighbours are searched for
ASKING_COPIES = 7  # of a query that is drawn, some of them float64
LEARN_BYTES = 8 + 4 * N_ASKED + 32  # a vector, kept through the training: its row, its neighbours, its kinship
JUDGED_BYTES = 600  # a vector of the pool
LOGIT_COPIES = 8  # of a step's logits, forward and backward
CHUNK_BYTES = 3e8  # the pairs of two chunks
STORED_BYTES = 1000  # a vector of base: who asks for it, where they look, where it goes


class Sizes(NamedTuple):
    """All that the cost of a run depends on."""

    n_learn: int
    n_base: int
    n_query: int
    param_list: tuple[int, ...]  # the first is dim, the last nlist
    epochs: int
    batch_size: int
    on_cpu: bool = True  # where the network is trained
    in_sample: bool = False  # base is learn
    n_logged: int = 0  # queries of a log
    more_waits: bool = False  # further copies may wait, which is tried as well

    @property
    def dim(self) -> int:
        """Entries of a vector."""
        return self.param_list[0]

    @property
    def nlist(self) -> int:
        """Buckets."""
        return self.param_list[-1]

    @property
    def trained(self) -> tuple[str, ...]:
        """Routers that are trained."""
        return trained_routers(deep=len(self.param_list) > 2)

    @property
    def n_steps(self) -> int:
        """Training steps of an epoch."""
        return -(-(self.n_learn - n_held_out(self.n_learn)) // self.batch_size)

    @property
    def many(self) -> bool:
        """Whether there are so many buckets that not all are looked at."""
        return self.nlist >= MANY_BUCKETS

    def n_pool(self, n_held: int) -> int:
        """Vectors that are stored for so many held-out ones to search among, at most."""
        sample = max(SAMPLE_LEAST, SAMPLE_PER_BUCKET * self.nlist)
        return min(self.n_learn, sample + COUNTED * n_held)


class Rates(NamedTuple):
    """What a machine does in a second. See ivfast.train.rates."""

    product: float  # float32 operations of a product of rows and centers, in NumPy
    step_seconds: float  # of one training step, of batch_size pairs
    first_seconds: float  # of what the first step takes beside, compilation
    read: float  # bytes of learn, read and checked


class Cost(NamedTuple):
    """Of one stage, all epochs together."""

    stage: str
    seconds: float
    gigabytes: float  # 10^9 bytes of anonymous memory while it runs
    disk: int  # bytes written


def plan(sizes: Sizes, rates: Rates, disk: dict[str, int]) -> list[Cost]:
    """The stages of a run in order. disk: bytes that stages write, by name"""
    gigabytes = bytes_of_stages(sizes)
    seconds = seconds_of_stages(sizes, rates)
    seconds["checkpoints"] = sizes.epochs * disk.get("checkpoints", 0) / 3 / WRITE_RATE  # three are on disk at most
    return [
        Cost(stage, took, gigabytes.get(stage, RUNTIME_BYTES) / 1e9, disk.get(stage, 0))
        for stage, took in seconds.items()
    ]


def seconds_of_stages(sizes: Sizes, rates: Rates) -> dict[str, float]:
    """Expected seconds by stage, in order."""
    product = _product_seconds(sizes, rates)
    n, n_base, dim, trained = sizes.n_learn, sizes.n_base, sizes.dim, sizes.trained
    n_held, n_judged = n_held_out(n), min(n_held_out(n), MOST_JUDGED)
    judged = sizes.n_pool(n_judged) + n_judged
    fitted = sizes.n_pool(n_held) + n_held + min(n, MOST_ASKING)
    fitted += min(n, USE_PER_BUCKET * sizes.nlist, max(MOST_USE, LEAST_USE_PER_BUCKET * sizes.nlist))
    by_judging, by_fitting = (JUDGED_OF_MANY, FITTED_OF_MANY) if sizes.many else (JUDGED, FITTED)
    by_fitting *= MORE_WAITS if sizes.more_waits else 1
    each = by_judging * sum(product(judged, router) for router in trained)
    n_asked = min(MOST_ASKED, round(ASKED_SHARE * n_base))
    known = sizes.in_sample and n_base > LIMITS.exact_learn
    seconds = {
        "imports and all else": START_SECONDS,
        "checking files": 4 * dim * (n + n_base) / rates.read,
        "k-means": KMEANS_ITERATIONS * product(n_sampled(n, sizes.nlist), "kmeans"),
        "neighbours of learn": neighbor_seconds(n, dim, rates.product),
        "held-out answers": EXACT_SEARCH * 2 * n_held_out(n) * n * dim / rates.product,
        "kinship": KINSHIP_SECONDS * n / 1e6,
        "measuring buckets": BUCKETS * product(n if sizes.many else n_sampled(n, sizes.nlist), "kmeans"),
        **_log_seconds(sizes, rates, product(judged, "kmeans")),
        "first judgement": by_judging * product(judged, "kmeans") + each,
        "training": sizes.epochs * sizes.n_steps * rates.step_seconds + (rates.first_seconds if sizes.epochs else 0),
        "judging": sizes.epochs * each,
        "checkpoints": 0.0,
        "choosing": len(WAYS) * each,
        "fitting facts": by_fitting * sum(product(fitted, router) for router in trained)
        + by_judging * product(judged, "kmeans"),
        "writing the model": 8 * math.prod(sizes.param_list[-2:]) / WRITE_RATE,
        "neighbours of base": KNOWN_SECONDS * n_base / 1e6 if known else neighbor_seconds(n_base, dim, rates.product),
        "nearest of vectors of base": 0
        if sizes.in_sample or sizes.n_logged
        else EXACT_SEARCH * n_asked * (n + n_base) * dim / rates.product,
    }
    for router in ("kmeans", *trained):
        if n_asked >= LEAST_ASKED and not sizes.in_sample and not sizes.n_logged:
            seconds[f"vectors of base as queries, {router}"] = by_judging * product(STAND_FOR_ALL, router)
        seconds[f"assigning base, {router}"] = ASSIGNED * product(n_base, router)
        seconds[f"searching, {router}"] = SEARCHED * product(sizes.n_query, router)
    return seconds | {"report": REPORT_SECONDS}


def _log_seconds(sizes: Sizes, rates: Rates, judged: float) -> dict[str, float]:
    """What its queries and drawn ones ask for, in learn and in base, and whether a log is worth it.

    judged: seconds of a product of the pool and all centers
    """
    if not sizes.n_logged:
        return {}
    logged = min(sizes.n_logged, MOST_LOGGED)
    compared = sum((logged + (1 + DRAWING) * n_drawn(n, logged)) * n for n in (sizes.n_learn, sizes.n_base))
    return {
        "answers of logged queries": EXACT_SEARCH * 2 * compared * sizes.dim / rates.product,
        "is the log worth it": WORTH * judged,
    }


def neighbor_seconds(n: int, dim: int, product: float) -> float:
    """Of the nearest of n vectors among each other: exactly, where they are few.

        exact         2 n^2 dim operations
        approximate   77 s a million, times log n / log 10^6, times dim / 256

    product: operations a second
    """
    if n <= LIMITS.exact_learn:
        return EXACT_SEARCH * 2 * n * n * dim / product
    return NEIGHBOR_SECONDS * n / 1e6 * math.log2(n) / math.log2(1e6) * dim / 256


def _product_seconds(sizes: Sizes, rates: Rates) -> Callable[[int, str], float]:
    """Seconds of the logits of some rows by a router. A step computes those of both sides, and twice that backward."""

    def seconds(rows: int, router: str) -> float:
        linear = 2 * rows * sizes.nlist * sizes.dim / rates.product
        return linear + (rows * rates.step_seconds / (6 * sizes.batch_size) if router == "net" else 0)

    return seconds


def bytes_of_stages(sizes: Sizes) -> dict[str, float]:
    """Expected anonymous memory by stage, where it is more than the libraries'."""
    vector = 4 * sizes.dim
    kept = RUNTIME_BYTES + LEARN_BYTES * sizes.n_learn

    def searching(n: int) -> float:
        return n * (EXACT_COPIES * vector * (n <= LIMITS.exact_learn) + GRAPH_BYTES)

    weights = 4 * (math.prod(sizes.param_list[:: len(sizes.param_list) - 1]) + _deep_weights(sizes))
    n_held, sampled = n_held_out(sizes.n_learn), n_sampled(sizes.n_learn, sizes.nlist)
    pool = sizes.n_pool(n_held) + n_held
    known = 12 * BEST_BUCKETS if sizes.many else 4 * sizes.nlist  # of one vector of the pool
    judged = kept + JUDGED_BYTES * pool + min(2 * CACHED_BYTES, vector * pool + known * pool)
    seen = SEEN if sizes.many else sizes.nlist
    trained = 4 * weights + (2 * LOGIT_COPIES * 4 * seen * sizes.batch_size if sizes.on_cpu else 0)
    found = {
        "k-means": RUNTIME_BYTES + KMEANS_COPIES * vector * sampled * (sampled <= LIMITS.exact_learn),
        "neighbours of learn": RUNTIME_BYTES + searching(sizes.n_learn),
        "held-out answers": kept + vector * n_held_out(sizes.n_learn),
        "kinship": kept + GRAPH_BYTES * sizes.n_learn,
        "measuring buckets": kept,
        "training": kept + CHUNK_BYTES + trained,
        "neighbours of base": kept + searching(sizes.n_base),
    }
    found |= dict.fromkeys(("first judgement", "judging", "choosing", "fitting facts"), judged + weights)
    if sizes.n_logged:
        found["answers of logged queries"] = kept + (ASKING_COPIES * vector + LEARN_BYTES) * n_drawn(sizes.n_learn, 0)
        found["is the log worth it"] = judged
    stored = kept + STORED_BYTES * sizes.n_base
    return found | {f"assigning base, {router}": stored for router in ("kmeans", *sizes.trained)}


def table(costs: list[Cost]) -> Table:
    """For people: a row a stage, and all together."""
    shown = Table(title="what this run is expected to take", title_justify="left")
    shown.add_column("stage")
    for name in ("seconds", "memory, GB", "disk, MB"):
        shown.add_column(name, justify="right")
    for cost in costs:
        shown.add_row(cost.stage, f"{cost.seconds:,.1f}", f"{cost.gigabytes:.1f}", f"{cost.disk / 1e6:,.0f}")
    shown.add_section()
    total = in_all(costs)
    shown.add_row(total.stage, f"{total.seconds:,.1f}", f"{total.gigabytes:.1f}", f"{total.disk / 1e6:,.0f}")
    return shown


def in_all(costs: list[Cost]) -> Cost:
    """Seconds and bytes of all stages, and the memory of the largest."""
    return Cost("in all", sum(c.seconds for c in costs), max(c.gigabytes for c in costs), sum(c.disk for c in costs))


def _deep_weights(sizes: Sizes) -> int:
    """Of the deep path; 0 where there is none."""
    widths = sizes.param_list
    return sum(a * b for a, b in pairwise(widths)) if len(widths) > 2 else 0
