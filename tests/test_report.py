"""What an evaluation leaves: fields and columns as documented, and a sentence that follows the shares."""

import csv
import hashlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console

from ivfast.data.cleaning import scan
from ivfast.data.vectors import EvaluationSet, open_evaluation_set
from ivfast.evaluate.folder import Found
from ivfast.evaluate.picture import draw
from ivfast.evaluate.report import answered, as_csv, as_json, fitting, notes_on_recall, table, verdict, warnings, write
from ivfast.evaluate.result import Fulfilled, Result, best
from ivfast.runtime.config import Config
from ivfast.runtime.progress import Progress, silent

FIELDS = [
    "router", "rule", "percent", "probing", "nprobe", "recall", "scanned", "scanned_p99", "scanned_at",
    "imbalance", "largest", "empty", "entries", "predicted", "sizes", "recall_k", "recall_error", "recall_without_ties",
    "by_base",
]  # fmt: skip
COLUMNS = "router,rule,percent,probing,nprobe,recall,scanned,recall_k,recall_error,recall_without_ties"


def result(
    router: str, rule: str, percent: float, share: float, probing: str = "fixed", imbalance: float = 1.2
) -> Result:
    levels = {"0.80": share / 2, "0.90": share, "0.95": share * 1.5, "0.99": math.nan}
    curve = np.array([0.5, 0.9, 1.0]), np.array([share / 3, share, 1.0])
    return Result(
        router=router, rule=rule, percent=percent, probing=probing, nprobe=[1, 2, 16], recall=[0.5, 0.9, 1.0],
        scanned=[share / 3, share, 1.0], scanned_p99=[0.1, 0.3, 1.1], scanned_at=levels, imbalance=imbalance,
        largest=70, empty=2, entries=540, curve=curve,
        predicted={"0.90": Fulfilled(2.5, share, 0.91, share * 1.1)} if percent else {},
        sizes={"p1": 3.0, "p25": 20.0, "p50": 30.0, "p75": 40.0, "p99": 65.0}, recall_error=[0.02, 0.005, 0.0],
        recall_without_ties=[],
    )  # fmt: skip


def as_shown(width: int, results: list[Result]) -> str:
    """The table of an evaluation in a terminal of so many columns."""
    console = Console(file=io.StringIO(), width=width, soft_wrap=True)
    console.print(fitting(results, console))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("width", "rest"), [(80, False), (120, True), (200, True)])
def test_no_cell_of_the_table_is_cut(width: int, rest: bool) -> None:
    """An ordinary terminal has 80 columns, and what goes to a file 120."""
    results = [
        r._replace(scanned_at={"0.80": 0.01, "0.90": 0.123456, "0.95": 0.5, "0.99": 1.2345}, entries=1_079_820)
        for r in all_results()
    ]
    told = as_shown(width, results)
    assert "\N{HORIZONTAL ELLIPSIS}" not in told
    rows = [line for line in told.splitlines() if "%" in line]
    assert len(rows) == len(results)
    assert max(map(len, told.splitlines())) <= width
    for cell in ("membership", "adaptive", "12.35 %", "123.45 %"):
        assert cell in told
    for cell in ("imbalance", "1,079,820", "error", "empty"):
        assert (cell in told) == rest


def all_results(centers: float = 0.04) -> list[Result]:
    results = [result("kmeans", "ratio", percent, 0.06 + 0.01 * percent) for percent in (0.0, 0.8)]
    for rule, worse in (("ratio", 1.5), ("membership", 1.2), ("benefit", 1.0)):
        for probing, factor in (("fixed", 1.0), ("adaptive", 0.9)):
            results.append(result("centers", rule, 0.8, centers * worse * factor, probing))
    return [*results, result("net", "benefit", 0.8, 0.03)]


def found(model: Any = None, *, is_kmeans: bool = False) -> Found:
    """What lies in the folder that was evaluated. model: anything with the `about` of a trained one"""
    centers = np.eye(8, dtype=np.float32)
    return Found(Path("ivfast.npy"), centers, centers if is_kmeans else None, model, "IP")


@pytest.fixture
def opened(tiny_set) -> EvaluationSet:
    data = open_evaluation_set(tiny_set.data_path, "tiny", 8)
    return data._replace(base=scan(data.base, "IP", silent()), query=scan(data.query, "IP", silent()))


@pytest.fixture
def config(tmp_path: Path, tiny_set) -> Config:
    return Config(tmp_path / "save", tiny_set.data_path, "tiny", (0.0, 0.8))


def test_json_has_the_documented_fields(config: Config, opened: EvaluationSet):
    results = all_results()
    trained = SimpleNamespace(about={"settings": {"seed": 4}, "chosen_epochs": {"centers": 2}})
    write(config, opened, results, found(trained), silent())
    record = json.loads((config.save_path / "evaluation.json").read_text())
    assert {"schema", "settings", "data", "versions", "results"} <= record.keys()
    assert record["data_name"] == "tiny"
    assert record["settings"]["percents"] == [0.0, 0.8]
    assert record["trained_with"] == {"seed": 4}
    assert {"ivfast", "python", "numpy", "faiss-cpu"} <= record["versions"].keys()
    assert len(record["results"]) == len(results)
    for stored, expected in zip(record["results"], results, strict=True):
        assert list(stored) == FIELDS
        assert stored["scanned_at"] == expected.scanned_at | {"0.99": None}  # NaN is no JSON
        assert all(
            stored[name] == getattr(expected, name) for name in FIELDS if name not in ("scanned_at", "predicted")
        )
        assert stored["predicted"] == {level: one._asdict() for level, one in expected.predicted.items()}
    assert record["verdict"] == verdict(results, is_kmeans=False)


def test_json_tells_data_sets_apart(config: Config, opened: EvaluationSet, tiny_set):
    write(config, opened, all_results(), found(), silent())
    data = json.loads((config.save_path / "evaluation.json").read_text())["data"]
    assert {name: entry["shape"] for name, entry in data.items()} == {
        "base": [300, 8], "query": [60, 8], "gt": [60, 12],
    }  # fmt: skip
    gt = hashlib.sha256((tiny_set.data_path / "tiny" / "gt.npy").read_bytes()).hexdigest()
    assert gt.startswith(data["gt"]["hash"])
    assert data["base"]["hash"] == opened.base.digest != data["query"]["hash"]


def test_csv_has_one_row_a_point_and_the_documented_columns(config: Config, opened: EvaluationSet):
    results = all_results()
    write(config, opened, results, found(), silent())
    with (config.save_path / "evaluation.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS.split(",")
    expected = [
        [r.router, r.rule, r.percent, r.probing, *point]
        for r in results
        for point in zip(r.nprobe, r.recall, r.scanned, [10] * 3, r.recall_error, strict=True)
    ]
    assert [[*row[:2], float(row[2]), row[3], *map(float, row[4:9])] for row in rows] == expected
    assert {row[9] for row in rows} == {""}


def test_picture_is_a_png(config: Config, opened: EvaluationSet):
    write(config, opened, all_results(), found(), silent())
    assert (config.save_path / "recall_scanned.png").read_bytes().startswith(b"\x89PNG\r\n")
    names = {entry.name for entry in config.save_path.iterdir()}
    assert names == {"evaluation.json", "evaluation.csv", "recall_scanned.png"}


def test_picture_has_a_line_for_the_best_of_each_router_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw(tmp_path / "picture.png", "tiny", all_results())
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == [
        "k-means, ratio 0, fixed", "trained centers, benefit 0.8, fixed", "trained centers, benefit 0.8, adaptive",
        "network, benefit 0.8, fixed",
    ]  # fmt: skip
    assert len({line.get_color() for line in lines.values()}) == 3
    points = lines["trained centers, benefit 0.8, fixed"].get_xydata()
    np.testing.assert_allclose(np.asarray(points), [[0.04 / 3, 0.5], [0.04, 0.9], [1.0, 1.0]])


@pytest.mark.parametrize("name", ["$$", "a $x", "<&>", "\udcff"])
def test_no_name_spoils_the_picture(name: str, tmp_path: Path):
    draw(tmp_path / "picture.png", name, all_results())
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_style_that_wants_tex_spoils_no_picture(tmp_path: Path):
    with rc_context({"text.usetex": True}):
        draw(tmp_path / "picture.png", "a_b", all_results())
    assert (tmp_path / "picture.png").is_file()


def test_a_picture_that_fails_costs_nothing_but_a_line(
    config: Config, opened: EvaluationSet, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise ValueError("no\nfont")

    monkeypatch.setattr("ivfast.evaluate.picture.draw", fail)
    write(config, opened, all_results(), found(), Progress(config.save_path, silent().console))
    log = (config.save_path / "train.log").read_text()
    assert f"warning: {config.save_path / 'recall_scanned.png'} is not written anew (ValueError: no font)" in log
    assert {path.name for path in config.save_path.glob("evaluation.*")} == {"evaluation.csv", "evaluation.json"}


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes a second, and these tests look at names alone."""
    monkeypatch.setattr("ivfast.evaluate.picture.draw", lambda beside, *_: beside.write_bytes(b""))


@pytest.mark.usefixtures("no_picture")
def test_evaluation_of_another_set_is_kept_under_its_name(config: Config, opened: EvaluationSet):
    folder = config.save_path
    write(config, opened._replace(name="old/set"), all_results(0.01), found(), silent())
    old = {suffix: (folder / f"evaluation.{suffix}").read_bytes() for suffix in ("json", "csv")}
    write(replace(config, data_name="tiny"), opened, all_results(), found(), silent())
    (kept,) = (path for path in folder.glob("evaluation.*.json"))
    assert kept.stem.startswith("evaluation.old")
    assert kept.read_bytes() == old["json"]
    assert kept.with_suffix(".csv").read_bytes() == old["csv"]
    assert json.loads((folder / "evaluation.json").read_text())["data_name"] == "tiny"


@pytest.mark.usefixtures("no_picture")
def test_evaluation_of_the_same_set_is_replaced(config: Config, opened: EvaluationSet):
    for centers in (0.01, 0.02):
        write(config, opened, all_results(centers), found(), silent())
    assert sorted(path.name for path in config.save_path.glob("evaluation*")) == ["evaluation.csv", "evaluation.json"]
    record = json.loads((config.save_path / "evaluation.json").read_text())
    assert record["results"] == [as_json(one) for one in all_results(0.02)]


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("content", ["{half", "{}", "[]", '{"data_name": 5}', "[" * 100_000])
def test_unreadable_earlier_evaluation_is_replaced(content: str, config: Config, opened: EvaluationSet):
    config.save_path.mkdir()
    (config.save_path / "evaluation.json").write_text(content)
    write(config, opened, all_results(), found(), silent())
    assert json.loads((config.save_path / "evaluation.json").read_text())["data_name"] == "tiny"


@pytest.mark.parametrize(("centers", "says"), [
    (0.04, "Use ivfast.npy"),
    (0.0596, "Use ivfast.npy"),  # 0.7 % less than 0.06
    (0.0598, "No difference"),  # 0.3 %
    (0.0602, "No difference"),
    (0.0604, "Keep k-means"),
    (0.09, "Keep k-means"),
])  # fmt: skip
def test_sentence_follows_the_shares_under_the_default_rules(centers: float, says: str):
    """k-means by ratio scans 6 %; centers by benefit. Adaptive probing and other rules do not count."""
    text = verdict(all_results(centers), is_kmeans=False)
    assert text.startswith(says)
    assert f"k-means 6.00 % (percent 0), trained centers {100 * centers:.2f} % (percent 0.8 by benefit)" in text


def test_gain_in_the_sentence_is_that_over_kmeans():
    assert "33 % less than with k-means" in verdict(all_results(0.04), is_kmeans=False)  # 1 - 0.04 / 0.06


def test_without_kmeans_the_sentence_gives_the_shares_alone():
    text = verdict([r for r in all_results() if r.router != "kmeans"], is_kmeans=False)
    shares = "trained centers 4.00 % (percent 0.8 by benefit), network 3.00 % (percent 0.8 by benefit)"
    assert text == f"For 90 % recall a search scans: {shares}."


def test_sentence_tells_what_the_nearest_center_alone_is_worth():
    results = [*all_results(), result("centers", "ratio", 0.0, 0.055)]
    assert verdict(results, is_kmeans=False).endswith(
        "the trained centers by the nearest center alone 5.50 %, k-means so 6.00 %."
    )


def test_sentence_says_where_the_centers_are_kmeans():
    """However little benefit scans: the gain is not training's."""
    text = verdict(all_results(0.02), is_kmeans=True)
    assert text.startswith("ivfast.npy is k-means")
    assert "k-means 6.00 % (percent 0), the same centers 2.00 % (percent 0.8 by benefit)" in text


def test_best_is_the_cheapest_percent_of_the_default_rule():
    results = [result("centers", "benefit", p, s) for p, s in ((0.0, 0.05), (0.8, 0.03), (1.5, 0.04))]
    results += [result("centers", "ratio", 1.5, 0.01), result("centers", "benefit", 1.5, 0.01, "adaptive")]
    fixed, adaptive = best(results, "centers"), best(results, "centers", "adaptive")
    assert fixed is results[1]
    assert adaptive is results[4]
    assert best(results, "net") is None
    assert best(results[3:4], "centers") is results[3]  # without learn ratio is all there is


def test_recall_never_reached_is_never_best():
    never = result("centers", "benefit", 0.0, math.nan)
    assert best([never], "centers") is None
    assert best([never, result("centers", "benefit", 0.8, 0.9)], "centers") is not None


def test_the_picture_shows_what_is_best_at_the_recall_that_was_trained_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    labels: list[str] = []

    def keep(self: Figure, *_: object, **__: object) -> None:
        (axes,) = self.axes
        labels.extend(str(one) for one in axes.get_legend_handles_labels()[1])

    monkeypatch.setattr(Figure, "savefig", keep)
    once, copied = result("centers", "benefit", 0.0, 0.1), result("centers", "benefit", 0.8, 0.1)
    once.scanned_at["0.80"], copied.scanned_at["0.95"] = 0.01, 0.1
    for recall, percent in ((0.8, "0"), (0.95, "0.8")):
        draw(tmp_path / "picture.png", "faces", [once, copied], recall)
        assert labels.pop().endswith(f"benefit {percent}, fixed")


def test_uneven_buckets_are_told_once_a_router():
    results = [
        result("centers", rule, 0.0, 0.1, probing, 2.5) for rule in ("ratio",) for probing in ("fixed", "adaptive")
    ]
    results += [result("kmeans", "ratio", 0.0, 0.1, imbalance=9.0), result("net", "benefit", 0.0, 0.1, imbalance=1.9)]
    (warned,) = warnings(results)
    assert "centers" in warned
    assert "2.5" in warned


def test_table_has_one_row_a_result():
    assert table(all_results()).row_count == len(all_results())


def test_csv_of_no_results_is_its_header():
    assert as_csv([]) == f"{COLUMNS}\n"


def test_error_of_recall_stands_beside_it_and_is_told_where_it_is_large():
    results = all_results()
    (said,) = notes_on_recall(results, 100)
    assert said == (
        "recall@10 is that of 100 queries: its standard error is up to 0.020; about 400 queries would bring it to 0.01"
    )
    sure = [r._replace(recall_error=[0.01, 0.005, 0.0]) for r in results]
    assert notes_on_recall(sure, 100) == []
    assert [column.header for column in table(results).columns][8] == "error"
    assert set(table(results).columns[8].cells) == {"0.0050"}  # at recall 0.9
    assert "recall@10" in str(table(results).title)


def test_error_of_one_query_is_unknown_everywhere():
    (one,) = [result("centers", "benefit", 0.8, 0.1)._replace(recall_error=[math.nan] * 3)]
    assert as_json(one)["recall_error"] == [None] * 3
    assert [row.split(",")[8] for row in as_csv([one]).splitlines()[1:]] == [""] * 3
    assert list(table([one]).columns[8].cells) == ["unknown"]
    (said,) = notes_on_recall([one], 1)
    assert "1 query: how sure it is cannot be told" in said


def test_both_recalls_are_told_where_ties_matter():
    tied = result("centers", "benefit", 0.8, 0.1)._replace(recall_error=[0.0] * 3)
    alike = tied._replace(recall_without_ties=[0.4995, 0.8995, 1.0])
    assert notes_on_recall([tied, alike], 500) == []
    apart = alike._replace(recall_without_ties=[0.499, 0.88, 1.0])
    (said,) = notes_on_recall([alike, apart], 500)
    assert "recall@10 is 0.9000 with them and 0.8800 without (centers, benefit, percent 0.8, fixed, nprobe 2" in said
    assert as_json(apart)["recall_without_ties"] == [0.499, 0.88, 1.0]
    assert [row.split(",")[9] for row in as_csv([apart]).splitlines()[1:]] == ["0.499", "0.88", "1.0"]


def test_queries_without_an_answer_that_counts_are_not_counted():
    assert answered(np.array([[-1] * 10 + [3], [5] + [-1] * 10, [1] * 11])) == 2


def test_report_says_where_the_centers_are_kmeans(config: Config, opened: EvaluationSet):
    write(config, opened, all_results(), found(is_kmeans=True), silent())
    verdict_told = json.loads((config.save_path / "evaluation.json").read_text())["verdict"]
    assert verdict_told == verdict(all_results(), is_kmeans=True) != verdict(all_results(), is_kmeans=False)
