"""A searchable index: against brute force over the probed lists, stock FAISS, and what it promised."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import ivfast
from ivfast.evaluate.results import right_answers
from ivfast.index import fill as filling
from ivfast.index.build import build_index, n_aside
from ivfast.index.growth import Index
from ivfast.index.model import TrainedModel
from ivfast.index.probing import chosen, first_distinct
from ivfast.route.certainty import recall_error
from ivfast.runtime.errors import RunError, UserError
from tests import by_hand

pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("index")]
DIM = 16


def make_rows(n: int, seed: int, metric: str) -> np.ndarray:
    """Clumps of ten, of which neighbours lie in one another."""
    rng = np.random.default_rng(7)
    clumps = rng.normal(0, 1, (400, DIM))
    rng = np.random.default_rng(seed)
    rows = clumps[rng.integers(0, 400, n)] + 0.4 * rng.normal(0, 1, (n, DIM))
    if metric == "IP":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows if metric == "IP" else 30 + 5 * rows).astype(np.float32)


@cache
def fitted(metric: str, tmp: Path) -> TrainedModel:
    return ivfast.fit(make_rows(6000, 1, metric), nlist=24, metric=metric, epochs=2, save_path=tmp, batch_size=256)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrainedModel]:
    @cache
    def of(metric: str) -> TrainedModel:
        return fitted(metric, tmp_path_factory.mktemp(f"fit_{metric}"))

    return of


@pytest.fixture(scope="session")
def index_of(model_of: Callable[[str], TrainedModel]) -> Callable[..., Index]:
    @cache
    def of(metric: str, copies: float = 0.8, kind: str = "Flat") -> Index:
        return model_of(metric).index(make_rows(6000, 1, metric), copies, kind)

    return of


def lists_of(index: Index) -> list[np.ndarray]:
    lists: Any = index.faiss_index.invlists
    return [
        faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy() if lists.list_size(i) else np.empty(0, np.int64)
        for i in range(index.model.nlist)
    ]


@pytest.mark.parametrize("metric", ["IP", "L2"])
@pytest.mark.parametrize("copies", [0.0, 0.8])
def test_search_finds_what_brute_force_over_the_probed_lists_finds(
    metric: str, copies: float, index_of: Callable[..., Index]
):
    index, base, query = index_of(metric, copies), make_rows(6000, 1, metric), make_rows(50, 2, metric)
    lists = lists_of(index)
    d2 = by_hand.distances(query.astype(np.float64), base.astype(np.float64))
    budgets: list[tuple[int, dict[str, Any]]] = [
        (10, {"recall": 0.9}), (100, {"recall": 0.8}), (3, {"nprobe": 2}), (10, {"scanned": 0.1}),
    ]  # fmt: skip
    for k, budget in budgets:
        ids, scores = index.search(query, k, **budget)
        nprobe = budget.get("nprobe")
        threshold = index.threshold(k, *(budget.get(name) for name in ("recall", "scanned", "nprobe")))
        buckets, _ = chosen(index.candidates(query, threshold, nprobe), threshold)
        for row in range(len(query)):
            inside = np.unique(np.concatenate([lists[b] for b in buckets[row] if b >= 0]))
            expected = inside[np.argsort(d2[row, inside], kind="stable")][:k]
            found = ids[row][ids[row] >= 0]
            assert len(set(found.tolist())) == len(found) == len(expected)
            assert set(found.tolist()) == set(expected.tolist())
            ours = scores[row][: len(found)]
            truth = 1 - d2[row, found] / 2 if metric == "IP" else d2[row, found]
            np.testing.assert_allclose(ours, truth, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_every_vector_is_stored_once_and_copies_as_many_as_were_asked_for(metric: str, index_of: Callable[..., Index]):
    index = index_of(metric)
    stored = np.concatenate(lists_of(index))
    assert len(stored) == index.faiss_index.ntotal == 6000 + 4800
    np.testing.assert_array_equal(np.unique(stored), np.arange(6000))
    assert all(len(np.unique(one)) == len(one) for one in lists_of(index))  # no twin in one list
    assert len(index) == 6000


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_a_search_reaches_the_recall_that_it_is_asked_for(metric: str, index_of: Callable[..., Index]):
    """On queries that nothing knows of: 0.025 is three standard errors of 300 on either side."""
    index, base, query = index_of(metric), make_rows(6000, 1, metric), make_rows(2000, 3, metric)
    near = np.argsort(by_hand.distances(query, base), axis=1, kind="stable")
    for k in (1, 10, 100):
        for asked in (0.8, 0.9, 0.95, 0.99):
            ids, _ = index.search(query, k, recall=asked)
            found = (ids[:, :, None] == near[:, None, :k]).any(axis=1).mean()
            expected, least = index.expect(k, recall=asked), index.calibration.recall[0, k - 1]
            assert expected.recall == pytest.approx(max(asked, least), abs=0.002)
            assert found == pytest.approx(expected.recall, abs=0.025), (k, asked)
    scanned = [index.expect(recall=recall).scanned for recall in (0.8, 0.9, 0.95, 0.99)]
    assert scanned == sorted(scanned)
    assert scanned[0] < scanned[-1] < 1


def test_evaluate_says_what_a_search_reaches_and_scans(index_of: Callable[..., Index]):
    index, base, query = index_of("L2"), make_rows(6000, 1, "L2"), make_rows(400, 3, "L2")
    gt = np.argsort(by_hand.distances(query, base), axis=1, kind="stable")[:, :10]
    (one,) = index.evaluate(query, gt, recalls=(0.9,))
    ids, _ = index.search(query, recall=0.9)
    assert one.recall == pytest.approx((ids[:, :, None] == gt[:, None]).any(axis=1).mean(), abs=1e-12)
    threshold = index.threshold(10, 0.9, None, None)
    buckets, _ = chosen(index.candidates(query, threshold), threshold)
    sizes = np.append([len(one) for one in lists_of(index)], 0)
    assert one.scanned == pytest.approx(sizes[buckets].sum() / 6000 / len(query), rel=1e-9)
    assert one.nprobe == pytest.approx((buckets >= 0).sum() / len(query))


def test_no_answer_counts_as_none_as_in_an_evaluation(index_of: Callable[..., Index]):
    index, base, query = index_of("L2"), make_rows(6000, 1, "L2"), make_rows(400, 3, "L2")
    gt = np.argsort(by_hand.distances(query, base), axis=1, kind="stable")[:, :10]
    n_answers = np.random.default_rng(3).integers(0, 11, 400)
    n_answers[:3] = 0, 1, 10
    gt[np.arange(10) >= n_answers[:, None]] = -1
    gt[5] = gt[5, ::-1]  # wherever it stands
    (one,), (tied,) = (index.evaluate(query, gt, recalls=(0.8,), ties=ties) for ties in (False, True))
    ids, _ = index.search(query, recall=0.8)
    found = np.array([len(set(row) & set(right[right >= 0])) for row, right in zip(ids.tolist(), gt, strict=True)])
    valid = right_answers(gt)[2]
    assert one.recall == found.sum() / n_answers.sum() == found.sum() / valid.sum()
    assert one.error == recall_error(found[:, None], n_answers)[0]
    assert tied.without_ties == tied.recall == one.recall  # no two rows are alike
    with pytest.raises(UserError, match="gt: it names no right answer in its first 10 columns"):
        index.evaluate(query, np.full((400, 10), -1))
    with pytest.raises(UserError, match=r"gt: found ids from -2 to 5999, expected 0 to 5999, .*, or -1 for none; "):
        index.evaluate(query, np.where(gt == -1, -2, np.where(gt == gt.max(), 5999, gt)))


def test_lists_that_hold_too_few_find_no_answer_where_there_is_none(
    index_of: Callable[..., Index], monkeypatch: pytest.MonkeyPatch
):
    index, query = index_of("L2"), make_rows(3, 3, "L2")
    gt = np.full((3, 10), -1)
    gt[:, 0] = 5, 6, 7
    none = np.full((3, 10), -1)
    monkeypatch.setattr(index, "search_chosen", lambda *_: (none.astype(np.float32), none))
    assert index.evaluate(query, gt, recalls=(0.8,))[0].recall == 0


def test_an_index_says_what_it_is(index_of: Callable[..., Index]):
    said = "ivfast.Index(6,000 vectors, dim 16, nlist 24, metric L2, copies 0.8, kind Flat)"
    assert repr(index_of("L2")) == str(index_of("L2")) == said


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_ties_count_where_a_vector_is_as_near_as_the_last_answer(
    metric: str, model_of: Callable[[str], TrainedModel]
) -> None:
    base, query = make_rows(3000, 1, metric), make_rows(60, 3, metric)
    base[1500:] = base[:1500]  # each vector twice: every tenth answer that is a first one has a twin
    index = model_of(metric).index(base, 0.8)
    wide, asked = base.astype(np.float64), query.astype(np.float64)
    d2 = np.square(asked[:, None] - wide).sum(axis=2) if metric == "L2" else -(asked[:, None] * wide).sum(axis=2)
    near = np.argsort(d2, axis=1, kind="stable")
    gt = near[:, :11]
    last = np.take_along_axis(d2, gt[:, [10]], axis=1)
    (one,), (plain,) = (index.evaluate(query, gt, 11, (0.9,), ties=ties) for ties in (True, False))
    ids, _ = index.search(query, 11, recall=0.9)
    of_found = np.take_along_axis(d2, ids, axis=1)
    right = (ids[:, :, None] == gt[:, None]).any(axis=2) | (np.abs(of_found - last) < 1e-9)
    assert one.recall == pytest.approx(right.mean())
    assert one.without_ties == plain.recall == pytest.approx((ids[:, :, None] == gt[:, None]).any(axis=1).mean())
    assert plain.without_ties is None
    assert one.recall > plain.recall + 0.01
    assert one.error == pytest.approx(right.mean(axis=1).std(ddof=1) / 60**0.5)
    assert (one.k, plain.k) == (11, 11)
    rows = np.arange(50)
    gt = by_hand.distances_of_others(base, rows, np.arange(3000)).argsort(axis=1)[:, :10]
    (own,) = index.evaluate(base[rows], gt, recalls=(0.9,), without=rows, ties=True)
    assert own.without_ties is not None
    assert 1 >= own.recall >= own.without_ties


def test_own_rows_do_not_count_as_found(index_of: Callable[..., Index]):
    index, base = index_of("L2"), make_rows(6000, 1, "L2")
    rows = np.arange(0, 6000, 20)
    gt = by_hand.distances_of_others(base, rows, np.arange(6000)).argsort(axis=1)[:, :10]
    (with_it,) = index.evaluate(base[rows], gt, recalls=(0.9,), without=rows)
    assert with_it.recall > 0.85
    np.testing.assert_array_equal(index.search(base[rows], 1, nprobe=24)[0][:, 0], rows)


@pytest.mark.parametrize(("kind", "least"), [("SQ8", 0.95), ("PQ8", 0.4), ("PQ8x4fs", 0.2), ("RaBitQ", 0.1)])
def test_other_codes_are_searched_and_calibrated_by_what_they_find(
    kind: str, least: float, index_of: Callable[..., Index]
):
    index, base, query = index_of("L2", 0.8, kind), make_rows(6000, 1, "L2"), make_rows(1000, 3, "L2")
    best = index.calibration.best(10)
    assert best > least
    near = np.argsort(by_hand.distances(query, base), axis=1)[:, :10]
    asked = float(best) - 0.05
    ids, _ = index.search(query, recall=asked)
    assert (ids[:, :, None] == near[:, None]).any(axis=1).mean() == pytest.approx(asked, abs=0.03)
    if best < 0.98:
        with pytest.raises(UserError, match="this index reaches 0"):
            index.search(query, recall=0.999)
    assert all(len(set(row)) == 10 for row in ids.tolist())


def test_plain_faiss_reads_and_searches_what_is_saved(tmp_path: Path, index_of: Callable[..., Index]):
    index, query = index_of("IP"), make_rows(20, 2, "IP")
    index.save(tmp_path / "saved")
    plain: Any = faiss.read_index(str(tmp_path / "saved" / "index.faiss"))
    np.testing.assert_array_equal(plain.quantizer.reconstruct_n(0, 24), np.load(tmp_path / "saved" / "ivfast.npy"))
    plain.nprobe = 24
    exact = np.argsort(by_hand.distances(query, make_rows(6000, 1, "IP")), axis=1)[:, 0]
    np.testing.assert_array_equal(plain.search(query, 1)[1][:, 0], exact)
    again = ivfast.load_index(tmp_path / "saved")
    budgets: list[dict[str, Any]] = [{"recall": 0.9}, {"scanned": 0.2}, {"nprobe": 3}]
    for budget in budgets:
        for ours, theirs in zip(again.search(query, 7, **budget), index.search(query, 7, **budget), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert (len(again), again.copies, again.kind) == (6000, 0.8, "Flat")


def test_lists_on_disk_hold_the_same_move_and_stay_as_saved(
    tmp_path: Path, index_of: Callable[..., Index], model_of: Callable[[str], TrainedModel],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    index, query, base = index_of("L2"), make_rows(20, 2, "L2"), make_rows(6000, 1, "L2")
    monkeypatch.setattr(filling.fill_on_disk, "__defaults__", (100_000,))
    path = tmp_path / "new" / "index.ivfdata"
    made = model_of("L2").index(base, 0.8, lists_file=path)
    lists: Any = made.faiss_index.invlists
    assert isinstance(faiss.downcast_InvertedLists(lists), faiss.OnDiskInvertedLists)
    for ours, theirs in zip(made.search(query, 10), index.search(query, 10), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    made.save(path.parent)
    made.save(tmp_path / "copied")
    path.parent.rename(tmp_path / "moved")
    for folder in (tmp_path / "moved", tmp_path / "copied"):
        assert not [one.name for one in folder.iterdir() if one.name.startswith(".")]
        again = ivfast.load_index(folder)
        np.testing.assert_array_equal(again.search(query, 10)[0], index.search(query, 10)[0])
        for change in (lambda one=again: one.add(query), lambda one=again: one.remove(np.array([1]))):
            with pytest.raises(UserError, match="on disk and can't be changed"):
                change()
    # another index on the same file leaves those that are open as they were
    model_of("L2").index(base[:3000], 0.0, lists_file=tmp_path / "moved" / "index.ivfdata")
    np.testing.assert_array_equal(made.search(query, 10)[0], index.search(query, 10)[0])


def test_an_index_of_other_centers_or_files_is_refused(tmp_path: Path, index_of: Callable[..., Index]):
    one, other = index_of("L2"), index_of("L2", 0.8, "SQ8")
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    (tmp_path / "one" / "index.safetensors").write_bytes((tmp_path / "other" / "index.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"is of another index\.faiss"):
        ivfast.load_index(tmp_path / "one")
    one.save(tmp_path / "one")
    other_model = ivfast.fit(make_rows(3000, 4, "L2"), nlist=24, metric="L2", epochs=1, batch_size=256, seed=3)
    other_model.save(tmp_path / "one")
    with pytest.raises(UserError, match=r"of another ivfast\.npy"):
        ivfast.load_index(tmp_path / "one")


def test_drift_by_codes_compares_with_what_codes_can_find(model_of: Callable[[str], TrainedModel]):
    base = make_rows(6000, 1, "L2")
    index = model_of("L2").index(base[:5000], 0.8, "SQ8")
    index.add(base[5000:])
    assert index.drift().recall > 0.85


def test_adding_in_parts_scans_about_as_much_as_storing_at_once(model_of: Callable[[str], TrainedModel]):
    model, base, query = model_of("L2"), make_rows(6000, 1, "L2"), make_rows(1000, 3, "L2")
    index = model.index(base[:4000], 0.8)
    with pytest.raises(UserError, match="nothing was added"):
        index.drift()
    for start in range(4000, 6000, 200):
        ids = index.add(base[start : start + 200])
        np.testing.assert_array_equal(ids, np.arange(start, start + 200))
    assert len(index) == 6000
    stored = np.concatenate(lists_of(index))
    np.testing.assert_array_equal(np.unique(stored), np.arange(6000))
    assert len(stored) == pytest.approx(6000 * 1.8, rel=0.01)
    gt = np.argsort(by_hand.distances(query, base), axis=1)[:, :10]
    (grown,), (whole,) = (one.evaluate(query, gt, recalls=(0.9,)) for one in (index, model.index(base, 0.8)))
    assert grown.recall == pytest.approx(whole.recall, abs=0.02)
    assert grown.scanned < 1.05 * whole.scanned
    drift = index.drift()
    assert drift.added == 2000
    assert drift.recall == pytest.approx(0.9, abs=0.04)
    assert not drift.train_again


def test_drift_tells_of_vectors_of_another_kind(model_of: Callable[[str], TrainedModel]):
    model = model_of("L2")
    index = model.index(make_rows(6000, 1, "L2"), 0.8)
    index.add((40 + np.random.default_rng(1).normal(0, 3, (3000, DIM))).astype(np.float32))
    drift = index.drift()
    assert drift.train_again
    assert drift.recall < 0.88 or drift.scanned > 1.2 * drift.expected_scanned or drift.imbalance > 1.2


def test_removed_vectors_are_gone_with_their_copies(model_of: Callable[[str], TrainedModel]):
    base = make_rows(6000, 1, "IP")
    index = model_of("IP").index(base, 0.8)
    assert index.remove(np.array([5, 17, 5, 99_999])) == 2
    assert len(index) == 5998
    assert not np.isin([5, 17], np.concatenate(lists_of(index))).any()
    assert index.search(base[5:6], 3, nprobe=24)[0][0, 0] != 5
    assert index.remove(np.array([5])) == 0
    np.testing.assert_array_equal(index.sizes, [len(one) for one in lists_of(index)])


@pytest.mark.parametrize("where", ["/proc/x", "file/x"])
def test_a_folder_that_cannot_be_made_is_named(
    where: str, index_of: Callable[..., Index], model_of: Callable[[str], TrainedModel], tmp_path: Path
):
    (tmp_path / "file").touch()
    for save in (index_of("L2").save, model_of("L2").save):
        with pytest.raises(
            (RunError, UserError),
            match=rf"^{tmp_path / where}( is or lies below a file|: no folder can be made there).*name another$",
        ):
            save(tmp_path / where)


def test_bad_questions_end_in_one_line(index_of: Callable[..., Index], model_of: Callable[[str], TrainedModel]):
    index, query = index_of("IP"), make_rows(5, 2, "IP")
    wrong = query.copy()
    wrong[3, 2] = np.nan
    from_1 = np.random.default_rng(1).permutation(np.arange(5951, 6001)).reshape(5, 10)
    for call, told in (
        (lambda: index.search(query, recall=1.2), "recall 1.2: expected a share"),
        (lambda: index.search(query, recall=0.9, nprobe=3), "recall and nprobe are two budgets"),
        (lambda: index.search(query, nprobe=0), "nprobe 0: expected 1 to 24"),
        (lambda: index.search(query, scanned=-1.0), "scanned -1: expected .* or more"),
        (lambda: index.search(query, k=0), "k 0: expected a whole number, 1 or more"),
        (lambda: index.search(query, k=101), "k 101: recall is known for up to 100"),
        (lambda: index.expect(101, scanned=0.1), "k 101: recall is known for up to 100"),
        (lambda: index.expect(2.5, recall=0.9), "k 2.5: expected a whole number"),  # pyright: ignore
        (lambda: index.evaluate(query, np.zeros((5, 101), int), 101, (1.0,)), "k 101: recall is known for up to 100"),
        (lambda: model_of("IP").index(make_rows(1, 1, "IP")), "found 1 row, expected 2 or more"),
        (lambda: index.search(query[:, :5]), "query: found rows of 5 columns, expected 16"),
        (lambda: index.search(wrong), "query: row 3 is not finite"),
        (lambda: index.search(query * np.float32(1e30)), "query: row 0 is too large, its square does not fit float32"),
        (lambda: index.search(np.where(np.isnan(wrong), np.float64(1e300), wrong)), "query: row 3 is too large"),
        (lambda: index.search(2 * query), "query: row 0 has norm 2, expected unit norm"),
        (lambda: index.evaluate(query, np.full((5, 10), 6000)), "gt: found ids from 6000 to 6000, expected 0 to 5999"),
        (lambda: index.search(query.astype(np.float64) * 1e300), "query: row 0 is too large, its square"),
        (lambda: index.evaluate(query, np.full((5, 10), 7)), "gt: row 0 names 7 more than once"),
        (lambda: index.evaluate(query, np.arange(50).reshape(5, 10).byteswap()), "in the other order"),
        (lambda: index.evaluate(query, np.zeros((5, 10))), "gt: found float64, expected integers"),
        (lambda: index.evaluate(query, np.full((5, 10), 0.5)), "expected integers; these look like distances"),
        (lambda: index.evaluate(query, from_1), "counted from 1: save gt - 1"),
        (lambda: index.evaluate(query, np.zeros((5, 10), int), recalls=(2.0,)), "recall 2: expected a share"),
        (lambda: index.search(query, nprobe=2.5), "nprobe 2.5: expected 1 to 24"),  # pyright: ignore
        (lambda: index.remove(np.array([True])), "ids: found bool, expected integers"),
        (lambda: index.evaluate(query, np.zeros((4, 10), int)), r"gt: found shape \(4, 10\), expected 5 rows"),
        (lambda: model_of("IP").index(make_rows(2000, 1, "IP"), 0.3), "copies 0.3: expected one of"),
        (lambda: model_of("IP").index(make_rows(2000, 1, "IP"), 0.8, "PQ7"), "kind 'PQ7': FAISS cannot make"),
        (lambda: model_of("IP").index(make_rows(2000, 1, "IP"), 0.8, "HNSW"), "kind 'HNSW'"),
        (lambda: model_of("IP").index(make_rows(2000, 1, "IP"), 0.8, "RaBitQfs"), "kind 'RaBitQfs': expected one of"),
        (lambda: model_of("IP").index(make_rows(2000, 1, "IP"), 0.8, "RQ4x4fs"), "kind 'RQ4x4fs': expected one of"),
        (lambda: model_of("IP").index(make_rows(40, 1, "IP"), 0.8, "PQ4"), "kind 'PQ4': found 40 vectors, too few"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told) as refused:
            call()
        assert "\n" not in str(refused.value)


def test_first_distinct_keeps_the_first_of_each_and_says_how_many():
    ids = np.array([[4, 4, 2, 9, 2], [1, 1, 1, -1, -1], [3, 8, 3, 8, 5]])
    scores = np.arange(15, dtype=np.float32).reshape(3, 5)
    found, numbers, counts = first_distinct(scores, ids, 3)
    assert numbers.tolist() == [[4, 2, 9], [1, -1, -1], [3, 8, 5]]
    assert counts.tolist() == [3, 1, 3]
    assert found.tolist() == [[0, 2, 3], [5, 9, 9], [10, 11, 14]]


def test_aside_rows_do_not_tell_where_their_answers_lie(model_of: Callable[[str], TrainedModel]):
    """With them as askers the recall measured on them comes out above what other queries reach."""
    assert build_index.__doc__ is not None
    model, base, query = model_of("L2"), make_rows(6000, 1, "L2"), make_rows(2000, 3, "L2")
    gt = np.argsort(by_hand.distances(query, base), axis=1)[:, :10]
    (one,) = model.index(base, 0.8).evaluate(query, gt, recalls=(0.95,))
    assert one.recall > 0.935


def test_more_than_a_hundred_nearest_are_found_by_the_other_budgets(index_of: Callable[..., Index]):
    index, base, query = index_of("L2"), make_rows(6000, 1, "L2"), make_rows(20, 2, "L2")
    exact = np.argsort(by_hand.distances(query.astype(float), base.astype(float)), axis=1)
    ids, scores = index.search(query, 150, nprobe=24)
    assert (ids == exact[:, :150]).mean() > 0.999
    assert (np.diff(scores, axis=1) >= 0).all()
    ids, scores = index.search(query, 150, scanned=0.3)
    assert ids.shape == scores.shape == (20, 150)
    assert all(len(np.unique(row)) == 150 for row in ids)
    recall = (ids[:, :, None] == exact[:, None, :150]).any(axis=1).mean()
    assert 0.6 < recall < 1
    np.testing.assert_array_equal(ids[:, :100], index.search(query, 100, scanned=0.3)[0])


@pytest.mark.parametrize("n", [2, 3, 12, 40, 150])
def test_a_tiny_base_is_calibrated_on_ten_vectors_or_half_of_it(n: int, model_of: Callable[[str], TrainedModel]):
    assert n_aside(n) == min(10, n // 2)
    base = make_rows(n, 2, "L2")
    index = model_of("L2").index(base)
    k = min(n - 1, 10)
    assert index.calibration.most_k == min(n - 1, 100)
    assert np.isfinite(index.calibration.scanned).all()
    found = index.search(base, k, recall=1.0)[0]
    np.testing.assert_array_equal(found[:, 0], np.arange(n))
    levels = index.calibration.recall[:, k - 1] * n_aside(n) * k
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)


def test_bases_that_are_not_tiny_are_calibrated_on_as_many_as_before():
    assert [n_aside(n) for n in (200, 1000, 5000, 40_000, 10**6)] == [10, 50, 250, 2000, 2000]
