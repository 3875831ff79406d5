"""Far rows, far columns, large offsets, odd units: the other rows are searched as well as without them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pytest

from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.exact import nearest_of_stored, nearest_wide
from ivfast.data.far import note_other_unit, odd_forms, without_far
from ivfast.data.intake import check_distinct, judge_gt
from ivfast.data.middle import FAR, middle_of
from ivfast.data.space import LIMIT, Space
from ivfast.data.twins import distinct_rows
from ivfast.data.vectors import EvaluationSet, Points, Vectors, measure_space, space_of
from ivfast.front.aside import set_aside, write_run_files
from ivfast.front.fit import fit
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.start.kmeans import train_kmeans
from ivfast.train.baseline import as_stored
from run_dcnet import main
from tests.conftest import Notes

DIM, NLIST = 6, 8
FLAGS = (
    f"--data_name set --learn_name learn --metric L2 --nlist {NLIST} --param_list {DIM} {NLIST} --niter 10 --epochs 1 "
    "--warmup 0 --lr 2e-3 --percents 0 --gpu -1"
)


def vectors(rows: np.ndarray, name: str = "learn") -> Vectors:
    return Vectors(name, Path(f"{name}.npy"), rows)


def normal(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def put(rows: np.ndarray, at: int | list[int], value: float) -> np.ndarray:
    rows = rows.copy()
    rows[at] = value
    return rows


def exact(base: np.ndarray, query: np.ndarray, k: int = 10) -> np.ndarray:
    """Brute force in float64, less what all distances of a query have in common."""
    middle = np.median(base.astype(np.float64), axis=0)
    b, q = base.astype(np.float64) - middle, query.astype(np.float64) - middle
    return np.argsort(np.square(b).sum(axis=1) - 2 * q @ b.T, axis=1, kind="stable")[:, :k]


def plain_faiss(rows: np.ndarray, base: np.ndarray, query: np.ndarray) -> float:
    """Share of base that plain faiss.Kmeans on the rows scans at 90 % recall, counted in float64."""
    kmeans = faiss.Kmeans(DIM, NLIST, niter=10, seed=1, min_points_per_centroid=1)
    kmeans.train(rows.astype(np.float32))
    centers = np.asarray(kmeans.centroids, dtype=np.float64)
    d2 = [np.square(x[:, None] - centers[None]).sum(axis=2) for x in (base, query)]
    stored, order = d2[0].argmin(axis=1), d2[1].argsort(axis=1)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(NLIST)[None], axis=1)
    needed = np.take_along_axis(place, stored[exact(base, query)], axis=1)
    recall = [(needed < nprobe).mean() for nprobe in range(1, NLIST + 1)]
    scanned = np.cumsum(np.bincount(stored, minlength=NLIST)[order], axis=1).mean(axis=0) / len(base)
    return float(np.interp(0.9, recall, scanned))


# Space


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("offset", "size"), [(0, 1), (50, 0.3), (-3, 1e-3)])
def test_ordinary_rows_have_the_bits_of_the_plain_formula(dtype: type, offset: float, size: float) -> None:
    rows = (offset + size * normal(300).astype(np.float64)).astype(dtype)
    wide = rows.astype(np.float64)
    mean = (wide.sum(axis=0) / len(wide)).astype(np.float32)
    scale = np.float32(np.sqrt(float(np.square(wide - wide.sum(axis=0) / len(wide)).sum()) / wide.size))
    scanned = without_far(scan(vectors(rows), "L2", silent()))
    assert scanned.far is None
    space = measure_space(scanned, "L2")
    assert (space.mean.dtype, space.mean.tobytes(), space.scale) == (np.float32, mean.tobytes(), scale)
    x = Points(scanned, space).x(slice(None))
    assert x.tobytes() == ((rows.astype(np.float32) - mean) / scale).tobytes()


def test_rows_beyond_the_limit_are_moved_to_it_along_their_ray() -> None:
    space = Space("L2", np.full(DIM, 2, np.float32), np.float32(0.5))
    rows = normal(8).astype(np.float64) * np.array([1, 10, 1e3, 1.9e3, 1e4, 1e9, 1e25, 1e37])[:, None]
    rows[1, 2] = LIMIT * 0.6  # one entry beyond it, the row is not
    rows = rows.astype(np.float32)
    x = space.inside(rows)
    assert x[:3].tobytes() == ((rows[:3] - space.mean) / space.scale).tobytes()
    wide = (rows.astype(np.float64) - space.mean) / 0.5
    size = np.sqrt(np.square(wide).mean(axis=1))
    far = size > LIMIT
    assert far.tolist() == [False] * 4 + [True] * 4
    np.testing.assert_allclose(np.sqrt(np.square(x[far].astype(np.float64)).mean(axis=1)), LIMIT, rtol=1e-6)
    along = (x * wide).sum(axis=1) / np.linalg.norm(x.astype(np.float64), axis=1) / np.linalg.norm(wide, axis=1)
    np.testing.assert_allclose(along, 1, atol=1e-6)


@pytest.mark.parametrize("size", [3.4e38, -3.4e38])
def test_the_largest_float32_is_inside_without_a_warning(size: float) -> None:
    rows = put(normal(40), 3, size)
    x = space_of(rows[:3], "L2").inside(rows)
    assert np.isfinite(np.square(x).sum(axis=1)).all()


def test_an_offset_costs_float64_rows_no_digits() -> None:
    small = normal(400).astype(np.float64) * 100
    rows = small + 1e9
    space = measure_space(vectors(rows), "L2")
    assert space.mean.dtype == np.float64
    expected = (small - small.mean(axis=0)) / np.sqrt(np.square(small - small.mean(axis=0)).mean())
    np.testing.assert_allclose(space.inside(rows), expected, atol=1e-6)
    # what is stored as float32 is off by less than a step of float32
    off = np.abs(space.inside(space.outside(space.inside(rows))) - expected).max()
    assert off <= 1.01 * np.spacing(np.float32(1e9)) / 100


def test_a_constant_column_far_from_zero_is_no_loss() -> None:
    rows = np.c_[normal(300).astype(np.float64), np.full(300, 1.7e9 + 1)]
    space = measure_space(vectors(rows), "L2")
    for stored in (rows, rows.astype(np.float32)):
        assert np.abs(space.inside(stored)[:, -1]).max() == 0


@pytest.mark.parametrize(("rows", "told"), [
    (normal(200).astype(np.float64) + 1e9, "while float32, as centers are stored, rounds them by 64; .*subtract"),
    (normal(200).astype(np.float64) * 1e-60, "rows that differ by 1e-60, expected 1e-37 or more.*multiply"),
])  # fmt: skip
def test_float64_rows_that_centers_cannot_tell_apart_are_refused(rows: np.ndarray, told: str) -> None:
    with pytest.raises(UserError, match=rf"^learn: learn\.npy has .*{told}"):
        measure_space(vectors(rows), "L2")


def test_float64_beyond_float32_says_to_rescale() -> None:
    with pytest.raises(UserError, match=r"row 1 holds a value beyond float32, expected at most 3.4e38; multiply"):
        scan(vectors(np.array([[1.0], [1e60]])), "L2", silent())
    with pytest.raises(UserError, match=r"row 1 holds NaN or infinity"):
        scan(vectors(np.array([[1.0], [np.inf]])), "L2", silent())


def test_rows_are_told_apart_where_they_are_used() -> None:
    """Rows of float64 that float32 would make one, and float32 rows beside a far one."""
    rows = np.repeat(np.arange(30.0), 2)[:, None] * np.ones(3) + 3e7  # float32 has every other number there
    check_distinct(Points(vectors(rows), measure_space(vectors(rows), "L2")), 30)
    with pytest.raises(UserError, match="30 distinct vectors among 60, fewer than --nlist 31"):
        check_distinct(Points(vectors(rows), measure_space(vectors(rows), "L2")), 31)


def test_a_far_center_does_not_decide_the_space_of_centers() -> None:
    """--eval without learn: of plain FAISS' centers one may be a far row."""
    centers = normal(20)
    space = space_of(np.concatenate([centers, np.full((1, DIM), 1e12, np.float32)]), "L2")
    expected = space_of(centers, "L2")
    assert space.mean.tobytes() == expected.mean.tobytes()
    assert space.scale == expected.scale


# the middle, and who lies far from it


@pytest.mark.parametrize("n_far", [1, 5, 29])
@pytest.mark.parametrize("size", [1e4, 1e12, 1e37])
def test_far_rows_are_found_named_and_left_out(n_far: int, size: float) -> None:
    rows = normal(300)
    at = np.sort(np.random.default_rng(2).choice(300, n_far, replace=False))
    rows[at] *= np.float32(size)
    notes = Notes()
    scanned = scan(vectors(rows), "L2", notes, block_bytes=4 * DIM * 7)
    assert scanned.far is not None
    np.testing.assert_array_equal(scanned.far, at)
    assert len(notes.told) == 1
    assert notes.told[0].startswith(f"learn: row{'' if n_far == 1 else 's'} {at[0]}")
    assert "do not train" in notes.told[0]
    left = without_far(scanned)
    np.testing.assert_array_equal(left.raw(slice(None)), np.delete(rows, at, axis=0))
    assert left.digest != scanned.digest
    expected, space = measure_space(vectors(np.delete(rows, at, axis=0)), "L2"), measure_space(left, "L2")
    assert (space.mean.tobytes(), space.scale) == (expected.mean.tobytes(), expected.scale)


def test_rows_dropped_before_are_not_counted_anew() -> None:
    rows = put(put(normal(60), 10, np.nan), 20, 1e9)
    scanned = scan(vectors(rows), "L2", silent(), Cleaning(drop=True))
    np.testing.assert_array_equal(without_far(scanned).raw(slice(None)), np.delete(rows, [10, 20], axis=0))


@pytest.mark.parametrize("share", [0.6, 0.95])
def test_where_most_rows_are_equal_the_others_tell_what_is_usual(share: float) -> None:
    rows = normal(1000)
    rows[: round(1000 * share)] = 3
    assert scan(vectors(rows), "L2", silent()).far is None
    scanned = scan(vectors(put(rows, 997, 1e9)), "L2", silent())
    assert scanned.far is not None
    assert scanned.far.tolist() == [997]
    assert middle_of(np.ones((9, 2))).times(np.ones((3, 2))).tolist() == [0, 0, 0]


def test_distances_are_from_the_median_over_those_of_nine_in_ten() -> None:
    rows = normal(500).astype(np.float64) * 1e200  # whose squares no float64 holds
    middle = middle_of(put(rows, 4, np.inf))
    kept = np.delete(rows, 4, axis=0) / 1e200
    distances = np.linalg.norm(kept - np.median(kept, axis=0), axis=1)
    np.testing.assert_allclose(middle.times(kept * 1e200), distances / np.quantile(distances, 0.9), rtol=1e-12)
    # who is not far is not moved: a tenth lie at the quantile or beyond, mean and median a root mean square apart
    assert FAR * np.sqrt(20) < LIMIT


def test_distances_beyond_float64_tell_a_middle() -> None:
    middle = middle_of(np.where(np.arange(40) < 20, -1e308, 1e308)[:, None] * np.ones(DIM))
    assert np.isfinite(middle.distance)


def test_nobody_is_far_under_ip() -> None:
    rows = normal(50)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert scan(vectors(rows), "IP", silent()).far is None


# odd forms


def test_odd_forms_are_named() -> None:
    rows = normal(300)
    for change, told in (
        (lambda x: x, []),
        (lambda x: x * np.array([1, 1, 1e5, 1, 1, 1]), ["column 2 spreads 9.7e+04 times"]),
        (lambda x: x * np.array([1, 1e5, 1e5, 1, 1, 1]), ["columns 1, 2 spread up to "]),
        (lambda x: x * np.array([1, 0, 0, 0, 0, 1]), []),  # constant columns are no measure
        (lambda x: x + 1e4, ["its mean lies 9.9e+03 times farther from zero"]),
        (lambda x: x * np.where(np.arange(300) < 200, 1e-5, 1)[:, None], ["its rows lie "]),
        (lambda x: x * (np.arange(300) >= 200)[:, None], []),  # rows that are equal are no measure
        (lambda x: x * 1e30, ["its rows differ by about 1e+30"]),
        (lambda x: x * 1e-20, ["its rows differ by about 1e-20"]),
    ):
        learn = vectors(change(rows).astype(np.float32))
        found = odd_forms(learn, measure_space(learn, "L2"))
        assert [form.startswith(start) for form, start in zip(found, told, strict=True)] == [True] * len(told)


@pytest.mark.parametrize(("size", "told"), [(1, 0), (3e-2, 0), (5e-4, 1)])
def test_unit_rows_that_hardly_differ_are_named(size: float, told: int) -> None:
    learn = unit_vectors(size)
    found = odd_forms(learn, measure_space(learn, "IP"))
    assert [form.startswith("its rows differ by ") for form in found] == [True] * told


def test_unit_rows_whose_inner_products_are_equal_are_refused() -> None:
    with pytest.raises(UserError, match=r"^learn: learn\.npy has rows that differ by 1e-07 of their norm.*subtract"):
        measure_space(unit_vectors(1e-7), "IP")
    measure_space(vectors(np.full((9, DIM), np.sqrt(1 / DIM), np.float32)), "IP")  # equal rows: see check_distinct


def unit_vectors(size: float) -> Vectors:
    """Unit rows that lie about so far from their mean."""
    rows = np.eye(DIM)[0] + size / np.sqrt(DIM - 1) * normal(300).astype(np.float64)
    return vectors(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize("rows", [normal(200) * np.float32(2e37), normal(200) * np.float32(1e34) + np.float32(3e38)])
def test_numbers_near_the_end_of_float32_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"has numbers of about (2e\+37|3e\+38), expected at most 1e\+37.*multiply"):
        measure_space(vectors(rows), "L2")


def test_a_base_of_another_unit_is_told() -> None:
    space = measure_space(vectors(normal(300)), "L2")
    for size, n in ((1, 0), (100, 0), (1e6, 1), (1e37, 1)):
        notes = Notes()
        note_other_unit(vectors(normal(200) * np.float32(size), "base"), space, notes)
        assert len(notes.told) == n
        assert all("warning: base: half of its rows lie more than" in told for told in notes.told)


# exact answers


def test_answers_of_far_queries_are_exact() -> None:
    """Against integers, which lose nothing."""
    rng = np.random.default_rng(4)
    base, query = rng.integers(-500, 500, (400, DIM)), rng.integers(-500, 500, (6, DIM))
    query[1:4] *= np.array([10**3, 10**5, 10**6])[:, None]
    base[7] *= 10**6
    wanted = [[sum((int(q[i]) - int(b[i])) ** 2 for i in range(DIM)) for b in base] for q in query]
    points = Points(vectors(base.astype(np.float32)), measure_space(vectors(np.delete(base, 7, 0) * 1.0), "L2"))
    asked = query.astype(np.float32)
    everyone = np.arange(400)
    near = nearest_of_stored(asked, points, everyone, 10, block_bytes=4 * DIM * 64)
    d2, wide = nearest_wide(asked, points, everyone, 10, block_bytes=4 * DIM * 64)
    for i, distances in enumerate(wanted):
        best = sorted(distances)[:10]
        assert [distances[row] for row in near[i]] == best
        assert [distances[row] for row in wide[i]] == best
        np.testing.assert_allclose(d2[i] * float(points.space.scale) ** 2, best, rtol=1e-6)


@pytest.mark.parametrize("file", ["base", "query", "both"])
def test_stale_answers_are_seen_beside_far_rows(file: str) -> None:
    base, query = normal(300), normal(60, seed=2)
    base = put(base, 7, 1e20) if file != "query" else base
    query = put(query, 5, 1e30) if file != "base" else query
    gt = exact(base, query)
    for n_wrong, told in ((0, "60 of 60"), (40, "20 of 60")):
        gt[10 : 10 + n_wrong, 0] = gt[10 : 10 + n_wrong, 9]
        notes = Notes()
        data = EvaluationSet("set", Path("gt.npy"), vectors(base, "base"), vectors(query, "query"), gt)
        judge_gt(data, "L2", notes)
        assert f"exact nearest for {told} queries" in notes.told[0]


def test_fit_writes_exact_answers_of_far_queries(tmp_path: Path) -> None:
    base, query = put(normal(400), 9, 1e12), put(normal(5, seed=2), 3, 1e7)
    points = Points(vectors(base), measure_space(without_far(scan(vectors(base), "L2", silent())), "L2"))
    aside = set_aside(distinct_rows(points.vectors), 1, test=False)
    write_run_files(tmp_path, points, aside, query, silent())
    kept = np.delete(base, aside.rows, axis=0)
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "gt.npy"), exact(kept, query))


# what a run is held against


@pytest.mark.parametrize("size", [1.0, 1e-20, 1e30])
def test_rows_as_stored_are_clustered_as_plain_faiss_does(size: float) -> None:
    rows = (normal(400) + np.float32(3)) * np.float32(size)
    points = as_stored(Points(vectors(rows), measure_space(vectors(rows), "L2")))
    assert np.log2(points.space.scale) % 1 == 0
    found = train_kmeans(points, NLIST, 10, 1).centers
    if size == 1:  # beyond, FAISS on the rows themselves overflows or finds all distances zero
        clustering = faiss.Clustering(DIM, NLIST)
        clustering.niter, clustering.seed, clustering.early_stop_threshold = 10, 1, 1e-4
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, 400
        clustering.train(rows, faiss.IndexFlatL2(DIM))
        plain = faiss.vector_float_to_array(clustering.centroids).reshape(NLIST, DIM)
        np.testing.assert_array_equal(points.space.outside(found), plain)
    assert np.isfinite(points.space.outside(found)).all()


def test_a_unit_that_no_index_can_have_is_told_before_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivfast.front.fit.train_centers", None)
    with pytest.raises(UserError, match="base: rows differ by about 1e-20, expected 1e-15 to 1e15"):
        fit(normal(1500) * np.float32(1e-20), NLIST, epochs=1, backend="torch")


# whole runs

CLEAN = normal(700), normal(700, seed=2), normal(60, seed=3)
Change = Callable[[np.ndarray], np.ndarray]


def few_far(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[::97] *= np.float32(1e8)
    return rows


def start(tmp_path: Path, learn: np.ndarray, base: np.ndarray, query: np.ndarray, gt: np.ndarray, *more: str) -> int:
    (tmp_path / "set").mkdir(exist_ok=True)
    np.save(tmp_path / "learn.npy", learn)
    for name, array in (("base", base), ("query", query), ("gt", gt)):
        np.save(tmp_path / "set" / f"{name}.npy", array)
    return main(["--data_path", str(tmp_path), "--save_path", str(tmp_path / "out"), *FLAGS.split(), *more])


class Case(NamedTuple):
    """What is done to the files, what is told of it, and the backend."""

    told: str
    learn: Change | None = None
    base: Change | None = None
    query: Change | None = None
    backend: str = "torch"


def all_three(told: str, how: Change, backend: str = "torch") -> Case:
    return Case(told, how, how, how, backend)


RUNS = {
    "learn 1e7": Case("learn: row 7 lies", lambda x: put(x, 7, 1e7)),
    "learn 1e8": Case("learn: row 7 lies", lambda x: put(x, 7, 1e8), backend="jax"),
    "learn 1e36, 1 %": Case("learn: rows 0, 97,", lambda x: few_far(x) * few_far(x / x)),
    "base 1e12": Case("base: row 7 lies", None, lambda x: put(x, 7, 1e12), backend="jax"),
    "base 1e37": Case("base: row 7 lies", None, lambda x: put(x, 7, 1e37)),
    "query 1e37": Case("query: row 7 lies", None, None, lambda x: put(x, 7, 1e37)),
    "all 1 %": all_three("query: row 0 lies", few_far),
    "column": all_three("column 2 spreads", lambda x: x * np.array([1, 1, 1e4, 1, 1, 1], np.float32)),
    "tiny": all_three("rows differ by about 1e-20", lambda x: x * np.float32(1e-20)),
    "huge": all_three("rows differ by about 1e+30", lambda x: x * np.float32(1e30), "jax"),
    "offset": all_three("its mean lies 1e+06 times", lambda x: x.astype(np.float64) * 100 + 1e8),
    "offset of float32": all_three("its mean lies", lambda x: x + np.float32(1e5)),
}


@pytest.mark.whole_run
@pytest.mark.parametrize("case", RUNS)
def test_other_rows_are_searched_as_well_as_without(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = RUNS[case]
    changes = wanted.learn, wanted.base, wanted.query
    learn, base, query = (how(rows) if how else rows for how, rows in zip(changes, CLEAN, strict=True))
    assert start(tmp_path, learn, base, query, exact(base, query), "--backend", wanted.backend) == 0
    said = capsys.readouterr().err
    assert wanted.told in said
    assert "RuntimeWarning" not in said
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    kmeans = min(r["scanned_at"]["0.90"] for r in results if (r["router"], r["probing"]) == ("kmeans", "fixed"))
    centers = min(r["scanned_at"]["0.90"] for r in results if (r["router"], r["probing"]) == ("centers", "fixed"))
    plain = plain_faiss(*((learn, base, query) if case == "column" else CLEAN))
    assert kmeans < 1.25 * plain
    assert centers < 1.25 * plain


@pytest.mark.whole_run
def test_ruined_coordinates_cannot_look_like_a_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """k-means inside is made useless: plain k-means on the rows as stored takes its place, here and in a second run."""
    from ivfast.train import run

    ruined = normal(NLIST, seed=9) * np.float32(1e-3)
    monkeypatch.setattr(run, "find_kmeans", lambda *_: ruined)
    learn, base, query = put(CLEAN[0], 7, 1e8), CLEAN[1], CLEAN[2]
    files = []
    for _ in range(2):
        assert start(tmp_path, learn, base, query, exact(base, query), "--backend", "torch") == 0
        said = capsys.readouterr().err
        assert "; the second is taken" in said
        files.append((tmp_path / "out" / "kmeans.npy").read_bytes())
        for path in (tmp_path / "out" / "checkpoints").iterdir():
            path.unlink()
    assert files[0] == files[1]
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    kmeans = min(r["scanned_at"]["0.90"] for r in results if (r["router"], r["probing"]) == ("kmeans", "fixed"))
    assert kmeans < 1.25 * plain_faiss(CLEAN[0], base, query)


@pytest.mark.whole_run
def test_kmeans_whose_centers_lie_in_one_place_is_not_what_a_gain_is_measured_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that most others equal lies near the mean, where FAISS cannot split its bucket."""
    learn, base = (rows.copy() for rows in CLEAN[:2])
    learn[:650] = base[:650] = learn[0]
    gt = exact(base[640:], CLEAN[2]) + 640
    assert start(tmp_path, learn, base, CLEAN[2], gt, "--backend", "torch") == 0
    assert "; the second is taken" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    kmeans = min(r["scanned_at"]["0.90"] for r in results if (r["router"], r["probing"]) == ("kmeans", "fixed"))
    assert kmeans < 0.7  # of vectors from their mean alone: 1


@pytest.mark.whole_run
def test_an_evaluation_alone_says_the_same(tmp_path: Path) -> None:
    learn, base, query = put(CLEAN[0], 7, 1e8), put(CLEAN[1], 3, -1e25), CLEAN[2]
    assert start(tmp_path, learn, base, query, exact(base, query), "--backend", "torch") == 0
    before = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    flags = "--data_name set --learn_name learn --eval True --percents 0 --gpu -1 --backend torch"
    paths = ["--data_path", str(tmp_path), "--save_path", str(tmp_path / "again")]
    assert main([*paths, *flags.split(), "--ai_center", str(tmp_path / "out" / "ivfast.npy")]) == 0
    assert json.loads((tmp_path / "again" / "evaluation.json").read_text())["results"] == before


@pytest.mark.whole_run
def test_normalize_takes_rows_of_any_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of float64, far beyond what float32 holds: they are divided before."""
    rng = np.random.default_rng(5)
    learn, base, query = (x.astype(np.float64) * 10.0 ** rng.uniform(-200, 200, (len(x), 1)) for x in CLEAN)
    unit = [x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in CLEAN]
    gt = np.argsort(-unit[2] @ unit[1].T, axis=1, kind="stable")[:, :10]
    flags = ("--metric", "IP", "--normalize", "True", "--backend", "torch")
    assert start(tmp_path, learn, base, query, gt, *flags) == 0
    assert "exact nearest for 60 of 60" in capsys.readouterr().err
