"""The one pass over a file's rows: hashed, and what would spoil a run refused or dropped."""

import hashlib
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ivfast.data.far import FarRows, numbers
from ivfast.data.npy import check_whole
from ivfast.data.space import UNIT_TOLERANCE
from ivfast.data.unfinished import interrupted
from ivfast.data.vectors import BLOCK_BYTES, Vectors, rows_per_block, unit_rows
from ivfast.data.wrong_types import in_other_order
from ivfast.runtime.draws import spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

FINE, NOT_FINITE, ZERO, NOT_UNIT = range(4)  # what a row can be; ZERO and NOT_UNIT under IP alone


class Cleaning(NamedTuple):
    """What is done to rows that cannot be used as they are."""

    normalize: bool = False  # divide rows by their norms
    drop: bool = False  # leave out rows that are not finite, and under IP rows of zeros


class Advice(NamedTuple):
    """What messages say is to be done."""

    drop: str  # with rows that are zero or not finite
    normalize: str  # with rows that lack unit norm


AS_STORED = Cleaning()
LOOKED_AT = 1000  # rows, for the order of bytes


BY_FLAGS = Advice(
    "leave such rows out with --drop_bad_rows True",
    "add --normalize True, or run faiss.normalize_L2 before np.save, or use --metric L2",
)


def scan(
    vectors: Vectors, metric: str, progress: Progress, cleaning: Cleaning = AS_STORED, advice: Advice = BY_FLAGS,
    block_bytes: int = BLOCK_BYTES,
) -> Vectors:  # fmt: skip
    """One pass over all rows of the file: hash them, refuse or drop what would spoil a run, and name far rows.

    returns: the vectors with their digest, and with what cleaning made of them
    raises: UserError on bytes in the other order, and on NaN, infinity, or (under IP) rows of zeros or without unit
    norm, where cleaning leaves them
    """
    _note_form(vectors, progress)
    check_whole(vectors.rows, vectors.name)
    if in_other_order(np.asarray(vectors.rows[spread(len(vectors.rows), LOOKED_AT)])):
        raise UserError(
            f"{vectors.name}: {vectors.path} holds numbers without any common size, and ordinary ones once their bytes "
            "are in the other order (endianness); save its .byteswap()"
        )
    digest = hashlib.blake2b(f"{vectors.rows.shape} {vectors.rows.dtype.str}".encode(), digest_size=16)
    faults = np.zeros(len(vectors.rows), dtype=np.int8)
    step, far = rows_per_block(vectors.dim, block_bytes), FarRows(vectors) if metric == "L2" else None
    with progress.bar(f"checking {vectors.name}", len(faults)) as bar:
        for start in range(0, len(faults), step):
            check_whole(vectors.rows, vectors.name)
            block = np.ascontiguousarray(vectors.rows[start : start + step])
            digest.update(block.data)
            faults[start : start + step] = _faults(unit_rows(block) if cleaning.normalize else block, metric)
            if far is not None:
                far.look(block, start)
            bar.advance(len(block))
    if cleaning.normalize:
        digest.update(b"normalize")
    scanned = replace(vectors, normalize=cleaning.normalize)
    if cleaning.drop:
        scanned = _drop(scanned, faults, progress)
        if scanned.rows_kept is not None:
            digest.update(b"drop")
        faults[(faults == NOT_FINITE) | (faults == ZERO)] = FINE  # they are gone
    _refuse(vectors, faults, advice)
    if (metric == "L2" or cleaning.drop) and (said := interrupted(vectors.rows)):
        progress.note(f"warning: {vectors.name}: {vectors.path}: {said}; write it anew")
    if far is not None:
        far.note(progress)
    return replace(scanned, digest=digest.hexdigest(), far=far.rows if far else None)


def _note_form(vectors: Vectors, progress: Progress) -> None:
    dtype, flags = vectors.rows.dtype, vectors.rows.flags
    form = ["big-endian"] if dtype.byteorder == ">" else []
    form += [dtype.name] if dtype.name != "float32" else []
    form += ["Fortran order"] if flags.f_contiguous and not flags.c_contiguous else []
    if vectors.was_read:
        progress.note(
            f"warning: {vectors.name}: {vectors.path} lies on a file system without memory maps: all of it was read "
            f"into memory ({vectors.rows.nbytes / 1e9:.1f} GB)"
        )
    if form:
        progress.note(
            f"{vectors.name}: {vectors.path} is stored as {', '.join(form)}; "
            "converted block by block, which takes time on every reading"
        )


def _faults(block: np.ndarray, metric: str) -> np.ndarray:
    """What each row is, (n,) int8."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = block.astype(np.float32, copy=False)
    faults = np.where(np.isfinite(x).all(axis=1), FINE, NOT_FINITE).astype(np.int8)
    if metric == "IP":
        with np.errstate(invalid="ignore"):
            norms = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1))
        faults[(faults == FINE) & (np.abs(norms - 1) > UNIT_TOLERANCE)] = NOT_UNIT
        faults[norms == 0] = ZERO
    return faults


def _drop(vectors: Vectors, faults: np.ndarray, progress: Progress) -> Vectors:
    """Keep all rows but those of zeros and those that are not finite, and say how many they are."""
    n_not_finite, n_zero = (int((faults == fault).sum()) for fault in (NOT_FINITE, ZERO))
    kept = np.flatnonzero((faults != NOT_FINITE) & (faults != ZERO))
    progress.note(
        f"{vectors.name}: {len(faults) - len(kept):,} of {len(faults):,} rows dropped "
        f"({n_zero:,} zero, {n_not_finite:,} not finite)"
    )
    if len(kept) == 0:
        raise UserError(
            f"{vectors.name}: no row of {vectors.path} can be used ({n_zero:,} are zero, {n_not_finite:,} not finite), "
            "expected some; save it anew"
        )
    return vectors if len(kept) == len(faults) else replace(vectors, rows_kept=kept)


def _refuse(vectors: Vectors, faults: np.ndarray, advice: Advice) -> None:
    """Raise UserError where a row of the file is not fine."""
    where = f"{vectors.name}: {vectors.path}"
    found = {fault: np.flatnonzero(faults == fault) for fault in (NOT_FINITE, ZERO, NOT_UNIT)}
    if len(large := found[NOT_FINITE]) and np.isfinite(vectors.rows[large[0]]).all():
        raise UserError(
            f"{where} {_rows(large, 'holds', 'hold')} a value beyond float32, expected at most 3.4e38; multiply learn, "
            f"base and query by one number in float64, or {advice.drop}"
        )
    if len(found[NOT_FINITE]):
        raise UserError(
            f"{where} {_rows(found[NOT_FINITE], 'holds', 'hold')} NaN or infinity, expected "
            f"finite numbers; mend such rows, or {advice.drop}"
        )
    if len(found[ZERO]) and (said := interrupted(vectors.rows)):
        raise UserError(f"{where}: {said}, expected unit norm under --metric IP; write it anew, or {advice.drop}")
    if len(found[ZERO]):
        raise UserError(
            f"{where} {_rows(found[ZERO], 'is', 'are')} zero, expected unit norm under --metric IP; "
            f"{advice.drop}, or use --metric L2"
        )
    if len(found[NOT_UNIT]):
        first = vectors.rows[found[NOT_UNIT][0]].astype(np.float64)
        raise UserError(
            f"{where} {_rows(found[NOT_UNIT], 'has', 'have')} norm {np.linalg.norm(first):.4g}, expected 1 under "
            f"--metric IP; {advice.normalize}"
        )


def _rows(index: np.ndarray, verb: str, plural: str) -> str:
    """The first rows by number, with their verb: 'row 3 holds', 'rows 3, 7 (and 40 more) hold'."""
    return f"{numbers(index, 'row')} {verb if len(index) == 1 else plural}"
