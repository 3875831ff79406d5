"""What an .npy file holds that no vectors are read from: named in words, with what to do."""

import re
from pathlib import Path

import numpy as np

from ivfast.data.first_bytes import quoted

OBJECTS = "Python objects (a pickle), which are never loaded"
RECORDS = "records (a structured array)"
BFLOAT16 = "V2"  # as NumPy saves it, whose types it is none of
FLOAT8 = ("V1", "f1")
ORDINARY = (1e-9, 1e9)  # float32 with its bytes in the other order is beyond it somewhere, unless by chance
LEAST_NUMBERS = 100
FLOATS = "astype('float32')"


def expected(name: str) -> str:
    """The type that a file of this name should hold."""
    return "int64" if name == "gt" else "float32"


def refusal(type: str, name: str, path: Path) -> str:
    """What is wrong with the type of an .npy file, and what to do, as the end of a message.

    type: as its header says, such as <f8, or OBJECTS or RECORDS; name: what messages call it
    """
    kind = type if type in (OBJECTS, RECORDS) else type.lstrip("<>|=")
    return f"holds {_shown(type, kind)}, expected {expected(name)}; {_do(kind, name, path)}"


def _shown(type: str, kind: str) -> str:
    names = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
    if kind == "b1":
        return "bool"
    if kind not in FLOAT8 and re.fullmatch(r"[iufc]\d+", kind) and kind[1:] in ("1", "2", "4", "8", "16", "32"):
        return f"{names[kind[0]]}{8 * int(kind[1:])}"
    return type


def _do(kind: str, name: str, path: Path) -> str:
    if name == "gt":
        return "gt holds row numbers of base.npy: regenerate it, and write it with np.save"
    if kind == OBJECTS:
        return (
            "a list, or rows of unequal length, was saved; where you trust the file, "
            f"{_again(path, 'np.stack(np.load(FILE, allow_pickle=True)).' + FLOATS)}"
        )
    if kind == RECORDS:
        unpacked = "np.array(np.load(FILE).tolist(), 'float32')"
        return f"save the field of the vectors alone by np.save, or all fields as columns: {_again(path, unpacked)}"
    if kind == BFLOAT16:
        aside = path.with_stem(f"{path.stem}_bfloat16")
        said = "it looks like bfloat16, which NumPy saves so"
        return f"{said}: mv {quoted(path, aside)} && ivfast convert {quoted(aside, path)}"
    if kind in FLOAT8:
        said = "it looks like float8, whose kind NumPy does not save; of float8_e4m3fn"
        return f"{said}, {_again(path, 'np.load(FILE).view(ml_dtypes.float8_e4m3fn).' + FLOATS)}"
    if kind[0] == "c":
        said = "vectors are real numbers; to have both parts as columns"
        return f"{said}, {_again(path, '(lambda a: np.hstack([a.real, a.imag]))(np.load(FILE)).' + FLOATS)}"
    if kind[0] in "US":
        return f"that is text; where it spells numbers, {_again(path, f'np.load(FILE).{FLOATS}')}"
    if kind[0] in "Mm":
        return "these are dates or times, no vectors: name another file, or write vectors by np.save"
    if kind[0] == "V":
        return "these are bytes without a type: give them one by .view(..), then np.save"
    if kind in ("i4", "i8", "u4", "u8"):
        said = "whole numbers are what answers (gt) are; where they are vectors"
        return f"{said}, {_again(path, f'np.load(FILE).{FLOATS}')}"
    return f"save it with .astype('float32'): {_again(path, f'np.load(FILE).{FLOATS}')}"


def in_other_order(rows: np.ndarray) -> bool:
    """Whether floats are of ordinary size only once their bytes are in the other order. rows: (n, dim) floats"""
    return not _ordinary(rows) and _ordinary(rows.byteswap())


def _ordinary(rows: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # of NaN that float64 writes otherwise
        sizes = np.abs(rows.astype(np.float64))
    sizes = sizes[sizes != 0]
    least, most = ORDINARY
    return len(sizes) >= LEAST_NUMBERS and bool(sizes.max() <= most) and bool(least <= np.median(sizes) <= most)


def _again(path: Path, code: str) -> str:
    file = repr(str(path))
    return f"np.save({file}, {code.replace('FILE', file)})"
