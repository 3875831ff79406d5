"""Which buckets the vectors of a base go into, for an engine that is told (FAISS `add_core`, say)."""

import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

import numpy as np

from ivfast.data.centers import check_norms, open_centers
from ivfast.data.cleaning import Advice, Cleaning, scan
from ivfast.data.vectors import FLOATS, Vectors
from ivfast.route.routers import LogitTiles, centers_router
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.start.neighbors import nearest_of_all
from ivfast.store.budget import assign
from ivfast.store.dcnet_file import Model, load_model
from ivfast.store.demand import Demand, find_probes, reverse_of
from ivfast.store.rules import Plan, log_use

TO_CALLERS = Advice("leave them out before", "divide rows by their norms (faiss.normalize_L2)")


def store(save_path: Path | str, vectors: np.ndarray, percent: float) -> tuple[np.ndarray, np.ndarray]:
    """Assign vectors to the buckets of save_path/ivfast.npy by benefit (see docs/formats.md).

    The vectors are searched for their nearest among themselves first: hand over all of base at once.
    Above 200,000 of them that takes a copy in memory, in float32, and about 1 KB a vector beside.

    vectors: (n, dim) float array or memory map, as searched: unit rows under IP, of any norm after a run
    with --normalize True
    percent: extra entries over all vectors; one of the run's --percents
    returns: rows of vectors (entries,) int64 and their buckets (entries,) int64;
    (1 + percent) n entries, every vector at least once, grouped by vector
    raises: UserError where the files do not belong together, the percent is unknown, or the vectors are of another
    dim or type, not finite or, under IP, not of unit norm
    """
    centers, model = _open_run(Path(save_path))
    facts = model.facts["centers"]
    percent = _known(percent, facts.storing)
    router = centers_router("centers", model.space.inside(centers), model.space.metric, model.delta_floor, facts.k)
    t = facts.storing[percent]
    plan = Plan("benefit", percent, t, log_use(facts.use[t]))
    width = min(model.ftopk, len(centers))
    base = _admit(np.asarray(vectors), model)
    tiles, demand = LogitTiles(router, base, model.space), None
    if len(base) > 1:
        near = nearest_of_all(base, model.space, len(model.asking), silent())
        demand = Demand(reverse_of(near, model.asking), find_probes(tiles, facts.nprobe))
    buckets = assign(tiles, [plan], width, demand=demand)[0].buckets
    rows, columns = np.nonzero(buckets >= 0)
    # contiguous, since FAISS takes pointers
    return np.ascontiguousarray(rows), buckets[rows, columns].astype(np.int64)


def _open_run(folder: Path) -> tuple[np.ndarray, Model]:
    """The centers, as stored, and the model that belongs to them."""
    path = folder / "ivfast.npy"
    if not path.is_file():
        raise UserError(f"{folder}: no ivfast.npy, expected the save_path of a finished run; train first")
    centers = open_centers(path)
    model = load_model(folder / "dcnet.safetensors", path)
    if model is None or not model.fits(centers):
        raise UserError(f"{folder}: dcnet.safetensors is missing or belongs to another ivfast.npy; train again")
    if model.space.metric == "IP":
        check_norms(centers, path)
    return centers, model


def _known(percent: float, storing: Iterable[float]) -> float:
    """The run's percent that is meant: 0.8 in float32 is another number than 0.8."""
    for known in storing:
        if isinstance(percent, Real) and math.isclose(percent, known, rel_tol=1e-6):
            return known
    told = ", ".join(f"{p:g}" for p in storing)
    raise UserError(f"percent {percent!r} was not among the run's --percents ({told}); choose one, or train with it")


def _admit(vectors: np.ndarray, model: Model) -> Vectors:
    """Check what a caller hands over as a run checks its base."""
    dim = model.param_list[0]
    if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors) or vectors.dtype.name not in FLOATS:
        raise UserError(
            f"vectors: found {vectors.dtype} of shape {vectors.shape}, expected floats, (n, {dim}) with n above 0; "
            "convert them with .astype('float32'), or hand over the base that the run was for"
        )
    clean = Cleaning(normalize=model.about["settings"]["normalize"])
    return scan(Vectors("vectors", Path("(array)"), vectors), model.space.metric, silent(), clean, TO_CALLERS)
