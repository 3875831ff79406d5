"""Docstrings on the site: what a line says of one argument becomes an item of a list, a comment a field's docstring."""

import re
from typing import Any

import griffe

NAMED = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)")


class Plain(griffe.Extension):
    """Reads the house style, in which `name: what it is` is a line of its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Every module, class, function and attribute that is read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
        elif obj.is_attribute and (comment := re.search(r"  # (.*)$", obj.source.strip())):
            obj.docstring = griffe.Docstring(comment.group(1), parent=obj)


def as_markdown(text: str) -> str:
    """Paragraphs that begin with `name: ` become lists, those that begin with `>>> ` code; all else stays."""
    return "\n\n".join(map(_paragraph, text.split("\n\n")))


def _paragraph(text: str) -> str:
    if text.startswith(">>> "):
        return f"```pycon\n{text}\n```"
    return _as_list(text) if NAMED.match(text) else text


def _as_list(paragraph: str) -> str:
    lines = []
    for line in paragraph.splitlines():
        named = NAMED.fullmatch(line)
        lines.append(f"- **{named[1]}**: {named[2]}" if named else f"    {line.strip()}")
    return "\n".join(lines)
