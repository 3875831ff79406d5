"""Vectors as people have them: not of unit norm, with zeros, NaN and duplicates. The flags make them as if cleaned."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from ivfast.data.cleaning import AS_STORED, Cleaning, scan
from ivfast.data.ground_truth import follow_kept
from ivfast.data.intake import check_distinct, judge_gt, scan_set
from ivfast.data.synthetic import save_set
from ivfast.data.unfinished import zeros_from
from ivfast.data.vectors import Points, Vectors, moments, open_evaluation_set, open_vectors, unit_rows
from ivfast.demo import make_patches
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from run_dcnet import main
from tests.conftest import Notes, plain_space, points_of

DROP, NORMALIZE = Cleaning(drop=True), Cleaning(normalize=True)
IP = plain_space(8, "IP")
FLAGS = (
    "--data_name photos --learn_name learn_photos --nlist 16 --param_list 64 16 --niter 10 --epochs 2 --warmup 1 "
    "--lr 2e-3 --percents 0 0.8 --gpu -1"
)


def normalised(rows: np.ndarray) -> np.ndarray:
    """In float64, zeros as they are, saved as float32."""
    wide = rows.astype(np.float64)
    norms = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, ...]:
    """Patches of two photographs less their mean grey, in few steps of grey: flat sky is zero, much of it alike."""
    learn, base, query, _ = make_patches()
    learn, base, query = (np.round((p - p.mean(axis=1, keepdims=True)) / 4.2) for p in (learn, base, query))
    learn, base, query = learn[:15_000], base[:5_000], query[:400]
    gt = faiss.knn(normalised(query), normalised(base), 10, metric=faiss.METRIC_INNER_PRODUCT)[1]
    gt[:, 6] = np.flatnonzero(~base.any(axis=1))[: len(gt)]  # the same object's vectors, some of them black
    return learn.astype(np.float32), base.astype(np.float32), query.astype(np.float32), gt


def run(folder: Path, *more: str) -> dict[str, Any]:
    out = folder / "out"
    assert main(["--data_path", str(folder), "--save_path", str(out), *FLAGS.split(), *more]) == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    return {"centers": (out / "ivfast.npy").read_bytes(), "results": evaluation["results"], "data": evaluation}


@pytest.mark.parametrize("n", [1, 2, 4096, 9000, 10_000])
def test_the_row_from_which_all_are_zero_is_found_from_the_end(n: int) -> None:
    rows = np.random.default_rng(1).standard_normal((10_000, 3)).astype(np.float16)
    rows[5:9] = 0
    rows[10_000 - n :] = -0.0
    assert zeros_from(rows) == (None if n == 1 else 10_000 - n)
    rows[-1, 2] = np.nan
    assert zeros_from(rows) is None


def test_zeros_at_the_end_are_warned_of_where_they_are_legal(tmp_path: Path) -> None:
    rows = np.ones((20, 8), np.float32) / np.sqrt(np.float32(8))
    rows[12:] = 0
    np.save(tmp_path / "base.npy", rows)
    vectors = open_vectors(tmp_path / "base.npy", "base", 8)
    warned = f"warning: base: {tmp_path / 'base.npy'}: all rows from row 12 on (8 of 20) are zero, as in a file whose"
    for metric, cleaning in (("L2", AS_STORED), ("L2", DROP), ("IP", DROP)):
        notes = Notes()
        scan(vectors, metric, notes, cleaning)
        assert [note for note in notes.told if note.startswith(warned)], (metric, notes.told)
    rows[12:] = rows[0]
    np.save(tmp_path / "base.npy", rows)
    notes = Notes()
    scan(open_vectors(tmp_path / "base.npy", "base", 8), "L2", notes)
    assert not notes.told


@pytest.mark.whole_run
def test_dirty_photographs_run_as_if_cleaned_by_hand(
    photos: tuple[np.ndarray, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn, base, query, gt = photos
    zero = [np.square(rows).sum(axis=1) == 0 for rows in (learn, base, query)]
    assert 0.17 < np.mean(zero[0]) < 0.19
    unit = normalised(learn)
    assert len(unit) - len(np.unique(unit, axis=0)) > 2000  # duplicates, most of them zeros
    save_set(tmp_path / "dirty", "photos", *photos)
    dirty = run(tmp_path / "dirty", "--normalize", "True", "--drop_bad_rows", "True")
    told = capsys.readouterr().err
    for name, rows, bad in zip(("learn", "base", "query"), (learn, base, query), zero, strict=True):
        assert f"{name}: {bad.sum():,} of {len(rows):,} rows dropped ({bad.sum():,} zero, 0 not finite)" in told
    asked = gt[~zero[2]]
    assert f"gt: {zero[2].sum():,} of 400 rows dropped with their queries; " in told
    assert f"{zero[1][asked].sum():,} answers named dropped rows of base and are now -1" in told
    place = np.where(zero[1], -1, np.cumsum(~zero[1]) - 1)
    clean = [normalised(rows[~bad]) for rows, bad in zip((learn, base, query), zero, strict=True)]
    save_set(tmp_path / "clean", "photos", clean[0], clean[1], clean[2], place[asked])
    by_hand = run(tmp_path / "clean")
    assert dirty["centers"] == by_hand["centers"]
    assert dirty["results"] == by_hand["results"]
    assert dirty["data"]["data"]["base"]["shape"] == [int((~zero[1]).sum()), 64]
    assert dirty["data"]["data"]["base"]["hash"] != by_hand["data"]["data"]["base"]["hash"]


def test_dirty_photographs_are_refused_without_the_flags(
    photos: tuple[np.ndarray, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_set(tmp_path, "photos", *photos)
    flags = ["--data_path", str(tmp_path), "--save_path", str(tmp_path / "out"), *FLAGS.split()]
    assert main(flags) == 2
    assert "are zero" in capsys.readouterr().err
    assert main([*flags, "--drop_bad_rows", "True"]) == 2
    assert "--normalize True" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_normalize_is_float64_division_to_the_bit(dtype: str, order, rng: np.random.Generator, tmp_path: Path) -> None:
    rows = (rng.normal(3, 2, (101, 8)) * 7).astype(dtype)
    np.save(tmp_path / "rows.npy", np.asarray(rows, order=order))
    np.save(tmp_path / "unit.npy", normalised(rows))
    block_bytes = 320  # 10 rows a block
    found = scan(open_vectors(tmp_path / "rows.npy", "learn", 8), "IP", silent(), NORMALIZE, block_bytes=block_bytes)
    expected = scan(open_vectors(tmp_path / "unit.npy", "learn", 8), "IP", silent(), block_bytes=block_bytes)
    assert unit_rows(rows, block_bytes).tobytes() == normalised(rows).tobytes()
    for index in (slice(None), slice(95, 300), np.array([100, 0, 3])):
        assert found.raw(index).tobytes() == expected.raw(index).tobytes()
        assert Points(found, IP).x(index).tobytes() == Points(expected, IP).x(index).tobytes()
    for size in (block_bytes, 64 << 20):
        one, two = (moments(vectors.raw, 101, 8, size) for vectors in (found, expected))
        assert (one[0].tobytes(), one[1]) == (two[0].tobytes(), two[1])


def test_normalize_neither_overflows_nor_vanishes() -> None:
    rows = np.array([[3e300, 4e300], [3e-320, 4e-320], [3.0, 4.0], [0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
    unit = unit_rows(rows)
    np.testing.assert_allclose(unit[:3], [[0.6, 0.8]] * 3, rtol=1e-3)  # 3e-320 has 13 bits
    np.testing.assert_array_equal(unit[3], 0)
    assert np.isnan(unit[4:]).any(axis=1).all()


def test_zero_rows_are_refused_under_normalize_and_named_as_in_the_file(as_vectors: Callable) -> None:
    rows = np.ones((20, 8), np.float32)
    rows[[4, 9]] = 0
    rows[15] = np.inf
    with pytest.raises(UserError, match="row 15 holds NaN"):
        scan(as_vectors(rows), "IP", silent(), NORMALIZE)
    with pytest.raises(UserError, match="rows 4, 9 are zero"):
        scan(as_vectors(np.delete(rows, 15, axis=0)), "IP", silent(), NORMALIZE)
    rows = normalised(np.nan_to_num(rows))
    rows[17] *= 3
    with pytest.raises(UserError, match="row 17 has norm 3,"):  # dropped rows do not shift the count
        scan(as_vectors(rows), "IP", silent(), DROP)


@pytest.mark.parametrize(("metric", "kept"), [("IP", [0, 3, 4, 7, 8, 9]), ("L2", [0, 1, 3, 4, 6, 7, 8, 9])])
def test_drop_leaves_out_what_is_not_finite_and_zeros_under_ip_alone(
    metric: str, kept: list[int], rng: np.random.Generator, as_vectors: Callable
) -> None:
    rows = normalised(rng.standard_normal((10, 8)))
    rows[[1, 6]] = 0
    rows[2, 3], rows[5, 0] = np.nan, -np.inf
    rows[8] = rows[7]  # duplicates stay
    found = scan(as_vectors(rows), metric, silent(), DROP)
    assert len(found) == len(kept)
    np.testing.assert_array_equal(found.raw(slice(None)), rows[kept])
    np.testing.assert_array_equal(found.raw(np.array([2, 0])), rows[[kept[2], kept[0]]])
    np.testing.assert_array_equal(found.only(np.array([1, 3])).raw(slice(None)), rows[[kept[1], kept[3]]])
    with pytest.raises(UserError, match=r"no row of .* can be used"):
        scan(as_vectors(rows[[2, 5]]), metric, silent(), DROP)


def test_digest_differs_where_a_flag_changes_the_data_and_only_there(
    rng: np.random.Generator, as_vectors: Callable
) -> None:
    rows = normalised(rng.standard_normal((10, 8)))
    dirty = np.r_[rows, np.full((1, 8), np.nan, np.float32)]
    plain, normal, dropped = (scan(as_vectors(rows), "IP", silent(), c).digest for c in (AS_STORED, NORMALIZE, DROP))
    assert plain == dropped
    assert len({plain, normal, scan(as_vectors(dirty), "IP", silent(), DROP).digest}) == 3


def test_gt_follows_what_is_kept() -> None:
    gt = np.array([[4, 0, -1], [2, 1, 3], [3, 4, 0]], dtype=np.int32)
    kept_base, kept_query = np.array([0, 3, 4]), np.array([0, 2])
    np.testing.assert_array_equal(follow_kept(gt, 5, kept_base, kept_query), [[2, 0, -1], [1, 2, 0]])
    np.testing.assert_array_equal(follow_kept(gt, 5, kept_base, None), [[2, 0, -1], [-1, -1, 1], [1, 2, 0]])
    np.testing.assert_array_equal(follow_kept(gt, 5, None, kept_query), gt[kept_query])


def test_gt_without_an_answer_among_kept_rows_is_refused(tiny_set) -> None:
    folder = tiny_set.data_path / "tiny"
    base = tiny_set.base.copy()
    base[5] = 0
    np.save(folder / "base.npy", base)
    np.save(folder / "gt.npy", np.full((60, 1), 5))
    opened = open_evaluation_set(tiny_set.data_path, "tiny", 8)
    with pytest.raises(UserError, match=r"gt\.npy names no right answer among the rows .* kept"):
        scan_set(opened, "IP", silent(), DROP)


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_share_of_exact_first_answers_is_counted(metric: str, tiny_set) -> None:
    """60 queries; 12 of them, then 40, are told a wrong first answer; base holds each vector twice (ties)."""
    opened = open_evaluation_set(tiny_set.data_path, "tiny", 8)
    doubled = replace(opened.base, rows=np.r_[tiny_set.base, tiny_set.base])
    for n_wrong in (0, 12, 40):
        gt = tiny_set.gt.copy()
        gt[::2, 0] += 300  # the other copy is as near
        gt[:n_wrong, 0] = tiny_set.gt[:n_wrong, 11]
        notes = Notes()
        judge_gt(opened._replace(gt=gt, base=doubled), metric, notes)
        assert len(notes.told) == 1
        assert f"exact nearest for {60 - n_wrong} of 60 queries" in notes.told[0]
        assert notes.told[0].startswith("warning: ") == (n_wrong == 40)


@pytest.mark.parametrize(("most", "told"), [(299, "not held against an exact search"), (300, "60 of 60 queries")])
def test_a_base_too_large_to_search_is_not_searched(most: int, told: str, tiny_set) -> None:
    notes = Notes()
    judge_gt(open_evaluation_set(tiny_set.data_path, "tiny", 8), "IP", notes, most_searched=most)
    assert len(notes.told) == 1
    assert told in notes.told[0]


def in_plain_space(vectors: Vectors) -> Points:
    return Points(vectors, plain_space(vectors.dim))


def test_distinct_vectors_are_counted_only_until_enough() -> None:
    class Watched(Vectors):
        def raw(self, index: np.ndarray | slice) -> np.ndarray:
            taken.append(index)
            return super().raw(index)

    taken: list[Any] = []
    rows = np.repeat(np.arange(50, dtype=np.float32), 4)[:, None]  # 4 copies of each
    block_bytes = 4 * 10  # 10 rows a block
    check_distinct(in_plain_space(Watched("learn", Path("learn.npy"), rows)), 5, block_bytes)
    assert len(taken) == 2
    check_distinct(in_plain_space(Watched("learn", Path("learn.npy"), rows)), 50, block_bytes)
    with pytest.raises(UserError, match="50 distinct vectors among 200, fewer than --nlist 51"):
        check_distinct(in_plain_space(Watched("learn", Path("learn.npy"), rows)), 51, block_bytes)
    signs = np.array([[0.0], [-0.0], [1.0]], np.float32)
    with pytest.raises(UserError, match="2 distinct"):
        check_distinct(points_of(signs), 3)


def test_moments_are_the_same_bits_in_fortran_order(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = rng.normal(5, 3, (3000, 40)).astype(np.float32)
    np.save(tmp_path / "c.npy", rows)
    np.save(tmp_path / "f.npy", np.asfortranarray(rows))
    one, two = (moments(open_vectors(tmp_path / f"{name}.npy", "learn", 40).raw, 3000, 40) for name in "cf")
    assert (one[0].tobytes(), one[1]) == (two[0].tobytes(), two[1])
