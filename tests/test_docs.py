"""What README and docs point at is there: links, anchors, pictures, files, and every experiment in its table."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

import ivfast
from ivfast.route.tiles import LogitTiles
from ivfast.store import rules
from ivfast.store.place import make_plans, place
from ivfast.store.rules.rule import Terms
from tests import by_hand

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [*sorted(ROOT.glob("*.md")), ROOT / "ivfast" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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


def test_every_module_has_a_line_in_the_readme_of_its_package_as_its_docstring_says() -> None:
    text = (ROOT / "ivfast" / "README.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| `([\w/.]+)` \| (.*?) \|", text, flags=re.MULTILINE))
    modules = {p.relative_to(ROOT / "ivfast").as_posix(): p for p in (ROOT / "ivfast").rglob("*.py")}
    said = {
        name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
        for name, path in modules.items()
        if path.name != "__init__.py"
    }
    assert {name: lines.get(name) for name in said} == said


def test_every_test_stands_beside_what_it_covers() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("docs/develop.md", "ivfast/README.md"))
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py")}
    assert {path for path in tests if f"`{path}`" not in text} == set()
    named = set(re.findall(r"`((?:tests|parity_tests)/[\w./]*)`", text))
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    named = re.findall(r"^::: ivfast\.(\w+)$", PAGES["docs/api.md"].read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(named) == sorted(name for name in ivfast.__all__ if name != "__version__")


def test_citation_has_what_the_format_demands_and_the_version_of_the_package() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert str(found["version"]) == ivfast.__version__
    assert f"version = {{{ivfast.__version__}}}" in PAGES["docs/cite.md"].read_text(encoding="utf-8")


def test_flags_page_is_what_the_parser_says() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "flags.py"), "--check"], check=False)
    assert done.returncode == 0, "docs/flags.md is out of date: run docs/flags.py"


def test_the_rule_of_the_developers_page_stores_as_it_says(
    logit_table: Callable[[np.ndarray], LogitTiles], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both blocks of the example are executed as they stand."""
    text = (ROOT / "docs" / "develop.md").read_text(encoding="utf-8")
    section = text.split("### A rule\n")[1].split("\n### ")[0]
    code, row = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    module = ModuleType("thrifty")
    exec(code, module.__dict__)  # noqa: S102
    added = eval("{" + row + "}", {"RuleKind": rules.RuleKind, "thrifty": module})  # noqa: S307
    monkeypatch.setattr("ivfast.store.place.RULES", rules.RULES | added)
    z, m = rng.standard_normal((50, 8)).astype(np.float32), rng.dirichlet(np.ones(8))
    plans = make_plans(["thrifty"], [Terms(copies, 0.5, m) for copies in (0.0, 0.5)])
    keys = by_hand.log_softmax(z, 0.5) - 2 * np.log(m)
    for found, copies in zip(place(logit_table(z), plans, 3), (0.0, 0.5), strict=True):
        offers = [[(keys[i, b], b) for b in by_hand.ranked(keys[i])[:3]] for i in range(50)]
        expected = [offer[:1] for offer in offers]
        extras = sorted(((-key, i, b) for i, offer in enumerate(offers) for key, b in offer[1:]))[: round(50 * copies)]
        stored = [{b for _, b in first} for first in expected]
        for _, i, b in extras:
            stored[i].add(b)
        assert [set(row) for row in by_hand.lists_of(found.buckets)] == stored
