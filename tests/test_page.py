"""report.html and the page that compares runs: what they say, and that they load nothing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context

from ivfast.evaluate.page.pages import compare_pages, write_page
from ivfast.evaluate.page.record import read_record
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_json
from run_dcnet import main
from tests.finished import evaluation, vectors_facts, write_folder
from tests.runs import flags, make_data

EVIL = "a<zz>&amp;\"'$$x$ \udcff"
FIGURES = {
    "recall-fixed", "recall-adaptive", "sizes", "loss", "held-out", "nprobe", "predicted-recall", "predicted-scanned",
    "seconds", "memory",
}  # fmt: skip
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Parsed(HTMLParser):
    """Which elements there are; fails where one is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is read, with single blanks."""
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> set[str | None]:
        """Ids of the pictures."""
        return {attrs.get("id") for tag, attrs in self.tags if tag == "figure"}


def read(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def outside_loads(html: str) -> list[str]:
    """Whatever a browser would fetch."""
    parsed = Parsed(html)
    fetched = [
        value
        for tag, attrs in parsed.tags
        for name, value in attrs.items()
        if value and name in ("src", "href", "data", "srcset", "poster", "action") and not value.startswith("#")
    ]
    fetched += [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe", "img", "object", "embed")]
    return fetched + re.findall(r"url\((?!#)[^)]*\)|@import[^;]*", html)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_folder(tmp_path_factory.mktemp("finished"))
    write_page(found)
    return found


@pytest.fixture(scope="module")
def parsed(folder: Path) -> Parsed:
    return read(folder / "report.html")


def test_page_has_every_figure_once_and_ids_of_its_own(parsed: Parsed) -> None:
    assert parsed.figures == FIGURES
    assert len(parsed.ids) == len(set(parsed.ids))


def test_page_loads_nothing_and_is_small(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert outside_loads(html) == []
    assert "http" not in html
    assert len(html) < 500_000
    assert outside_loads('<img src="x.png">') == ["x.png", "img"]  # the test would see it


def test_every_reference_within_a_figure_is_there(folder: Path, parsed: Parsed) -> None:
    html = (folder / "report.html").read_text()
    wanted = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert len(wanted) > 10
    assert {a or b for a, b in wanted} - set(parsed.ids) == set()


def test_every_colour_is_one_of_the_page_s(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    style, body = html.split("</style>", 1)
    assert re.findall(r"(?:fill|stroke): #\w+", body) == []
    used = set(re.findall(r"var\(--(\w+)\)", body))
    assert used >= {"ink", "kmeans", "centers", "net"}
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name in used:
        assert f"--{name}: #" in light
        assert f"--{name}: #" in dark


def test_recall_is_named_by_its_k_with_its_error(tmp_path: Path) -> None:
    folder, record = write_folder(tmp_path / "run"), evaluation()
    for one in record["results"]:
        one |= {"recall_k": 7, "recall_error": [0.04, 0.02, 0.0123, 0.01], "recall_without_ties": []}
    save_json(folder / "evaluation.json", record)
    html = write_page(folder).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Recall is recall@7: the share found of the 7 nearest that gt names" in html
    assert "its standard error near 90 % is 0.0123" in html  # 0.93 is nearer than 0.85
    assert "90 % recall@7" in html
    assert "standard error of recall@7 near 90 %" in html
    for one in record["results"]:
        one["recall_error"] = [None] * 4
    save_json(folder / "evaluation.json", record)
    html = write_page(folder).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "its standard error near 90 % is unknown" in html


def test_verdict_is_three_sentences_with_the_figures_of_the_evaluation(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    verdict = Parsed(html[html.index("<div class='verdict'>") : html.index("</div>")] + "</div>")
    said = [" ".join(word.split()) for word in verdict.words if word.strip()]
    rows = [r for r in json.loads((folder / "evaluation.json").read_text())["results"] if r["probing"] == "fixed"]
    at = {(r["router"], r["rule"], r["percent"]): r["scanned_at"]["0.90"] for r in rows}
    kmeans, centers = at["kmeans", "ratio", 0.0], at["centers", "benefit", 0.8]
    assert len(said) == 3
    assert said[0].startswith("Use ivfast.npy")
    assert (
        f"{100 * centers:.2f} % of base, {100 * (1 - centers / kmeans):.0f} % less than the {100 * kmeans:.2f} %"
        in said[0]
    )
    assert "0.8 copies a vector, 1,800 entries for 1,000 vectors, so the lists take 80 % more memory" in said[1]
    assert f"nearest center, as any engine does, it scans {100 * at['centers', 'ratio', 0.0]:.2f} %" in said[1]
    assert f"nprobe 2.5 gives 90 % recall and scans {90 * centers:.2f} %" in said[2]
    assert f"reached 91.3 % and scanned {102 * centers:.2f} %" in said[2]


def test_the_page_speaks_of_the_recall_that_was_trained_for(tmp_path: Path) -> None:
    folder, record = write_folder(tmp_path / "run"), evaluation()
    record["settings"]["recall"] = 0.95
    for one in record["results"]:
        one["predicted"] = {level.replace("0.90", "0.95"): told for level, told in one["predicted"].items()}
    save_json(folder / "evaluation.json", record)
    rows = [r for r in record["results"] if r["probing"] == "fixed"]
    at = {(r["router"], r["rule"], r["percent"]): r["scanned_at"]["0.95"] for r in rows}
    kmeans, centers = at["kmeans", "ratio", 0.0], min(at["centers", "benefit", percent] for percent in (0.0, 0.8))
    said = " ".join(read(write_page(folder)).text.split())
    assert f"for 95 % recall a search scans {100 * centers:.2f} % of base" in said
    assert f"than the {100 * kmeans:.2f} % with k-means" in said
    assert "gives 95 % recall" in said
    assert "Vectors scanned for 95 % recall on held-out" in said
    assert "for 90 % recall" not in said
    beside = " ".join(read(compare_pages([folder, folder])).text.split())
    assert "Shares of base scanned for 95 % recall" in beside
    assert "at its best number of copies for 95 % recall" in beside
    assert "that each run was trained for" not in beside
    beside = " ".join(read(compare_pages([folder, write_folder(tmp_path / "usual")])).text.split())
    assert "Shares of base scanned for 90 % recall" in beside
    assert "The sentences above speak of the recall that each run was trained for." in beside


@pytest.mark.parametrize(("found", "unlike"), [(0.845, True), (0.89, False)])
def test_what_vectors_of_base_foretell_stands_beside_what_learn_does(
    found: float, unlike: bool, tmp_path: Path
) -> None:
    record = evaluation()
    foretold = {"0.90": {"nprobe": 6.5, "scanned": 0.061, "reached": 0.907, "took": 0.0625}}
    for one in record["results"]:
        if one["predicted"]:
            one["by_base"] = {
                "queries": 1000,
                "found": {"0.90": found},
                "error": {"0.90": 0.006},
                "predicted": foretold,
            }
    save_json(tmp_path / "evaluation.json", record)
    text = read(write_page(tmp_path)).text
    assert (
        f"it would be nprobe 2.5, where 1,000 vectors of base that stood for queries found {100 * found:.1f} %" in text
    )
    assert ("base is not like learn" in text) == unlike
    assert "nprobe 6.5 gives 90 % recall and scans 6.10 %" in text
    assert "reached 90.7 % and scanned 6.25 %" in text


@pytest.mark.parametrize(("centers", "is_kmeans", "says"), [
    (0.03, False, "Use ivfast.npy"), (0.0601, False, "It makes no difference"), (0.07, False, "Keep k-means"),
    (0.03, True, "ivfast.npy is k-means"),
])  # fmt: skip
def test_first_sentence_follows_the_shares(centers: float, is_kmeans: bool, says: str, tmp_path: Path) -> None:
    record = evaluation(centers=centers) | {"is_kmeans": is_kmeans}
    save_json(tmp_path / "evaluation.json", record)
    assert read(write_page(tmp_path)).text.startswith(f"tiny: report tiny: report {says}")


def test_every_share_size_setting_and_hash_is_there(folder: Path, parsed: Parsed) -> None:
    record = json.loads((folder / "evaluation.json").read_text())
    for r in record["results"]:
        for share in r["scanned_at"].values():
            assert share is None or f"{100 * share:.2f} %" in parsed.text
    assert "k-means, no copies 1.25 31 163 171 1 1,000" in parsed.text
    assert "trained centers, 0.8 copies 2.05 31 163 171 1 1,800" in parsed.text
    for one in record["data"].values():
        assert one["hash"] in parsed.text
    assert "numpy 2.4.6" in parsed.text
    assert "percents 0.0 0.8" in parsed.text
    assert "network epoch 2 0.7" in parsed.text


def test_stages_are_added_up_and_the_record_of_a_killed_run_is_left_out(folder: Path, parsed: Parsed) -> None:
    stages = {stage.name: stage for stage in read_record(folder).stages}
    assert (stages["training"].times, stages["training"].seconds, stages["training"].peak_gb) == (3, 6.75, 1.0)
    assert "training (3 times)" in parsed.text
    assert "19 s in all" in parsed.text  # 12.5 + 3 x 2.25


def test_losses_stand_at_the_part_of_the_epoch_that_is_done(folder: Path) -> None:
    losses = read_record(folder).losses
    assert losses["centers"] == [(0.5, 2.0), (1.0, 2.0), (1.5, 1.0), (2.0, 1.0), (2.5, 2 / 3), (3.0, 2 / 3)]
    assert set(losses) == {"centers", "net"}


def test_a_run_that_begins_anew_or_goes_back_has_forgotten_what_came_after(folder: Path, tmp_path: Path) -> None:
    text = (folder / "metrics.jsonl").read_text()
    losses = {"loss_centers": 7.0, "loss_net": 8.0}
    again = [
        {"title": "epoch 2", "step": 4, **losses},
        {"title": "epoch 2", "step": 16, **losses},
        {"epoch": 2, "k": 9.0, "nprobe": 5.0, "held_out": {"centers": 0.5}},
    ]
    shutil.copy(folder / "evaluation.json", tmp_path)
    (tmp_path / "metrics.jsonl").write_text(text + "\n" + "\n".join(map(json.dumps, again)))
    record = read_record(tmp_path)
    assert [(epoch.number, epoch.nprobe) for epoch in record.epochs] == [(1, 3.0), (2, 5.0)]
    assert record.losses["centers"] == [(0.5, 2.0), (1.0, 2.0), (1.25, 7.0), (2.0, 7.0)]


def test_a_user_s_own_style_spoils_no_page(folder: Path, tmp_path: Path) -> None:
    """TeX is not installed on most machines."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with rc_context({"text.usetex": True, "svg.fonttype": "path", "font.size": 30}):
        assert write_page(tmp_path).read_text() == (folder / "report.html").read_text()


def test_no_results_end_in_no_error(tmp_path: Path) -> None:
    save_json(tmp_path / "evaluation.json", evaluation() | {"results": []})
    assert read(write_page(tmp_path)).figures == set()


def test_faults_of_the_data_are_named(parsed: Parsed) -> None:
    for said in (
        "base: 7 of 1,000 rows are twins of others (0.70 %)", "base: 1 of 24 columns never change (the first: 5)",
        "base: column 3 has 90.00 % of all variance", "(the farthest: 77, 9)", "query: 3 of them are rows of base",
        "queries of another kind", "gt: 4 of 200 queries have no answer",
        "gt: for 60 of 96 queries another row is nearer",
        "row 8 of base is an answer of 61 of 200 queries", "gt: stale & <old>", "97.5",
    ):  # fmt: skip
        assert said in parsed.text
    assert "epoch 1/3" not in parsed.text


@pytest.mark.parametrize(("distance", "says"), [
    (0.91, "look query: the nearest vector lies at 0.91 in the median, of rows of base at 0.4: queries of another kind "
           "than what is stored; a log of queries trained."),
    (0.9, "warning query: the nearest vector lies at 0.9 in the median, of rows of base at 0.4: queries of another"),
    (0.5, "fine query: the nearest vector lies at 0.5 in the median, of rows of base at 0.4."),
    (0.2, "look query: the nearest vector lies at 0.2 in the median, of rows of base at 0.4: they may come from rows"),
])  # fmt: skip
def test_queries_are_held_against_rows_of_base(distance: float, says: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    data = json.loads((folder / "data.json").read_text())
    share = {"farther_than_base": 0.8 if distance > 0.5 else 0.6}
    data["queries_beside_base"] |= {"nearest_of_queries": distance} | share
    data["logged"] = distance == 0.91
    save_json(tmp_path / "data.json", data)
    assert says in read(write_page(tmp_path)).text


def test_no_name_is_taken_for_markup_or_a_formula(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a<zz>&$$", EVIL)
    other = write_folder(tmp_path / "b&c")
    shown = EVIL.encode("utf-8", "backslashreplace").decode()
    page, comparison = write_page(folder), compare_pages([folder, other])
    assert read(page).text.startswith(f"{shown}: report {shown}: report Use ivfast.npy")
    for path in (page, comparison):
        assert shown in read(path).text
        assert "zz" not in {tag for tag, _ in read(path).tags}
        assert outside_loads(path.read_text()) == []
    assert "a<zz>&$$" in read(comparison).text


def test_an_evaluation_alone_is_enough(tmp_path: Path) -> None:
    """As of older versions: no sizes, no network, no record of training."""
    record = evaluation()
    for one in record["results"]:
        del one["sizes"]
    del record["is_kmeans"]
    record["verdict"] = "ivfast.npy is k-means, since no gain was sure on held-out vectors: ..."
    save_json(tmp_path / "evaluation.json", record)
    parsed = read(write_page(tmp_path))
    assert parsed.figures == {"recall-fixed", "recall-adaptive", "predicted-recall", "predicted-scanned"}
    assert "ivfast.npy is k-means" in parsed.text


def test_a_log_without_end_is_not_read(tmp_path: Path) -> None:
    save_json(tmp_path / "evaluation.json", evaluation())
    for name in ("train.log", "metrics.jsonl", "data.json"):
        (tmp_path / name).symlink_to("/dev/zero")
    assert "loss" not in read(write_page(tmp_path)).figures


def test_data_of_another_set_is_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    data = json.loads((folder / "data.json").read_text())
    save_json(folder / "data.json", data | {"base": vectors_facts(999)})
    assert "twins" not in read(write_page(folder)).text


@pytest.mark.parametrize("content", ["{half", "[]", '{"schema": 2}', '{"schema": 1, "results": [{}]}'])
def test_what_is_no_evaluation_ends_with_one_line(content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation"):
        write_page(tmp_path)
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluation\.json .*; evaluate again"):
        write_page(tmp_path)


def test_runs_are_compared_by_letter_with_what_differs(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / "x" / "out"), write_folder(tmp_path / "y" / "out", centers=0.05)]
    third = evaluation(centers=0.04)
    third["settings"]["nlist"], third["trained_with"]["nlist"] = 64, 64
    third["data"]["gt"]["hash"] = "other"
    folders.append(write_folder(tmp_path / "z" / "out"))
    save_json(folders[2] / "evaluation.json", third)
    path = compare_pages(folders)
    parsed = read(path)
    assert path == folders[0] / "comparison.html"
    assert parsed.figures == {"recall-centers", "recall-net"}
    assert "A x/out: Use ivfast.npy" in parsed.text
    # k-means and centers at 0.8 copies: 0.05 (1.2 - 0.2); 1 - 0.05 / 0.06; stages 12.5 + 6.75 s
    assert "B tiny 6.00 % 5.00 % 17 % 4.50 % 2.05 19 1.00" in parsed.text
    assert "C: other base, query or gt than A" in parsed.text
    settings = parsed.text.split("Settings that differ")[-1]
    assert "setting A B C nlist 32 32 64" in settings
    assert "percents" not in settings


def test_one_run_is_not_compared(folder: Path) -> None:
    with pytest.raises(UserError, match="1 folder to compare"):
        compare_pages([folder])


@pytest.mark.parametrize("n", [7, 30])
def test_many_runs_fit_on_one_page(n: int, tmp_path: Path) -> None:
    record = evaluation()
    folders = [tmp_path / str(i) for i in range(n)]
    for one in folders:
        save_json(one / "evaluation.json", record)
    assert ("DD, 0.8 copies" in read(compare_pages(folders, tmp_path / "page.html")).text) is (n == 30)


@pytest.mark.whole_run
def test_a_run_leaves_its_page_and_goes_on_where_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = make_data(tmp_path / "data", n_identities=60, n_query=40), tmp_path / "out"
    assert main(flags(data, out, "--epochs", "2")) == 0
    parsed = read(out / "report.html")
    assert parsed.figures == FIGURES
    record = json.loads((out / "evaluation.json").read_text())
    for one in record["results"]:
        assert one["sizes"]["p1"] <= one["sizes"]["p50"] <= one["sizes"]["p99"] <= one["largest"]
        assert one["scanned_at"]["0.90"] is None or f"{100 * one['scanned_at']['0.90']:.2f} %" in parsed.text
    base = np.load(data / "faces" / "base.npy")
    assert json.loads((out / "data.json").read_text())["base"]["rows"] == len(base)
    assert record["data"]["base"]["hash"] in parsed.text

    def fail(*_: object) -> None:
        raise ValueError("no\nfont")

    monkeypatch.setattr("ivfast.evaluate.page.write.criticise", fail)
    again = ["--ai_center", str(out / "ivfast.npy"), "--eval", "True", "--save_path", str(tmp_path / "again")]
    capsys.readouterr()
    assert main([*flags(data, out)[:2], *again, "--data_name", "faces", "--percents", "0", "--gpu", "-1"]) == 0
    assert "report.html is not written anew (ValueError: no font)" in capsys.readouterr().err
    assert not (tmp_path / "again" / "report.html").exists()
