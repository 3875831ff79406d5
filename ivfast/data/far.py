"""Rows and columns that lie thousands of times farther than others, large offsets, odd units: found and named."""

import hashlib
from dataclasses import replace

import numpy as np

from ivfast.data.middle import FAR, middle_of, sampled
from ivfast.data.space import Space
from ivfast.data.vectors import Vectors, unit_spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

LOOKED_AT = 1 << 20  # entries at once, in float64
NAMED = 5  # rows or columns that a line names
OFFSET = 100.0  # times the scale: so far from zero engines that compute in float32 begin to lose digits
UNITS_DIFFER = 1e-3  # of their norm: where unit rows differ by less, float32 has few digits for inner products
UNITS = 1e-15, 1e15  # of the scale: beyond, squares in float32 vanish or overflow


class FarRows:
    """The far rows of a file under L2, found block by block."""

    def __init__(self, vectors: Vectors) -> None:
        self._name = vectors.name
        self._middle = middle_of(vectors.rows[sampled(len(vectors.rows), vectors.dim)])
        self._rows: list[np.ndarray] = []
        self._farthest = 0.0

    def look(self, block: np.ndarray, start: int) -> None:
        """Look at some rows. block: (n, dim) as stored, the first of them row `start` of the file"""
        step = max(1, LOOKED_AT // block.shape[1])
        for at in range(0, len(block), step):
            times = self._middle.times(block[at : at + step])
            far = np.flatnonzero(np.isfinite(times) & (times > FAR))
            self._rows.append(far + start + at)
            self._farthest = max(self._farthest, float(times[far].max(initial=0)))

    @property
    def rows(self) -> np.ndarray | None:
        """Their numbers, ascending; None where there is none."""
        found = np.concatenate(self._rows)
        return found if len(found) else None

    def note(self, progress: Progress) -> None:
        """Name them in one line, where there are any."""
        if (rows := self.rows) is not None:
            lie = "lies" if len(rows) == 1 else "lie up to"
            progress.note(
                f"{self._name}: {numbers(rows, 'row')} {lie} {self._farthest:.2g} times farther from the middle than "
                "nine of ten rows: such rows do not train, and are stored and searched by their direction alone; leave "
                "them out if they are faults of the file"
            )


def numbers(found: np.ndarray, what: str) -> str:
    """The first rows or columns by number, and how many more: 'row 3', 'rows 3, 7 (and 40 more)'."""
    if len(found) == 1:
        return f"{what} {found[0]}"
    more = f" (and {len(found) - NAMED:,} more)" if len(found) > NAMED else ""
    return f"{what}s {', '.join(str(number) for number in found[:NAMED])}{more}"


def without_far(learn: Vectors) -> Vectors:
    """The same file without its far rows: a single one would have a bucket of its own, and draw the mean."""
    if learn.far is None:
        return learn
    everyone = np.arange(len(learn.rows)) if learn.rows_kept is None else learn.rows_kept
    digest = hashlib.blake2b(f"{learn.digest} without far rows".encode(), digest_size=16).hexdigest()
    return replace(learn, rows_kept=np.setdiff1d(everyone, learn.far), far=None, digest=digest)


def has_usual_unit(space: Space) -> bool:
    """Whether squares of distances fit float32, in which FAISS computes."""
    return space.metric == "IP" or UNITS[0] < float(space.scale) < UNITS[1]


def check_unit(space: Space, name: str) -> None:
    """raises: UserError where FAISS can't search rows of such a space. name: what messages call the rows"""
    if not has_usual_unit(space):
        raise UserError(
            f"{name} differ by about {space.scale:.1g}, expected 1e-15 to 1e15, since FAISS computes squares in "
            f"float32; multiply all vectors by {1 / float(space.scale):.0e} and train again"
        )


def odd_forms(learn: Vectors, space: Space) -> list[str]:
    """What makes learn hard for engines that compute in float32, a line each; none of most files."""
    if space.metric == "IP":
        if (differ := unit_spread(learn)) >= UNITS_DIFFER:
            return []
        return [
            f"its rows differ by {differ:.1g} of their norm, so that inner products in float32 hardly tell them apart; "
            "subtract learn's mean from learn, base and query before they are divided by their norms"
        ]
    found, scale = [], float(space.scale)
    x = space.wide(learn.raw(sampled(len(learn), learn.dim)))
    columns, sizes = x.std(axis=0), np.sqrt(np.square(x - np.median(x, axis=0)).mean(axis=1))
    usual = np.median(columns[columns > 0]) if columns.any() else np.inf
    if len(far := np.flatnonzero(columns > FAR * usual)):
        spread = "spreads" if len(far) == 1 else "spread up to"
        found.append(
            f"{numbers(far, 'column')} {spread} {columns.max() / usual:.2g} times wider than the middle one: distances "
            "go by little else; rescale such columns in learn, base and query, or leave them out"
        )
    if sizes.any() and (times := 1 / np.median(sizes[sizes > 0])) > FAR:
        found.append(
            f"its rows lie {times:.2g} times farther from their mean than half of them lie from the middle, so that "
            "float32 hardly tells that half apart: unless they are twins, train the two kinds each on their own"
        )
    offset = float(np.sqrt(np.square(space.mean, dtype=np.float64).mean())) / scale
    if offset > OFFSET:
        found.append(
            f"its mean lies {offset:.2g} times farther from zero than rows lie from it: engines that compute in "
            "float32 lose digits by that; subtract it from learn, base and query"
        )
    if not has_usual_unit(space):
        found.append(
            f"its rows differ by about {scale:.1g}, the square of which is no fit for float32: FAISS and most engines "
            f"can't search them; multiply learn, base and query by {1 / scale:.0e}"
        )
    return found


def note_other_unit(vectors: Vectors, space: Space, progress: Progress) -> None:
    """Warn where most rows of base or query lie far outside learn, under L2: as in another unit."""
    if space.metric == "IP":
        return
    sizes = np.sqrt(np.square(space.wide(vectors.raw(sampled(len(vectors), vectors.dim)))).mean(axis=1))
    if (times := np.median(sizes)) > FAR:
        progress.note(
            f"warning: {vectors.name}: half of its rows lie more than {times:.2g} times farther from learn's mean than "
            "learn's rows, as in another unit: only their direction counts; make learn of such rows"
        )
