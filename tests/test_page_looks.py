"""How a real browser shows report.html: on a phone and on a desktop, light and dark."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ivfast.evaluate.page.pages import compare_pages, write_page
from ivfast.runtime.files import save_json
from tests.finished import evaluation, write_folder

CHROMIUM = shutil.which("chromium")
SMALLEST_TEXT = 8  # pixels: less is hard to read on a phone
DARK = "--blink-settings=preferredColorScheme=0"  # as if the system asked for it
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_folder(tmp_path_factory.mktemp("finished"))
    write_page(found)
    return found


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


def test_what_does_not_fit_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    word = '<text x="10" y="50" style="font: 40px serif">word</text>'
    page.write_text(f'<p style="width: 450px">wide</p><svg viewBox="0 0 2000 100" width="300">{2 * word}</svg>')
    found = look(page, tmp_path / "home", 390)
    assert found["width"] > found["inner"] == 390
    assert found["out"] == ["P  wide"]
    assert found["over"] == ["text  word / text  word"]
    assert found["small"] == ["text  word", "text  word"]


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
