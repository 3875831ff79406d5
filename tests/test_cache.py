"""The cache: computed once for equal facts, and never trusted when damaged."""

from pathlib import Path

import numpy as np
import pytest

from ivfast.runtime.cache import cached, fingerprint


class Work:
    """Counts how often it is done."""

    def __init__(self, start: int = 0) -> None:
        self.done = 0
        self.arrays = {"centers": np.arange(start, start + 6, dtype=np.float32).reshape(2, 3), "counts": np.array([4])}

    def __call__(self) -> dict[str, np.ndarray]:
        self.done += 1
        return self.arrays


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_second_call_reads_what_the_first_computed(tmp_path: Path):
    work = Work()
    first, first_old = cached(tmp_path / "cache", "kmeans", "k1", work)
    second, second_old = cached(tmp_path / "cache", "kmeans", "k1", work)
    assert (first_old, second_old, work.done) == (False, True, 1)
    assert_same(first, work.arrays)
    assert_same(second, work.arrays)


def test_another_key_or_name_computes_anew(tmp_path: Path):
    cached(tmp_path, "kmeans", "k1", Work())
    for name, key in (("kmeans", "k2"), ("neighbors", "k1")):
        work = Work(10)
        found, old = cached(tmp_path, name, key, work)
        assert (old, work.done) == (False, 1)
        assert_same(found, work.arrays)


def damage_cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_bits(data: bytes) -> bytes:
    at = data.index(np.float32(5).tobytes())  # the last entry of centers
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def damage_all(data: bytes) -> bytes:
    return b"x" * len(data)


@pytest.mark.parametrize("damage", [damage_cut, damage_bits, damage_all, lambda _: b""])
def test_damaged_file_is_computed_anew(tmp_path: Path, damage):
    work = Work()
    cached(tmp_path, "kmeans", "k1", work)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    found, old = cached(tmp_path, "kmeans", "k1", work)
    assert (old, work.done) == (False, 2)
    assert_same(found, work.arrays)
    assert cached(tmp_path, "kmeans", "k1", work)[1]


def test_failed_computation_leaves_no_file(tmp_path: Path):
    def fail() -> dict[str, np.ndarray]:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cached(tmp_path / "cache", "kmeans", "k1", fail)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_fingerprint_depends_on_every_fact_and_not_on_their_order():
    facts = {"learn": "ab", "metric": "IP", "seed": 1, "niter": 20}
    assert fingerprint(**facts) == fingerprint(**dict(reversed(facts.items())))
    changed = [facts | {"learn": "ac"}, facts | {"metric": "L2"}, facts | {"seed": 2}, facts | {"niter": 21}]
    changed += [facts | {"ftopk": 10}, {"learn": "ab"}, facts | {"seed": "1"}]
    assert len({fingerprint(**one) for one in [facts, *changed]}) == len(changed) + 1
