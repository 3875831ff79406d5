"""Reading arrays: the same float32 rows from any file, and a clear error for each that cannot be right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivfast.data.cleaning import scan
from ivfast.data.space import Space
from ivfast.data.vectors import (
    Points,
    Vectors,
    learn_path,
    measure_space,
    moments,
    open_evaluation_set,
    open_vectors,
    rows_per_block,
)
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent

few = settings(derandomize=True, deadline=None, max_examples=40)


def half_exact(rng: np.random.Generator, n: int = 50, dim: int = 6) -> np.ndarray:
    """Rows that float16 holds exactly."""
    return rng.integers(-512, 512, (n, dim)) / 256


FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float16": lambda rows: rows.astype(np.float16),
    "float64": lambda rows: rows.astype(np.float64),
    "big-endian": lambda rows: rows.astype(">f4"),
    "big-endian float64": lambda rows: rows.astype(">f8"),
    "Fortran order": lambda rows: np.asfortranarray(rows.astype(np.float32)),
    "float16, Fortran order": lambda rows: np.asfortranarray(rows.astype(np.float16)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_every_form_of_file_reads_as_the_same_rows(form, metric: str, tmp_path: Path, rng: np.random.Generator):
    rows = half_exact(rng)
    np.save(tmp_path / "plain.npy", rows.astype(np.float32))
    np.save(tmp_path / "other.npy", form(rows))
    plain, other = (open_vectors(tmp_path / f"{name}.npy", "learn", 6) for name in ("plain", "other"))
    spaces = [measure_space(vectors, metric) for vectors in (plain, other)]
    assert spaces[0].mean.tobytes() == spaces[1].mean.tobytes()
    assert spaces[0].scale == spaces[1].scale
    scan(other, "L2", silent())
    for index in (slice(None), slice(7, 20), np.array([3, 3, 49, 0])):
        one, two = (Points(vectors, spaces[0]).x(index) for vectors in (plain, other))
        assert two.dtype == np.float32
        assert two.flags["C_CONTIGUOUS"]
        assert one.tobytes() == two.tobytes()


def test_inside_is_centered_and_of_unit_size_under_l2(rng: np.random.Generator, as_vectors: Callable):
    rows = rng.normal(50, 7, (400, 5)) * [1, 2, 3, 4, 5]
    vectors = as_vectors(rows.astype(np.float32))
    space = measure_space(vectors, "L2")
    x = Points(vectors, space).x(slice(None)).astype(np.float64)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)  # float32 mean of entries about 250
    assert np.sqrt(np.square(x).mean()) == pytest.approx(1, rel=1e-5)
    expected = (rows - rows.mean(axis=0)) / np.sqrt(np.square(rows - rows.mean(axis=0)).mean())
    np.testing.assert_allclose(x, expected, atol=1e-4)


def test_moments_do_not_depend_on_blocks(rng: np.random.Generator, as_vectors: Callable):
    rows = rng.normal(1000, 1, (300, 4)).astype(np.float32)
    mean, scale = moments(as_vectors(rows).raw, 300, 4, block_bytes=16 * 7)  # 7 rows a block, the last of 6
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-7)
    assert scale == pytest.approx(np.sqrt(np.square(wide - wide.mean(axis=0)).mean()), rel=1e-6)


def test_moments_are_summed_in_float64(as_vectors: Callable):
    """A float32 sum of 400,000 entries of about 1000 is off by a hundred-thousandth of itself."""
    rows = np.random.default_rng(1).normal(1000, 1, (400_000, 2)).astype(np.float32)
    mean, scale = moments(as_vectors(rows).raw, *rows.shape)
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-7)
    assert scale == pytest.approx(np.sqrt(np.square(wide - wide.mean(axis=0)).mean()), rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(-1000, 1000), st.floats(0.01, 100))
@few
def test_outside_undoes_inside_under_l2(as_vectors: Callable, seed: int, middle: float, size: float):
    rows = np.random.default_rng(seed).normal(middle, size, (20, 4)).astype(np.float32)
    space = measure_space(as_vectors(rows), "L2")
    back = space.outside(space.inside(rows))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, rows, rtol=1e-6, atol=1e-6 * (abs(middle) + size))


@given(st.integers(0, 2**32 - 1), st.sampled_from([-30, -3, 1, 10, 30]))
@few
def test_unit_of_the_file_never_changes_a_bit_inside(as_vectors: Callable, seed: int, power: int):
    rows = np.random.default_rng(seed).normal(5, 2, (30, 4)).astype(np.float32)
    scaled = rows * np.float32(2.0**power)
    one, two = (Points(v, measure_space(v, "L2")).x(slice(None)) for v in map(as_vectors, (rows, scaled)))
    assert one.tobytes() == two.tobytes()


def test_rows_near_unit_norm_are_renormalised_under_ip(rng: np.random.Generator):
    unit = rng.standard_normal((100, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    norms = np.r_[np.linspace(0.9992, 1.0008, 98), 0.99, 1.01]
    space = Space("IP", np.zeros(8, np.float32), np.float32(1))
    rows = (unit * norms[:, None]).astype(np.float32)
    x = space.inside(rows)
    np.testing.assert_allclose(np.linalg.norm(x[:98].astype(np.float64), axis=1), 1, atol=3e-7)  # float32
    np.testing.assert_allclose(x[:98], unit[:98], atol=3e-7)
    np.testing.assert_array_equal(x[98:], rows[98:])  # the further away are not touched
    np.testing.assert_array_equal(space.outside(x), x)


def test_inside_leaves_the_rows_alone(rng: np.random.Generator):
    for metric in ("IP", "L2"):
        rows = rng.standard_normal((5, 3)).astype(np.float32)
        before = rows.copy()
        Space(metric, np.ones(3, np.float32), np.float32(2)).inside(rows)
        np.testing.assert_array_equal(rows, before)


def test_zero_row_under_ip_stays_zero():
    x = Space("IP", np.zeros(3, np.float32), np.float32(1)).inside(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(x, 0)


def test_digest_tells_any_changed_byte_shape_and_type(rng: np.random.Generator, as_vectors: Callable):
    rows = half_exact(rng).astype(np.float32)
    changed = rows.copy()
    changed[-1, -1] += 1
    variants = [rows, changed, rows.reshape(30, 10), rows.astype(np.float16), rows.astype(">f4"), rows[::-1]]
    digests = [scan(as_vectors(one), "L2", silent()).digest for one in variants]
    assert len(set(digests)) == len(variants)
    assert scan(as_vectors(rows), "L2", silent(), block_bytes=100).digest == digests[0]
    assert scan(as_vectors(np.asfortranarray(rows)), "L2", silent()).digest == digests[0]


def test_block_holds_at_least_one_row():
    assert rows_per_block(1 << 30) == 1
    assert rows_per_block(256) * 256 * 4 == 64 << 20
    assert [rows_per_block(4, n) for n in (1, 16, 47, 48)] == [1, 1, 2, 3]


def refused(pattern: str, call: Callable, *arguments: object, **sizes: int) -> None:
    with pytest.raises(UserError, match=pattern):
        call(*arguments, **sizes)


@pytest.mark.parametrize(("array", "reason"), [
    (np.ones(8, np.float32), r"shape \(8,\)"),
    (np.ones((2, 3, 4), np.float32), r"shape \(2, 3, 4\)"),
    (np.ones((0, 8), np.float32), ""),
    (np.ones((8, 0), np.float32), ""),
    (np.ones((8, 4), np.int32), "holds int32, expected float32"),
    (np.ones((8, 4), np.bool_), "holds bool"),
    (np.ones((8, 4), np.complex64), "holds complex64"),
    (np.ones((8, 5), np.float32), "5 columns, expected 4"),
    (np.array([[{}]], dtype=object), "holds Python objects"),
])  # fmt: skip
def test_wrong_array_is_refused_by_name(array: np.ndarray, reason: str, tmp_path: Path):
    path = tmp_path / "odd.npy"
    np.save(path, array, allow_pickle=True)
    refused(rf"^learn: .*odd\.npy.*{reason}", open_vectors, path, "learn", 4)


@pytest.mark.parametrize("content", [b"", b"x" * 300, b"\x93NUMPY\x01\x00"])
def test_file_that_is_no_array_is_refused_by_name(content: bytes, tmp_path: Path):
    (tmp_path / "odd.npy").write_bytes(content)
    refused(r"^base: .*odd\.npy is no readable", open_vectors, tmp_path / "odd.npy", "base", None)


def test_cut_file_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "cut.npy"
    np.save(path, np.ones((100, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-64])
    refused(r"^base: .*cut\.npy is truncated", open_vectors, path, "base", None)


def test_missing_file_is_refused_with_what_is_there(tmp_path: Path):
    np.save(tmp_path / "learn10m.npy", np.ones((2, 2), np.float32))
    refused(r"learn\.npy is missing; .*learn10m\.npy", open_vectors, tmp_path / "learn.npy", "learn", None)
    refused("does not exist", open_vectors, tmp_path / "away" / "learn.npy", "learn", None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_rows_that_are_not_finite_are_refused_by_number(bad: float, metric: str, as_vectors: Callable):
    rows = np.zeros((50, 4), np.float32)
    rows[:, 0] = 1
    rows[37, 2] = bad
    told = r"learn\.npy row 37 holds NaN"
    refused(told, scan, as_vectors(rows), metric, silent(), block_bytes=160)  # 10 rows a block


def test_float64_beyond_float32_is_refused(as_vectors: Callable):
    refused("learn.npy row 1 holds .* beyond float32", scan, as_vectors(np.array([[1.0], [1e39]])), "L2", silent())


@pytest.mark.parametrize("norm", [0.0, 0.99, 1.002, 3.0])
def test_rows_without_unit_norm_are_refused_under_ip(norm: float, as_vectors: Callable):
    rows = np.zeros((50, 4), np.float32)
    rows[:, 1] = 1
    rows[33, 1] = norm
    told = "is zero.*drop_bad_rows" if norm == 0 else "has norm .*normalize_L2"
    refused(rf"learn\.npy row 33 {told}", scan, as_vectors(rows), "IP", silent(), block_bytes=160)
    assert scan(as_vectors(rows), "L2", silent()).digest


def test_rows_within_a_thousandth_of_unit_norm_pass(as_vectors: Callable):
    rows = np.array([[1.0009, 0], [0, 0.9991]], np.float16)
    assert scan(as_vectors(rows), "IP", silent()).digest


def test_equal_rows_are_refused_under_l2(as_vectors: Callable):
    refused(r"learn\.npy are equal", measure_space, as_vectors(np.full((9, 3), 2.5, np.float32)), "L2")


def test_documented_layout_opens(tiny_set):
    found = open_evaluation_set(tiny_set.data_path, "tiny", 8)
    np.testing.assert_array_equal(found.base.rows, tiny_set.base)
    np.testing.assert_array_equal(found.query.rows, tiny_set.query)
    np.testing.assert_array_equal(found.gt, tiny_set.gt)
    assert len(open_vectors(learn_path(tiny_set.data_path, "learn"), "learn", 8)) == 200
    inner = open_vectors(learn_path(tiny_set.data_path, "tiny/base"), "learn", 8)
    np.testing.assert_array_equal(inner.rows, tiny_set.base)


@pytest.mark.parametrize(("name", "change", "reason"), [
    ("gt", lambda a: a.astype(np.float32), "holds float32, expected int64"),
    ("gt", lambda a: a[:-1], "59 rows, expected 60"),
    ("gt", lambda a: np.where(a == a.max(), 300, a), "300, expected offsets 0 to 299"),
    ("gt", lambda a: np.where(a == 0, -2, a), "holds -2, expected offsets"),
    ("gt", lambda a: np.full_like(a, -1), "names no right answer"),
    ("gt", lambda a: np.c_[np.full((60, 10), -1), a], "no right answer in its first 10"),
    ("gt", lambda a: a[:, 0], r"shape \(60,\)"),
    ("base", lambda a: a[:, :7], "7 columns, expected 8"),
    ("query", lambda a: a[:, :7], "7 columns, expected 8"),
])  # fmt: skip
def test_arrays_that_do_not_fit_each_other_are_refused_by_name(tiny_set, name: str, change, reason: str):
    path = tiny_set.data_path / "tiny" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    refused(rf"^{name}: .*{name}\.npy.*{reason}", open_evaluation_set, tiny_set.data_path, "tiny", 8)


@pytest.mark.parametrize("name", ["base", "query", "gt"])
def test_absent_part_of_a_set_is_refused_by_name(tiny_set, name: str):
    (tiny_set.data_path / "tiny" / f"{name}.npy").unlink()
    refused(rf"^{name}: .*{name}\.npy is missing", open_evaluation_set, tiny_set.data_path, "tiny", None)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.uint64, ">i8"])
def test_any_integer_gt_is_read(tiny_set, dtype: type):
    path = tiny_set.data_path / "tiny" / "gt.npy"
    np.save(path, tiny_set.gt.astype(dtype))
    np.testing.assert_array_equal(open_evaluation_set(tiny_set.data_path, "tiny", 8).gt, tiny_set.gt)


def test_query_must_have_the_columns_of_base_where_none_are_given(tiny_set):
    np.save(tiny_set.data_path / "tiny" / "query.npy", tiny_set.query[:, :5])
    refused(r"^query: .*query\.npy has 5 columns, expected 8", open_evaluation_set, tiny_set.data_path, "tiny", None)


def test_rows_are_mapped_not_read(tiny_set):
    vectors = open_vectors(tiny_set.data_path / "learn.npy", "learn", 8)
    assert isinstance(vectors, Vectors)
    assert isinstance(vectors.rows, np.memmap)
