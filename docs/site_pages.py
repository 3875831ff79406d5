"""Hooks of mkdocs.yml: pages that lie outside docs/ join the site, and links lead where they lead in the repository."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
JOINED = {  # in the repository: on the site
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "LICENSE",
    "README.md": "overview.md",
    "SECURITY.md": "security.md",
    "ivfast/README.md": "house.md",
} | {f"examples/{path.name}": f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages from outside."""
    for name, place in JOINED.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links between files of the repository into links between files of the site.

    And put an empty line before a list, where Python's Markdown needs one and GitHub does not.
    """
    here = {place: name for name, place in JOINED.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def lead(link: re.Match[str]) -> str:
        target, anchor = link.group(1), link.group(2) or ""
        named = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        place = JOINED.get(named) or (named.removeprefix("docs/") if named.startswith("docs/") else None)
        if place is None:  # strict builds refuse it
            return link.group()
        return f"]({posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    parts = re.sub(r"\]\((?![a-z]+:)([^()\s#]+)(#[^()\s]*)?\)", lead, markdown).split("```")
    parts[::2] = [re.sub(r"(?m)^([^-#|>\s\d][^\n]*\n)(?=- )", r"\1\n", prose) for prose in parts[::2]]
    return "```".join(parts)
