"""Markup of a page: text escaped, tables, and the frame with its colours, light and dark."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from math import isnan
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """A picture with its words."""

    name: str  # its id in the page
    svg: str
    caption: str  # plain text


def text(value: Any) -> str:
    """Any value as escaped text, a number beside its percent sign. Names of files may hold bytes that are no UTF-8."""
    return escape(str(value).encode("utf-8", "backslashreplace").decode()).replace(" %", "\u00a0%")


def percent(share: float | None) -> str:
    """A share as people read it; a dash where there is none."""
    return "-" if share is None or isnan(share) else f"{100 * share:.2f} %"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], n_words: int = 1) -> str:
    """A table that scrolls by itself where the page is narrow. n_words: first columns of words; others are numbers"""
    kinds = ["" if i < n_words else ' class="number"' for i in range(len(header))]
    head = "".join(f"<th scope='col'{kind}>{text(name)}</th>" for name, kind in zip(header, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{text(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def figures(found: Iterable[Figure], kind: str, beside: str = "") -> str:
    """Pictures beside each other as far as there is room. kind: large or small; beside: markup of what else is"""
    shown = "".join(
        f'<figure id="{one.name}">{one.svg}<figcaption>{text(one.caption)}</figcaption></figure>\n' for one in found
    )
    return f'<div class="figures {kind}">{shown}{beside}</div>' if shown or beside else ""


def items(found: Iterable[tuple[str, str]]) -> str:
    """A list of findings. found: (fine, look or warn; plain text)"""
    marks = {"fine": "fine", "look": "look", "warn": "warning"}
    return "<ul class='findings'>" + "".join(
        f'<li class="{kind}"><b>{marks[kind]}</b> <span>{text(said)}</span></li>\n' for kind, said in found
    ) + "</ul>"  # fmt: skip


def details(title: str, inside: str) -> str:
    """Shown on demand. inside: markup"""
    return f"<details><summary>{text(title)}</summary>{inside}</details>"


def page(title: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """The whole file. sections: (id, title, markup); the first has no link to it and no title of its own"""
    (_, _, first), *others = sections
    links = " ".join(f'<a href="#{name}">{text(heading)}</a>' for name, heading, _ in others)
    body = "\n".join(
        f'<section id="{name}"><h2>{text(heading)}</h2>\n{inside}</section>' for name, heading, inside in others
    )
    style = files("ivfast.evaluate.page").joinpath("style.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header><h1>{text(title)}</h1>
{first}
<nav>{links}</nav></header>
{body}
</main>
</body>
</html>
"""
