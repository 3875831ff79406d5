"""The evaluation against searches in plain Python, and against a FAISS IVF index."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pytest

from ivfast.data.vectors import EvaluationSet, Vectors
from ivfast.evaluate.refit import n_threshold_rows
from ivfast.evaluate.result import Result
from ivfast.evaluate.results import RouterSetting, evaluate_router, right_answers
from ivfast.route.routers import ROUTERS, Router, RouterKind, centers_router
from ivfast.runtime.progress import silent
from ivfast.store.records import Facts, Predicted, Storing
from ivfast.store.rules import RULES
from tests import by_hand
from tests.conftest import plain_space
from tests.test_rules import REFERENCES

NLIST, WIDTH = 12, 4
NPROBES = (1, 2, 3, 5, 12)
TEMPERATURE, STORING_T = 1.5, 0.7
USE = np.arange(1.0, NLIST + 1) / np.arange(1.0, NLIST + 1).sum()
COPIES = (0.0, 0.8, 3.0)


class Way(NamedTuple):
    """How base is stored."""

    rule: str
    copies: float


WAYS = [Way(rule, copies) for rule in RULES for copies in COPIES]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.rule}-{way.copies:g}")


def facts_for(copies: tuple[float, ...], predicted: dict[str, Predicted] | None = None) -> Facts:
    storings = tuple(Storing(number, predicted or {}, STORING_T, USE) for number in copies)
    return Facts(12.0, TEMPERATURE, 3.0, storings, 0.0)


def draw_logits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Logits of clumpy vectors; nobody comes near the last bucket."""
    z = -np.square(rng.normal(2, 1, (n, NLIST))).astype(np.float32)
    z[:, -1] = -60
    return z


class Case:
    """Logits of base, query and held-out vectors, written down."""

    def __init__(self, n_base: int, n_query: int, gt: np.ndarray | None = None, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.base, self.query, self.held_out = (draw_logits(rng, n) for n in (n_base, n_query, 90))
        self.gt = rng.integers(n_base, size=(n_query, 12)) if gt is None else gt
        if gt is None:
            self.gt[rng.random(self.gt.shape) < 0.1] = -1

    def setting(self, ways: list[Way]) -> RouterSetting:
        """Every rule of the ways for every number of their copies, fixed and adaptive."""
        rules, copies = (tuple(dict.fromkeys(values)) for values in zip(*ways, strict=True))
        assert len(ways) == len(rules) * len(copies)
        kind = RouterKind("table", "table", "black", trained=True, linear=False, rules=rules, default_rule=rules[-1])
        return RouterSetting(Router("table", NLIST, lambda x: x), kind, copies, facts_for(copies), self.held_out)

    def evaluate(self, setting: RouterSetting, read_rows: int = 10_000) -> list[Result]:
        base, query = (Vectors(name, Path(name), rows) for name, rows in (("base", self.base), ("query", self.query)))
        data = EvaluationSet("case", Path("gt.npy"), base, query, self.gt)
        return evaluate_router(setting, data, plain_space(NLIST), WIDTH, NPROBES, read_rows, silent())

    def run(self, ways: list[Way], read_rows: int = 10_000) -> list[Result]:
        return self.evaluate(self.setting(ways), read_rows)

    def fixed(self, way: Way) -> Result:
        """Fixed probing alone."""
        (found,) = self.evaluate(self.setting([way])._replace(held_out=None))
        return found


def store_by_hand(z: np.ndarray, way: Way) -> by_hand.Lists:
    scene = by_hand.Scene(z, WIDTH, way.copies, STORING_T, USE)
    return by_hand.store(by_hand.offers(REFERENCES[way.rule], scene), round(way.copies * len(z)))


def search_by_hand(case: Case, stored: by_hand.Lists, probes: by_hand.Lists) -> tuple[float, list[float]]:
    """The first ten columns of gt count."""
    return by_hand.search(stored, case.gt[:, :10], probes)


def adaptive_probes(case: Case, stored: by_hand.Lists, mean_probes: float) -> by_hand.Lists:
    sizes, n = by_hand.sizes_of(stored, NLIST), len(case.base)
    held_out, query = (by_hand.log_gains(z, TEMPERATURE, sizes, n) for z in (case.held_out, case.query))
    return by_hand.adaptive_probes(query, by_hand.threshold(held_out, mean_probes))


def check_points(result: Result, searches: list[tuple[float, list[float]]]) -> None:
    assert result.recall == pytest.approx([recall for recall, _ in searches])
    assert result.scanned == pytest.approx([float(np.mean(scanned)) for _, scanned in searches])
    assert result.scanned_p99 == pytest.approx([float(np.percentile(scanned, 99)) for _, scanned in searches])


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(300, 1030)  # 1030: six query rows in the second tile, the rest of it padding


@pytest.fixture(scope="module")
def results(case: Case) -> list[Result]:
    return case.run(WAYS)


def pick(results: list[Result], way: Way, probing: str) -> Result:
    (found,) = [r for r in results if (r.rule, r.percent, r.probing) == (*way, probing)]
    return found


@each_way
def test_fixed_probing_equals_a_search_by_hand(case: Case, results: list[Result], way: Way):
    found = pick(results, way, "fixed")
    stored = store_by_hand(case.base, way)
    searches = {n: search_by_hand(case, stored, by_hand.best_probes(case.query, n)) for n in range(1, NLIST + 1)}
    assert found.nprobe == list(NPROBES)
    check_points(found, [searches[n] for n in NPROBES])
    curve = [(recall, float(np.mean(scanned))) for recall, scanned in searches.values()]
    for level in (0.80, 0.90, 0.95, 0.99):
        assert found.scanned_at[f"{level:.2f}"] == pytest.approx(by_hand.scanned_at(curve, level))
    np.testing.assert_allclose(np.array(found.curve).T, curve)


@each_way
def test_adaptive_probing_equals_a_search_by_hand(case: Case, results: list[Result], way: Way):
    found = pick(results, way, "adaptive")
    stored = store_by_hand(case.base, way)
    probes = [adaptive_probes(case, stored, n) for n in NPROBES]
    check_points(found, [search_by_hand(case, stored, one) for one in probes])
    assert found.nprobe == pytest.approx([np.mean([len(p) for p in one]) for one in probes])


def test_adaptive_summary_is_drawn_from_200_thresholds():
    case, way = Case(200, 150), Way("benefit", 0.8)
    stored = store_by_hand(case.base, way)
    curve = []
    for mean_probes in np.geomspace(1, NLIST, 200):
        recall, scanned = search_by_hand(case, stored, adaptive_probes(case, stored, mean_probes))
        curve.append((recall, float(np.mean(scanned))))
    found = pick(case.run([way]), way, "adaptive")
    for level in (0.80, 0.90, 0.95, 0.99):
        assert found.scanned_at[f"{level:.2f}"] == pytest.approx(by_hand.scanned_at(curve, level), rel=1e-6)


@each_way
def test_bucket_counts_are_those_of_what_is_stored(case: Case, results: list[Result], way: Way):
    sizes = by_hand.sizes_of(store_by_hand(case.base, way), NLIST)
    for probing in ("fixed", "adaptive"):
        found = pick(results, way, probing)
        assert found.entries == sizes.sum() == 300 + round(way.copies * 300)
        assert found.largest == sizes.max()
        assert found.empty == (sizes == 0).sum() >= 1
        assert found.imbalance == pytest.approx(by_hand.imbalance(sizes))
        assert found.sizes == {f"p{q}": np.quantile(sizes, q / 100) for q in (1, 25, 50, 75, 99)}


def test_all_buckets_probed_find_everything_and_scan_all_entries(results: list[Result]):
    for found in results:
        assert found.recall[-1] == 1
        assert found.scanned[-1] == pytest.approx(1 + found.percent)


@pytest.mark.parametrize("width", [1, 2, 9, 10, 11, 12])
def test_first_ten_columns_count_and_no_more(case: Case, width: int):
    gt = np.tile(np.arange(len(case.query))[:, None] % 300, (1, width))
    gt[:, :10] = case.gt[:, : min(10, width)]
    narrow = Case(300, 1030, gt)
    found, stored = narrow.fixed(WAYS[0]), store_by_hand(narrow.base, WAYS[0])
    check_points(found, [search_by_hand(narrow, stored, by_hand.best_probes(narrow.query, n)) for n in NPROBES])


def test_recall_divides_once_by_all_answers():
    """One query with ten answers found, one with a single answer missed: 10 / 11, not 1 / 2."""
    case = Case(20, 2, np.full((2, 10), -1))
    case.base[:] = -9.0
    case.base[:10, 0] = case.base[10:, 1] = -1.0
    case.query[:] = case.base[0]
    case.gt[0] = range(10)
    case.gt[1, 7] = 15
    found = case.fixed(WAYS[0])
    assert found.recall[0] == pytest.approx(10 / 11)
    assert found.recall[-1] == 1


@pytest.mark.parametrize("n_query", [1, 1023, 1024, 1025])
def test_masks_pad_rows_out_of_recall_and_scanned(n_query: int):
    case = Case(150, n_query)
    way = Way("membership", 0.8)
    stored = store_by_hand(case.base, way)
    fixed, adaptive = case.run([way])
    check_points(fixed, [search_by_hand(case, stored, by_hand.best_probes(case.query, n)) for n in NPROBES])
    probes = [adaptive_probes(case, stored, n) for n in NPROBES]
    check_points(adaptive, [search_by_hand(case, stored, one) for one in probes])


@pytest.mark.parametrize("read_rows", [1, 1024, 2048])
def test_rows_read_at_once_never_change_a_bit(case: Case, results: list[Result], read_rows: int):
    for one, two in zip(results, case.run(WAYS, read_rows), strict=True):
        assert one._replace(curve=()) == two._replace(curve=())  # type: ignore[arg-type]
        assert np.array(one.curve).tobytes() == np.array(two.curve).tobytes()


def test_without_held_out_vectors_there_is_fixed_probing_alone(case: Case, results: list[Result]):
    found = case.evaluate(case.setting(WAYS)._replace(held_out=None))
    assert [r.probing for r in found] == ["fixed"] * len(WAYS)
    assert [r.recall for r in found] == [r.recall for r in results if r.probing == "fixed"]


def test_without_facts_only_rules_that_need_none_are_evaluated_by_fixed_probing(case: Case, results: list[Result]):
    found = case.evaluate(case.setting(WAYS)._replace(facts=None))
    assert [(r.rule, r.percent, r.probing) for r in found] == [
        (*way, "fixed") for way in WAYS if not RULES[way.rule].fitted
    ]
    for one in found:
        assert one.recall == pick(results, Way(one.rule, one.percent), "fixed").recall


def test_what_was_predicted_stands_beside_what_came_of_it(case: Case, results: list[Result]):
    """Linear between whole nprobes; under the default rule, the last, and fixed probing alone."""
    predicted = {"0.90": Predicted(2.5, 0.25), "0.99": Predicted(4.75, 0.5)}
    setting = case.setting(WAYS)._replace(facts=facts_for(COPIES, predicted))
    for one in case.evaluate(setting):
        if (one.rule, one.probing) != (list(RULES)[-1], "fixed"):
            assert one.predicted == {}
            continue
        recall, scanned = pick(results, Way(one.rule, one.percent), "fixed").curve
        at = {"0.90": 0.5 * (recall[1] + recall[2]), "0.99": 0.25 * recall[3] + 0.75 * recall[4]}
        cost = {"0.90": 0.5 * (scanned[1] + scanned[2]), "0.99": 0.25 * scanned[3] + 0.75 * scanned[4]}
        assert one.predicted.keys() == predicted.keys()
        for level, found in one.predicted.items():
            assert found[:2] == predicted[level]
            assert found[2:] == (pytest.approx(at[level]), pytest.approx(cost[level]))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_right_answers_are_numbered_among_the_distinct_ones(dtype: type):
    gt = np.array([[7, 3, 7], [0, 3, 9]], dtype)
    wanted, at, valid = right_answers(gt)
    assert wanted.tolist() == [0, 3, 7, 9]
    assert wanted[at].tolist() == gt.tolist()
    assert valid.all()


def test_minus_one_is_no_answer():
    wanted, _, valid = right_answers(np.array([[-1, 5], [-1, -1], [2, -1]]))
    assert wanted.tolist() == [2, 5]
    assert valid.tolist() == [[False, True], [False, False], [True, False]]


@pytest.mark.parametrize("metric", ["IP", "L2"])
def test_nearest_assignment_scans_and_finds_what_a_faiss_index_does(metric: str, as_vectors: Callable):
    rng = np.random.default_rng(5)
    base, query, centers = (rng.standard_normal((n, 8)).astype(np.float32) for n in (500, 70, 16))
    if metric == "IP":
        for rows in (base, query, centers):
            faiss.normalize_L2(rows)
    flat, quantizer = ((faiss.IndexFlatIP if metric == "IP" else faiss.IndexFlatL2)(8) for _ in range(2))
    flat.add(base)
    quantizer.add(centers)
    gt = flat.search(query, 10)[1]
    sides = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    index = faiss.IndexIVFFlat(quantizer, 8, 16, sides)
    index.train(base)  # the quantizer is filled, so this only marks it as trained
    index.add(base)
    assert index.invlists is not None
    data = EvaluationSet("case", Path("gt.npy"), as_vectors(base), as_vectors(query), gt)
    router = centers_router("centers", centers, metric, 1e-9, 12.0)
    setting = RouterSetting(router, ROUTERS["centers"], (0.0,), None, None)
    (found,) = evaluate_router(setting, data, plain_space(8, metric), 10, tuple(range(1, 17)), 1024, silent())
    lists = [index.invlists.list_size(b) for b in range(16)]
    for nprobe in range(1, 17):
        index.nprobe = nprobe
        hits = [len(set(a) & set(b)) for a, b in zip(index.search(query, 10)[1].tolist(), gt.tolist(), strict=True)]
        probed = quantizer.search(query, nprobe)[1]
        assert found.recall[nprobe - 1] == pytest.approx(sum(hits) / gt.size)
        assert found.scanned[nprobe - 1] == pytest.approx(np.take(lists, probed).sum() / len(query) / 500)


def test_held_out_rows_fit_in_a_quarter_of_a_gigabyte():
    assert n_threshold_rows(100, 16) == 100
    assert n_threshold_rows(20_000, 16_384) * 16_384 * 4 <= 256 << 20
    assert n_threshold_rows(20_000, 1 << 30) == 1
