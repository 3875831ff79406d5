"""report.html and the page that compares runs: what they say, that they load nothing, and how a browser shows them."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image

from ivfast import commands
from ivfast.evaluate.page.pages import compare_pages, write_page
from ivfast.evaluate.page.record import read_record
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_json, save_text
from run_dcnet import main
from tests.runs import flags, make_data

EVIL = "a<zz>&amp;\"'$$x$ \udcff"
FIGURES = {
    "recall-fixed", "recall-adaptive", "sizes", "loss", "held-out", "nprobe", "predicted-recall", "predicted-scanned",
    "seconds", "memory",
}  # fmt: skip
VOID = {"meta", "link", "br", "hr", "img", "input"}
CHROMIUM = shutil.which("chromium")
SMALLEST_TEXT = 8  # pixels: 7.2 is what a phone shows of 9 points where a picture is made for a desktop
DARK = "--blink-settings=preferredColorScheme=0"  # as if the system asked for it
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


def result(router: str, rule: str, percent: float, probing: str, shares: tuple[float, ...]) -> dict[str, Any]:
    """A record of evaluation.json. shares: scanned at 80, 90, 95 and 99 % recall"""
    predicted = {"0.90": {"nprobe": 2.5, "scanned": 0.9 * shares[1], "reached": 0.913, "took": 1.02 * shares[1]}}
    return {
        "router": router, "rule": rule, "percent": percent, "probing": probing, "nprobe": [1, 2, 4, 8],
        "recall": [0.6, 0.85, 0.93, 0.97], "scanned": [shares[0] / 2, *(part * shares[1] for part in (0.9, 1.1, 1.5))],
        "scanned_p99": [0.1, 0.2, 0.4, 0.5],
        "scanned_at": dict(zip(("0.80", "0.90", "0.95", "0.99"), shares, strict=True)),
        "imbalance": 1.25 + percent, "largest": 171, "empty": 1, "entries": int(1000 * (1 + percent)),
        "predicted": predicted if probing == "fixed" else {},
        "sizes": {"p1": 4.0, "p25": 20.0, "p50": 31.0, "p75": 44.0, "p99": 163.0},
    }  # fmt: skip


def evaluation(name: str = "tiny", centers: float = 0.03) -> dict[str, Any]:
    """evaluation.json of k-means at 6 %, trained centers and a network, with and without copies."""
    results = []
    for probing in ("fixed", "adaptive"):
        for percent in (0.0, 0.8):
            results += [
                result("kmeans", "ratio", percent, probing, (0.03, 0.06 + 0.01 * percent, 0.08, 0.2)),
                result("centers", "ratio", percent, probing, (0.02, centers * 1.5, 0.07, 0.2)),
                result("centers", "benefit", percent, probing, (centers / 2, centers * (1.2 - percent / 4), 0.06, 0.1)),
                result("net", "benefit", percent, probing, (centers / 2, centers * (1.1 - percent / 4), 0.05, 0.1)),
            ]
    results[0]["scanned_at"]["0.99"] = None
    shape = {"base": [1000, 24], "query": [200, 24], "gt": [200, 10]}
    return {
        "schema": 1, "data_name": name, "settings": {"nlist": 32, "metric": "IP", "percents": [0.0, 0.8]},
        "trained_with": {"nlist": 32, "epochs": 3, "learn_name": name}, "chosen_epochs": {"centers": 3, "net": 2},
        "chosen_ways": {"centers": 1.0, "net": 0.7}, "versions": {"ivfast": "0.1.0", "numpy": "2.4.6"},
        "data": {which: {"shape": one, "hash": f"{which}{'0123456789abcdef' * 2}"} for which, one in shape.items()},
        "results": results, "is_kmeans": False, "verdict": "Use ivfast.npy: 50 % less than with k-means; ...",
    }  # fmt: skip


def vectors_facts(n: int, **more: Any) -> dict[str, Any]:
    quantiles = dict.fromkeys(("least", "p1", "p50", "p99", "largest"), 1.0)
    return {
        "rows": n, "dim": 24, "dtype": "float32", "dropped": 0, "looked_at": n, "twins": 7, "norms": quantiles,
        "constant_columns": {"count": 1, "first": [5]}, "from_the_middle": quantiles | {"largest": 97.5},
        "widest_column": {"column": 3, "share_of_variance": 0.9}, "far": {"times": 5.0, "count": 2, "first": [77, 9]},
        **more,
    }  # fmt: skip


def write_folder(folder: Path, name: str = "tiny", centers: float = 0.03) -> Path:
    """What a finished run leaves, as far as a page reads it."""
    save_json(folder / "evaluation.json", evaluation(name, centers))
    lines: list[dict[str, Any]] = [{"stage": "k-means", "seconds": 12.5, "peak_gb": 0.4}]
    for epoch in (1, 2, 3):
        for step in (4, 8):
            lines.append(
                {"title": f"epoch {epoch}", "step": step, "k": 9.0, "loss_centers": 2 / epoch, "loss_net": 2.1}
            )
        held_out = {"centers": 1 - 0.1 * epoch, "net": 1 - 0.11 * epoch}
        lines.append({"epoch": epoch, "k": 9.0, "nprobe": 3.0, "slope": 1.0, "weight": 0.3, "held_out": held_out})
        lines.append({"stage": "training", "seconds": 2.25, "peak_gb": 0.7 + epoch / 10})
    save_text(folder / "metrics.jsonl", "\n".join(map(json.dumps, lines)) + '\n{"half": ')
    save_text(
        folder / "train.log", "2026-11-27 14:59:36 warning: gt: stale & <old>\n2026-11-27 14:59:37 epoch 1/3: loss 2\n"
    )
    save_json(folder / "data.json", {
        "schema": 1, "base": vectors_facts(1000), "query": vectors_facts(200, rows_of_base=3),
        "gt": {
            "queries": 200, "width": 10, "looked_at": 200, "answers_a_query": {"least": 10, "mean": 10.0},
            "without_answers": 4, "rows_that_are_answers": 640, "share_of_base": 0.64,
            "most_named": {"row": 8, "times": 61},
        },
        "queries_beside_base": {
            "looked_at": 100, "answered": 96, "nearer_than_first_answer": 60, "nearest_of_queries": 0.9,
            "nearest_of_base": 0.4,
        },
    })  # fmt: skip
    return folder


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


# A window of chromium is at least 500 pixels wide, a frame may be as narrow as a phone. Written beside it: how wide the
# page is, what sticks out, which words of a picture lie on each other, which are too small.
LOOK = """<!DOCTYPE html><iframe srcdoc="PAGE" style="width: WIDTHpx; height: 1600px; border: 0"></iframe><script>
const shown = (e) => [e.tagName, e.id, (e.textContent || "").trim().slice(0, 40)].join(" ");
addEventListener("load", () => {
  const view = frames[0], page = view.document, out = [], over = [], small = [];
  const right = page.documentElement.clientWidth + 1;
  for (const e of page.querySelectorAll("body *"))
    if (!e.closest(".wide, details:not([open])") && e.getBoundingClientRect().right > right) out.push(shown(e));
  for (const svg of page.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width;
    const words = [...svg.querySelectorAll("text")].map(e => [e, e.getBoundingClientRect()]);
    words.forEach(([e, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1) out.push(shown(e));
      if (parseFloat(view.getComputedStyle(e).fontSize) * scale < LEAST) small.push(shown(e));
      for (const [f, b] of words.slice(i + 1))
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1) over.push(shown(e) + " / " + shown(f));
    });
  }
  const said = {width: page.documentElement.scrollWidth, inner: view.innerWidth, out, over, small,
    words: page.querySelectorAll("svg text").length};
  document.body.innerHTML = "<pre id='said'></pre>";
  document.getElementById("said").textContent = JSON.stringify(said);
});
</script>"""


def browse(page: Path, home: Path, width: int, *more: str) -> str:
    """What chromium prints of a page at a width of the window, under a profile of its own."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", f"--user-data-dir={home}", f"--window-size={width},1600",
        *more, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def look(page: Path, home: Path, width: int) -> dict[str, Any]:
    """What LOOK finds out about a page."""
    copy = home.parent / f"look_{page.name}"
    script = LOOK.replace("WIDTH", str(width)).replace("LEAST", str(SMALLEST_TEXT))
    copy.write_text(script.replace("PAGE", escape(page.read_text())))
    (said,) = re.findall(r'<pre id="said">(.*)</pre>', browse(copy, home, max(500, width), "--dump-dom"))
    return json.loads(unescape(said))


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["report", "comparison"])
def test_page_fits_phone_and_desktop(page: str, width: int, folder: Path, tmp_path: Path) -> None:
    path = folder / "report.html"
    if page == "comparison":
        path = compare_pages([folder, write_folder(tmp_path / "other", centers=0.05)], tmp_path / "comparison.html")
    found = look(path, tmp_path / "home", width)
    assert found["inner"] == width
    assert found["width"] <= found["inner"]
    assert found["words"] > 30
    assert found["out"] == found["over"] == found["small"] == []


@in_browser
@pytest.mark.parametrize("times", [0.004, 0.1, 0.4, 16])
def test_shares_of_any_size_have_marks_that_fit(times: float, tmp_path: Path) -> None:
    record = evaluation()
    for one in record["results"]:
        spread = times if one["router"] == "net" else 1
        one["scanned"] = [spread * share for share in one["scanned"]]
        one["scanned_at"] = {level: share and spread * share for level, share in one["scanned_at"].items()}
        for told in one["predicted"].values():
            told["scanned"], told["took"] = spread * told["scanned"], spread * told["took"]
    save_json(tmp_path / "evaluation.json", record)
    found = look(write_page(tmp_path), tmp_path / "home", 390)
    assert found["out"] == found["over"] == []


@in_browser
def test_what_does_not_fit_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    word = '<text x="10" y="50" style="font: 40px serif">word</text>'
    page.write_text(f'<p style="width: 450px">wide</p><svg viewBox="0 0 2000 100" width="300">{2 * word}</svg>')
    found = look(page, tmp_path / "home", 390)
    assert found["width"] > found["inner"] == 390
    assert found["out"] == ["P  wide"]
    assert found["over"] == ["text  word / text  word"]
    assert found["small"] == ["text  word", "text  word"]


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_screenshots_are_drawn_light_and_dark(width: int, folder: Path, tmp_path: Path) -> None:
    grounds = []
    for name, more, centers in (("light", (), 0x0072B2), ("dark", (DARK,), 0x56B4E9)):
        path = tmp_path / f"{name}.png"
        browse(folder / "report.html", tmp_path / "home", width, f"--screenshot={path}", *more)
        with Image.open(path) as image:
            colors = np.asarray(image.convert("RGB")).reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1])
        assert len(colors) == width * 1600
        found, counts = np.unique(colors, return_counts=True)
        grounds.append(int(found[counts.argmax()]))
        assert 0.5 < counts.max() / counts.sum() < 0.99  # mostly ground, but not blank
        assert len(found) > 100
        assert (colors == centers).sum() > 100  # lines of the trained centers
    assert grounds == [0xFFFFFF, 0x14181D]


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

    monkeypatch.setattr(commands, "criticise", fail)
    again = ["--ai_center", str(out / "ivfast.npy"), "--eval", "True", "--save_path", str(tmp_path / "again")]
    capsys.readouterr()
    assert main([*flags(data, out)[:2], *again, "--data_name", "faces", "--percents", "0", "--gpu", "-1"]) == 0
    assert "report.html is not written anew (ValueError: no font)" in capsys.readouterr().err
    assert not (tmp_path / "again" / "report.html").exists()
