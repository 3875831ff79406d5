"""Which k-means a run is held against: where learn is of an odd form, the better of two."""

import numpy as np

from ivfast.choose.held_out import HeldOut
from ivfast.choose.judgement import judge_kmeans, scanned_share
from ivfast.data.far import odd_forms
from ivfast.data.space import Space
from ivfast.data.vectors import Points, Vectors
from ivfast.route.routers import centers_router
from ivfast.start.prepare import Cache, find_kmeans


def note_forms(scanned: Vectors, learn: Points, cache: Cache) -> bool:
    """Say what is odd about learn. scanned: with its far rows; returns whether anything is"""
    forms = odd_forms(learn.vectors, learn.space)
    for form in forms:
        cache.progress.note(f"warning: learn: {form}")
    return bool(forms) or scanned.far is not None


def better_kmeans(ours: np.ndarray, held: HeldOut, cache: Cache, niter: int) -> np.ndarray:
    """Of k-means inside and plain FAISS k-means on the rows as they are stored, who scans less on held-out vectors.

    Both are the same but for rounding, unless our own coordinates do harm: that must never look like a gain.

    ours: (nlist, dim) float32, inside; returns likewise
    """
    learn = held.learn.points
    plain = as_stored(learn)
    found = find_kmeans(cache._replace(learn=plain), len(ours), niter, raw=True)
    raw = learn.space.inside(plain.space.outside(found))
    with cache.progress.stage("comparing k-means"):
        shares = [_scanned(centers, held) for centers in (ours, raw)]
    better = int(shares[1] < shares[0])
    cache.progress.note(
        f"k-means: on vectors from their mean it scans {100 * shares[0]:.2f} % of learn for 90 % recall, on vectors as "
        f"they are stored {100 * shares[1]:.2f} %; the {('first', 'second')[better]} is taken"
    )
    return (ours, raw)[better]


def as_stored(learn: Points) -> Points:
    """The same rows less no mean and over a power of two: to the bit those of the file, but for the unit.

    So no square overflows or vanishes, which would end FAISS.
    """
    size = np.hypot(np.sqrt(np.square(learn.space.mean, dtype=np.float64).mean()), np.float64(learn.space.scale))
    unit = np.float32(np.exp2(np.clip(np.ceil(np.log2(size)), -126, 127)))
    return Points(learn.vectors, Space("L2", np.zeros(learn.dim, np.float32), unit))


def _scanned(centers: np.ndarray, held: HeldOut) -> float:
    floor = float(np.finfo(np.float32).tiny)  # neither it nor k changes which buckets are near
    router = centers_router("kmeans", centers, held.learn.points.metric, floor, 1.0)
    return scanned_share(judge_kmeans(held, router, (0.0,))[0])
