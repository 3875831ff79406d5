"""What README and docs point at is there: links, anchors, pictures, files, and every experiment in its table."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
LARGEST_PICTURE = 80_000  # bytes


def prose(path: Path) -> str:
    """A page without its code: blocks gone, `words` as words."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return text.replace("`", "")


def links(text: str) -> list[str]:
    """Where the links and pictures of a page lead, but for other sites."""
    found = re.findall(r"\]\(([^()\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def headings(path: Path) -> list[str]:
    """Of every depth."""
    return re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def wrong_links(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for link in links(text):
        name, _, part = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (part and part not in map(anchor, headings(target))):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_picture_is_there(name: str) -> None:
    assert wrong_links(PAGES[name], prose(PAGES[name])) == []


def test_links_that_lead_nowhere_are_found() -> None:
    text = "[a](no.md) [b](README.md#nowhere) ![c](docs/no.png) [d](README.md#two-commands) [e](https://example.com)"
    assert wrong_links(ROOT / "README.md", text) == ["no.md", "README.md#nowhere", "docs/no.png"]


@pytest.mark.parametrize("name", PAGES)
def test_headings_of_a_page_have_anchors_of_their_own(name: str) -> None:
    anchors = [anchor(heading) for heading in headings(PAGES[name])]
    assert len(anchors) == len(set(anchors))


def test_every_picture_is_shown_somewhere() -> None:
    shown = {(path.parent / link).resolve() for path in PAGES.values() for link in links(prose(path))}
    assert {path for path in (ROOT / "docs").rglob("*.png") if path not in shown} == set()


def test_pictures_of_how_it_works_are_small() -> None:
    pictures = [*(ROOT / "docs" / "pictures").glob("*.png"), ROOT / "docs" / "recall_scanned.png"]
    assert len(pictures) > 1
    assert {path.name for path in pictures if path.stat().st_size >= LARGEST_PICTURE} == set()


def test_every_experiment_has_one_row_and_every_row_an_experiment() -> None:
    text = prose(ROOT / "docs" / "experiments.md")
    table, _, entries = text.partition("## What is in force")[2].partition("\n## ")
    rows = re.findall(r"^\| (\d{4}-\d\d-\d\d) \|.*\]\(#([^)]+)\) \|$", table, flags=re.MULTILINE)
    dated = re.findall(r"^(?:## )?(\d{4}-\d\d-\d\d) (.*)$", entries, flags=re.MULTILINE)
    assert len(dated) > 1
    assert rows == [(date, anchor(f"{date} {title}")) for date, title in dated]


@pytest.mark.parametrize("name", ["docs/develop.md", "docs/how-it-works.md", "docs/guide.md"])
def test_every_file_named_exists(name: str) -> None:
    named = set(re.findall(r"`((?:ivfast\w*|tests|parity_tests|benchmarks|docs)/[\w./]*)`", PAGES[name].read_text()))
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_test_and_every_module_stands_in_the_table_of_what_covers_what() -> None:
    text = (ROOT / "docs" / "develop.md").read_text(encoding="utf-8")
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ivfast").rglob("*.py") if p.name != "__init__.py"}
    assert {path for path in modules if f"`{path}`" not in text} == set()
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py")}
    assert {path for path in tests if f"`{path}`" not in text} == set()
