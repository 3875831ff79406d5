"""A gt that is no right one is told by what it seems to be: refused where it can't be right, else warned of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ivfast.data.ground_truth import check_gt
from ivfast.data.intake import judge_gt
from ivfast.data.vectors import EvaluationSet, Vectors
from ivfast.runtime.errors import UserError
from tests.conftest import Notes

N_BASE, N_QUERY, WIDTH = 400, 50, 10


def nearest(query: np.ndarray, base: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """By brute force in float64: closeness and rows, nearest first."""
    x, y = query.astype(np.float64), base.astype(np.float64)
    if metric == "cosine":
        x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    close = -np.square(x[:, None] - y).sum(axis=2) if metric == "L2" else x @ y.T
    order = np.argsort(-close, axis=1, kind="stable")[:, :WIDTH]
    return np.take_along_axis(close, order, axis=1), order


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    """base and query whose norms differ, so that each metric has another nearest row."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((N_BASE + N_QUERY, 6)) * np.exp(rng.standard_normal((N_BASE + N_QUERY, 1)))
    return tuple(np.split((rows + 0.5).astype(np.float32), [N_BASE]))  # pyright: ignore[reportReturnType]


def refused(gt: np.ndarray, n_query: int = N_QUERY, n_base: int = N_BASE) -> str:
    with pytest.raises(UserError) as told:
        check_gt(gt, Path("gt.npy"), n_query, n_base)
    assert str(told.value).startswith("gt: gt.npy ")
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("type", [np.float32, np.float64])
def test_floats_are_told_apart(type, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    base, query = vectors
    close, gt = nearest(query, base, "L2")
    assert "look like distances" in refused((-close).astype(type))
    assert "look like distances" in refused(close.astype(type))
    assert "look like distances" in refused(nearest(query, base, "cosine")[0].astype(type))
    whole = np.round(-close * 1000).astype(type)  # of integer vectors
    assert "look like distances" in refused(whole)
    assert "save it with .astype('int64')" in refused(gt.astype(type))
    assert "save it with .astype('int64')" in refused(np.sort(gt, axis=1).astype(type))  # answers by identity
    assert "save it with .astype('int64')" in refused(np.where(gt > 300, -1, gt).astype(type))
    assert "put -1 where there is NaN" in refused(np.where(gt > 300, np.nan, gt).astype(type))


@pytest.mark.filterwarnings("error")
def test_infinity_for_none_is_told_without_a_warning(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    gt = nearest(vectors[1], vectors[0], "L2")[1].astype(np.float64)
    gt[:, 7:] = np.inf
    assert "put -1 where there is infinity, then save it with" in refused(gt)
    assert "put -1 where there is infinity, then save it with" in refused(np.sort(gt, axis=1))  # by identity
    gt[0, 6] = np.nan
    assert "put -1 where there is NaN or infinity, then" in refused(gt)
    distances = np.arange(N_QUERY * WIDTH).reshape(N_QUERY, WIDTH) + 0.5
    distances[:, 8:] = np.inf
    assert "look like distances" in refused(distances)


@pytest.mark.parametrize("type", [np.int32, np.int64, np.uint64, ">i4"])
def test_bytes_in_the_other_order_are_told_and_the_advice_is_right(type, vectors: tuple[np.ndarray, np.ndarray]):
    gt = nearest(vectors[1], vectors[0], "L2")[1].astype(type)
    assert "its bytes are in the other order (endianness): save gt.byteswap()" in refused(gt.byteswap())
    assert (gt.byteswap().byteswap() == gt).all()


def test_floats_that_round_row_numbers_are_no_answers() -> None:
    gt = np.random.default_rng(1).integers(2**24, 2**25, (N_QUERY, WIDTH))
    assert "float32 rounds whole numbers" in refused(gt.astype(np.float32), n_base=2**26)
    assert "save it with .astype('int64')" in refused(gt.astype(np.float64), n_base=2**26)


@pytest.mark.parametrize("gt", [np.ones((N_QUERY, 2), bool), np.ones((N_QUERY, 2), np.complex64)])
def test_other_types_ask_for_row_numbers(gt: np.ndarray) -> None:
    assert "gt holds row numbers of base.npy: regenerate it" in refused(gt)


def test_other_numbers_of_rows_are_told(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    gt = nearest(vectors[1], vectors[0], "L2")[1]
    assert "it is transposed: save gt.T" in refused(gt.T)
    assert "base and query may be swapped" in refused(np.tile(gt, (8, 1)))
    assert f"save gt.reshape({N_QUERY}, -1)" in refused(gt.reshape(1, -1))
    assert "regenerate it for query.npy" in refused(gt[1:])


MARKS = [
    (np.uint32, 2**32 - 1),
    (np.int32, 2**31 - 1),
    (np.int64, 2**32 - 1),
    (np.int64, -(2**31)),
    (np.int64, 2**63 - 1),
    (np.uint64, 2**64 - 1),
]


@pytest.mark.parametrize(("type", "mark"), MARKS)
def test_another_sign_for_none_is_told_and_the_advice_is_right(type, mark: int) -> None:
    gt = np.random.default_rng(1).permuted(np.tile(np.arange(N_BASE), (N_QUERY, 1)), axis=1)[:, :WIDTH].astype(type)
    gt[3:9, 4:] = mark
    text = refused(gt)
    assert f"{mark} is how other tools write that there is no answer" in text
    names = {"gt": gt}
    exec(text[text.index("gt = gt.astype") :], names)  # noqa: S102
    check_gt(names["gt"], Path("gt.npy"), N_QUERY, N_BASE)
    assert (names["gt"][3:9, 4:] == -1).all()
    assert (names["gt"] >= 0).sum() == gt.size - 6 * 6


def test_the_size_of_base_as_a_sign_for_none_is_no_counting_from_1() -> None:
    gt = np.random.default_rng(1).permuted(np.tile(np.arange(1, N_BASE), (N_QUERY, 1)), axis=1)[:, :WIDTH]
    gt[3:9, 4:] = N_BASE
    assert f"gt[gt == {N_BASE}] = -1" in refused(gt)
    gt[3:9, 5:] = gt[9:15, 5:]  # once in a row it may be an answer
    assert "counted from 1" in refused(gt)


def test_entries_beyond_base_are_told(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    gt = nearest(vectors[1], vectors[0], "L2")[1]
    gt[0, :2] = 0, N_BASE - 1
    gt[0, 2:] = np.arange(1, WIDTH - 1)
    assert "counted from 1: save gt - 1" in refused(gt + 1)
    assert "is of a base of 400 rows or more" in refused(gt, n_base=390)
    assert "is it the file of the queries?" in refused(gt, n_base=N_QUERY)
    assert "or its numbers are ids of another kind" in refused(gt * 1000)
    assert "-1 stands for none; regenerate it" in refused(np.where(gt == 5, -7, gt))
    whole = np.round(-nearest(vectors[1], vectors[0], "L2")[0] * 1000).astype(np.int64)
    assert "look like distances" in refused(whole)


def judged(
    base: np.ndarray, query: np.ndarray, gt: np.ndarray, metric: str, *, normalize: bool = False, most: int = N_BASE
) -> str:
    """The one line of judge_gt."""
    rows = {
        name: Vectors(name, Path(name), array, normalize=normalize)
        for name, array in (("base", base), ("query", query))
    }
    notes = Notes()
    judge_gt(EvaluationSet("set", Path("gt.npy"), rows["base"], rows["query"], gt), metric, notes, most)
    assert all("\n" not in line for line in notes.told)
    return "; ".join(notes.told)


OWN = {"L2": ("L2", False), "cosine": ("IP", True)}
FITS = {
    "L2": "it fits --metric L2: run with it",
    "cosine": r"it fits --metric IP with --normalize True (cosine): run with these",
    "IP": "it fits inner products of vectors that are not of unit norm",
}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("made_by", FITS)
def test_a_gt_of_another_metric_or_counted_from_1_is_told(
    own: str, made_by: str, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    base, query = vectors
    metric, normalize = OWN[own]
    gt = nearest(query, base, made_by)[1]
    told, from_1 = (judged(base, query, found, metric, normalize=normalize) for found in (gt, np.minimum(gt + 1, 399)))
    assert from_1.startswith("warning: gt: its first answer is the exact nearest for ")
    assert "counted from 1: save gt - 1" in from_1
    if own == made_by:
        assert told == "gt: its first answer is the exact nearest for 50 of 50 queries searched for"
    else:
        assert FITS[made_by] in told
        assert "counted from 1" not in told
        assert FITS[made_by] in from_1


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_another_order_of_answers_is_told(metric: str, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    base, query = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in vectors)
    gt = nearest(query, base, metric)[1]
    backwards = gt[:, ::-1].copy()
    assert "listed farthest first: save gt[:, ::-1]" in judged(base, query, backwards, metric)
    short = np.where(
        np.arange(WIDTH) < 7, gt[:, 6::-1][:, np.minimum(np.arange(WIDTH), 6)], -1
    )  # -1 where they run out
    assert "listed farthest first" in judged(base, query, short, metric)
    own = nearest(base[:N_QUERY], base, metric)[1][:, 1:]
    assert "leaves out each one's own" in judged(base, base[:N_QUERY], own, metric)
    if metric == "IP":
        farthest = nearest(-query, base, "IP")[1]
        assert "names the farthest rows" in judged(base, query, farthest, metric)


def test_answers_in_any_order_are_not_called_stale(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    base, query = vectors
    gt = np.random.default_rng(1).permuted(nearest(query, base, "L2")[1][:, :10], axis=1)
    assert "whose order recall does not look at" in judged(base, query, gt, "L2")


def test_a_gt_that_fits_nothing_is_called_stale_as_before(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    base, query = vectors
    gt = np.roll(nearest(query, base, "L2")[1], 1, axis=0)
    assert "legal where answers go by identity, else gt is stale" in judged(base, query, gt, "L2")


def test_counting_from_1_shows_in_a_base_that_is_not_searched(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    base, query = vectors
    gt = nearest(query, base, "L2")[1]
    told = judged(base, query, np.minimum(gt + 1, 399), "L2", most=N_BASE - 1)
    assert told.startswith("warning: gt: its numbers seem to be counted from 1: save gt - 1; gt: not held against")
    assert judged(base, query, gt, "L2", most=N_BASE - 1).startswith("gt: not held against")
    stale = np.roll(gt, 1, axis=0)
    assert judged(base, query, stale, "L2", most=N_BASE - 1).startswith("gt: not held against")


def test_rows_that_do_not_count_are_left_out_of_what_fits(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    base, query = vectors
    kept = np.arange(0, N_BASE, 2)
    gt = nearest(query, base[kept], "cosine")[1]
    rows = Vectors("base", Path("base"), base)
    data = EvaluationSet("set", Path("gt.npy"), rows.only(kept), Vectors("query", Path("query"), query), gt)
    notes = Notes()
    judge_gt(data, "L2", notes)
    assert FITS["cosine"] in notes.told[0]
    judge_gt(data._replace(base=replace(rows, rows_kept=kept, normalize=True)), "IP", Notes())
