"""What a gt that cannot be right may be instead: distances, numbers counted from 1, another tool's sign for none."""

import numpy as np

MARKS = (2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, -(2**31), -(2**63))  # what others write for "no answer"
EXACT_IN_FLOAT32 = 1 << 24  # whole numbers up to here
SURE = 20  # steps between neighbours in rows that don't all rise by chance
LOOKED_AT = 1 << 20  # entries of a gt that is no integer


def not_integers(gt: np.ndarray, n_base: int | None = None) -> str:
    """What to do with a gt of another type. gt: (rows, width); n_base: rows of base, where they are known"""
    if gt.dtype.kind != "f":
        return "gt holds row numbers of base.npy: regenerate it"
    looked_at = np.asarray(gt[: max(1, LOOKED_AT // gt.shape[1])])
    found = looked_at.astype(np.float64)
    known = found[np.isfinite(found)]
    beyond = n_base is not None and bool((known >= n_base).any())
    if (known != np.floor(known)).any() or (known < -1).any() or (_sorted(found) and (beyond or _repeats(found))):
        return _distances(looked_at)
    if gt.dtype != np.float64 and known.size and known.max() >= EXACT_IN_FLOAT32:
        return f"{gt.dtype} rounds whole numbers as large as {known.max():.0f}: regenerate it as integers"
    if known.size < found.size:
        marks = " or ".join(
            name for name, there in (("NaN", np.isnan(found)), ("infinity", np.isinf(found))) if there.any()
        )
        return f"put -1 where there is {marks}, then save it with .astype('int64')"
    return "its numbers are whole: save it with .astype('int64')"


def _distances(found: np.ndarray) -> str:
    few = ", ".join(f"{value:.4g}" for value in found[0, :3]) + ", .." * (found.shape[1] > 3)
    return (
        f"these look like distances ({few}), and gt needs row numbers of base.npy: save the other array, which of "
        "D, I = index.search(..) is I"
    )


def _sorted(found: np.ndarray) -> bool:
    """Whether all rows rise, or all fall, where that can't be by chance."""
    left, right = found[:, :-1], found[:, 1:]
    return left.size >= SURE and bool((right >= left).all() or (right <= left).all())


def _repeats(found: np.ndarray) -> bool:
    return bool(((found[:, 1:] == found[:, :-1]) & np.isfinite(found[:, 1:])).any())


def named_twice(gt: np.ndarray) -> tuple[int, int] | None:
    """The first row that names an id twice, and that id. gt: (rows, width) integers, negative: none"""
    ordered = np.sort(gt.astype(np.int64), axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if not twice.any():
        return None
    row = int(np.argmax(twice.any(axis=1)))
    return row, int(ordered[row, 1:][twice[row]][0])


def other_rows(shape: tuple[int, ...], n_query: int, n_base: int) -> str:
    """What a gt of another number of rows than queries may be."""
    if shape[1] == n_query:
        return "it is transposed: save gt.T"
    if shape[0] == n_base:
        return "it has a row for each of base.npy: base and query may be swapped, or it was made of base itself"
    if shape[0] == 1 and n_query > 1 and shape[1] % n_query == 0:
        return f"all answers lie in one row: save gt.reshape({n_query}, -1)"
    return "regenerate it for query.npy"


def outside(gt: np.ndarray, n_base: int, n_query: int) -> str:
    """What a gt with entries beyond base may be. gt: (rows, width) integers"""
    least, most, marks = _extent(gt)
    looked_at = np.asarray(gt[: max(1, LOOKED_AT // gt.shape[1])])
    swapped = looked_at.byteswap()
    if looked_at.dtype.itemsize > 1 and int(swapped.min()) >= -1 and int(swapped.max()) < n_base:
        return "its bytes are in the other order (endianness): save gt.byteswap()"
    if marks and least >= -1 and most < n_base:
        mark = marks[0]
        into = "" if mark == 2**64 - 1 else f"; gt[gt == {mark}] = -1"
        return (
            f"{mark} is how other tools write that there is no answer, which is -1 here: gt = gt.astype('int64'){into}"
        )
    if _sorted(looked_at) and most >= n_base:
        return _distances(looked_at)
    if most == n_base and _only_last(looked_at, n_base):
        return f"{n_base} is how other tools write that there is no answer, which is -1 here: gt[gt == {n_base}] = -1"
    if least > 0 and most == n_base:
        return "its numbers seem to be counted from 1: save gt - 1"
    if most >= n_base and n_base == n_query:
        return (
            f"it names rows up to {most}, so that base has {most + 1} rows or more; base.npy has as many as query.npy: "
            "is it the file of the queries?"
        )
    if most >= n_base:
        return (
            f"it names rows up to {most}, so it is of a base of {most + 1} rows or more, or its numbers are ids of "
            "another kind; regenerate it for this base.npy"
        )
    return "-1 stands for none; regenerate it for this base.npy"


def _only_last(gt: np.ndarray, number: int) -> bool:
    """Whether a number stands at the ends of rows alone, and several times in one: no answer does."""
    is_it = gt == number
    return bool((is_it.sum(axis=1) > 1).any() and not (is_it[:, :-1] & ~is_it[:, 1:]).any())


def _extent(gt: np.ndarray) -> tuple[int, int, list[int]]:
    """The least and the largest entry that is no mark, and the marks that there are."""
    least, most, marks = 2**63, -(2**63), set()
    for start in range(0, len(gt), max(1, LOOKED_AT // gt.shape[1])):
        block = np.asarray(gt[start : start + max(1, LOOKED_AT // gt.shape[1])])
        for mark in MARKS:
            if np.iinfo(block.dtype).min <= mark <= np.iinfo(block.dtype).max:
                is_mark = block == mark
                if is_mark.any():
                    marks.add(mark)
                    block = block[~is_mark]
        if block.size:
            least, most = min(least, int(block.min())), max(most, int(block.max()))
    return least, most, sorted(marks)
