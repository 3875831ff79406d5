"""The site of docs/: built strictly, every link and anchor leads somewhere, and nothing is loaded from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ivfast

ROOT = Path(__file__).resolve().parent.parent
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Reader(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADING and LOADING[tag] in found:
            self.loads.append(found[LOADING[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # --quiet would let all pass
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Reader]:
    return {path: Reader(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_there(site: Path, pages: dict[Path, Reader]) -> None:
    written = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert {path.name for path in pages if path.parent == site} >= written | {"contributing.html", "security.html"}


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Reader]) -> None:
    wrong = []
    for page, read in pages.items():
        for link in [*read.links, *read.loads]:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                wrong.append((page.name, link))
    assert wrong == []


def test_nothing_is_loaded_from_the_network(site: Path, pages: dict[Path, Reader]) -> None:
    assert {load for read in pages.values() for load in read.loads if re.match(r"([a-z]+:)?//", load)} == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import\s*)['\"]?(?:https?:)?//[^)'\"]*", styles) == []


def test_every_public_name_has_its_signature_and_a_list_of_what_is_raised(
    site: Path, pages: dict[Path, Reader]
) -> None:
    page = site / "api.html"
    for name in ivfast.__all__:
        assert name == "__version__" or f"ivfast.{name}" in pages[page].anchors
    text = page.read_text(encoding="utf-8")
    assert "<li><strong>raises</strong>: UserError" in text
    assert "rows of the vectors stored" in text  # the comment of a field


def test_lists_are_lists(pages: dict[Path, Reader]) -> None:
    """Python's Markdown begins a list after an empty line only, where GitHub needs none."""
    run_on = {page.name for page in pages if re.search(r"<p>[^<]*(<(?!/p>)[^>]*>[^<]*)*\n- ", page.read_text())}
    assert run_on == set()
