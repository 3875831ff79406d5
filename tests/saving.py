"""Files of vectors as others write them: by hand, or by the library of the format."""

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

N, DIM = 23, 6
FLOATS = np.random.default_rng(3).standard_normal((N, DIM)) * 40
INTEGERS = (np.arange(N * DIM).reshape(N, DIM) * 37) % 256
GT = np.array([[5, 3, 4_000_000], [0, -1, -1]])  # answers of two queries, -1 where they run out


def save_vecs(path: Path, x: np.ndarray) -> None:
    path.write_bytes(b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in x))


def save_bin(path: Path, x: np.ndarray) -> None:
    path.write_bytes(struct.pack("<II", *x.shape) + x.tobytes())


def save_hdf5(path: Path, x: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["train"] = x
        file["test"] = x[:2] + 1
        file["neighbors"] = np.zeros((2, 3), np.int32)
        file["distances"] = np.zeros((2, 3), np.float32)


def save_packed(path: Path, x: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/vectors", data=x, chunks=(5, x.shape[1] // 2 + 1), compression="gzip")


def table(x: np.ndarray, lists: pa.DataType | None = None) -> pa.Table:
    lists = lists or pa.list_(pa.from_numpy_dtype(x.dtype), x.shape[1])
    tags = pa.array([["a", "b"]] * len(x))
    return pa.table({"id": np.arange(len(x)), "tags": tags, "embedding": pa.array(list(x), lists)})


def save_parquet(path: Path, x: np.ndarray) -> None:
    pq.write_table(table(x), path, row_group_size=9)


def save_lists(path: Path, x: np.ndarray) -> None:
    """Lists of any length, as far as their type says."""
    pq.write_table(table(x, pa.list_(pa.from_numpy_dtype(x.dtype))), path)


def save_lance(path: Path, x: np.ndarray) -> None:
    lance.write_dataset(table(x), str(path), max_rows_per_file=10)


def save_shards(path: Path, x: np.ndarray) -> None:
    path.mkdir()
    for part, rows in enumerate(np.array_split(x, 11)):  # part 10 sorts before part 2 as text
        np.save(path / f"part-{part}.npy", rows)
    (path / "README.md").write_text("not a shard")


def save_parquets(path: Path, x: np.ndarray) -> None:
    path.mkdir()
    for part, rows in enumerate(np.array_split(x, 3)):
        save_parquet(path / f"{part}.parquet", rows)


def save_tensor(path: Path, x: np.ndarray) -> None:
    save_file({"vectors": x, "bias": x[0], "ids": np.arange(N)}, path)


def save_backwards(path: Path, x: np.ndarray) -> None:
    np.save(path, np.asfortranarray(x.astype(x.dtype.newbyteorder(">"))))


def values(dtype: str) -> np.ndarray:
    """(N, DIM) of dtype, negative ones too where there are any."""
    return FLOATS.astype(dtype) if dtype.startswith("float") else INTEGERS.astype(np.uint8).astype(dtype)


def npy(array: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.save(path, array)


def parquet(lists: list[object], type: pa.DataType | None = None) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table({"id": pa.array([7] * len(lists)), "x": pa.array(lists, type)}), path)


def hdf5(**datasets: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, data in datasets.items():
                file[name] = data

    return write


def cut(save: Callable[[Path, np.ndarray], object], n_bytes: int, dtype: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        save(path, values(dtype))
        path.write_bytes(path.read_bytes()[:-n_bytes])

    return write


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)
