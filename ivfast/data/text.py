"""What a file of text holds, by its first lines: tables, words with vectors, JSON; and the Python that reads it."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple

LINES = 50  # that are looked at
LEAST = 2  # numbers of a vector
DELIMITERS = (",", ";", "\t", " ")
IDS = ("", "id", "ids", "idx", "index", "key", "no", "nr", "unnamed: 0")  # heads of a first column that numbers rows
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*|\s*[-+]?(nan|inf|infinity)\s*", re.IGNORECASE)
OPENED = "open(FILE, encoding='utf-8-sig')"
FLOATS = "'float32')"


class Text(NamedTuple):
    """What a text is."""

    what: str  # with its article
    code: str  # Python that makes an array of the file, which it calls FILE; "" where none is known


def of_text(text: str, *, whole: bool) -> Text:
    """What a text is that begins so. text: without spaces before it; whole: whether it ends there too"""
    if text[0] in "{[":
        return _of_json(text, whole=whole)
    lines = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
    if not whole and len(lines) > 1:
        lines = lines[:-1]  # the last one is cut
    n_notes = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    lines = lines[n_notes : n_notes + LINES]
    for mark in DELIMITERS:
        if table := _of_table(lines, mark, n_notes):
            return (mark == " " and "usecols" in table.code and _of_words(lines, n_notes)) or table
    return _of_words(lines, n_notes) or Text(f"plain text, which begins with {text[:30]!r}", "")


def _are_numbers(fields: list[str]) -> bool:
    return all(NUMBER.fullmatch(field) for field in fields)


def _fields(lines: list[str], mark: str) -> list[list[str]]:
    """The parts of lines."""
    if mark == " ":
        return [line.split() for line in lines]
    return list(csv.reader((line.strip(" ") for line in lines), delimiter=mark))


def _of_table(lines: list[str], mark: str, n_notes: int) -> Text | None:
    """Lines of equally many fields, of which columns beside each other are numbers. n_notes: lines before them"""
    try:
        rows = _fields(lines, mark)
    except csv.Error:
        return None
    rest = rows[1:] or rows
    width = len(rest[0])
    if width < LEAST or any(len(row) != width for row in rest):
        return None
    (first, end), column = _run_of_numbers(rest), _column_of_lists(rest)
    skipped = len(rows) > 1 and _is_head(rows[0], rest, range(first, end), column)
    n_before = n_notes + skipped
    if column is not None:
        fields = f"row[{column}]) for row in list(csv.reader({OPENED}))[{n_before}:] if row"
        return Text("text with a column of lists (CSV)", f"np.asarray([json.loads({fields}], {FLOATS}")
    if first == 0 and end > LEAST and skipped and len(rows[0]) == width and rows[0][0].strip().lower() in IDS:
        first = 1
    if end - first < LEAST:
        return None
    options = f"delimiter={mark!r}, " * (mark != " ") + f"skiprows={n_before}, " * (n_before > 0)
    options += f"usecols=range({first}, {end}), " * ((first, end) != (0, width))
    options += "quotechar='\"', " * (mark != " " and any('"' in line for line in lines))
    code = f"np.loadtxt(FILE, {options}comments=None, encoding='utf-8-sig', dtype={FLOATS[:-1]}, ndmin=2)"
    return Text("text of numbers (CSV)", code)


def _is_head(first: list[str], rest: list[list[str]], numbers: range, lists: int | None) -> bool:
    """Whether a line says what the next ones hold: names, numbers of columns, or how many rows and columns come.

    numbers: columns of the rest that are numbers; lists: the one that has lists
    """
    if len(first) != len(rest[0]):
        return True
    if lists is not None:
        return not _is_list(first[lists])
    counted = [name for name in first if name.strip()] == [str(i) for i in range(len(numbers))]
    return not _are_numbers([first[column] for column in numbers]) or (
        counted and any("." in field for field in rest[0])
    )


def _column_of_lists(rows: list[list[str]]) -> int | None:
    """The first column whose fields are lists of numbers, as pandas writes them."""
    for column in range(len(rows[0])):
        if all(_is_list(row[column]) for row in rows):
            return column
    return None


def _is_list(field: str) -> bool:
    return field[:1] == "[" and field[-1:] == "]" and _are_numbers(field[1:-1].split(","))


def _run_of_numbers(rows: list[list[str]]) -> tuple[int, int]:
    """The longest run of columns that hold numbers alone, as its first one and the one behind it."""
    are = [all(NUMBER.fullmatch(row[column]) for row in rows) for column in range(len(rows[0]))]
    best, at = (0, 0), 0
    for is_number, run in groupby(are):
        n = len(list(run))
        if is_number and n > best[1] - best[0]:
            best = at, at + n
        at += n
    return best


def _of_words(lines: list[str], n_notes: int) -> Text | None:
    """Words with their vectors, as word2vec and GloVe write them.

    A word may hold spaces, so numbers count from the end. The first line of word2vec says how many words and numbers
    there are.
    """
    if any("\t" in line for line in lines):
        return None
    head = lines[0].split()
    skipped = int(len(head) == LEAST and all(part.isdecimal() for part in head) and len(lines) > 1)
    dims = [_numbers_at_end(line) for line in lines[skipped:]]
    dim = int(head[1]) if skipped else min(dims)
    if dim < LEAST or min(dims) < dim:
        return None
    read = f"list({OPENED[:-1]}, errors='replace'))[{n_notes + skipped}:]"
    rows = f"[line.rstrip().rsplit(' ', {dim})[1:] for line in {read} if line.strip()]"
    return Text("text of words with their vectors (word2vec, GloVe)", f"np.asarray({rows}, {FLOATS}")


def _numbers_at_end(line: str) -> int:
    """How many numbers follow the first part of a line, which is a word."""
    parts = line.rstrip().split(" ")[1:]
    return next((i for i, part in enumerate(reversed(parts)) if not NUMBER.fullmatch(part)), len(parts))


def _of_json(text: str, *, whole: bool) -> Text:
    """One value, or a value a line."""
    first, end = _first_value(text, whole=whole)
    if text[end:].lstrip()[:1] in ("{", "[") and "\n" not in text[:end]:
        row = max(_vectors_in(first, "json.loads(line)"), default=(0, ""))[1]
        return Text("JSON lines", f"np.asarray([{row} for line in {OPENED} if line.strip()], {FLOATS}" if row else "")
    read = f"json.load({OPENED})"
    one = max(_vectors_in(first, read), default=(0, ""))[1]
    rows = max(_rows_in(first, read), default=(0, f"[{one}]" if one else ""))[1]
    return Text("JSON text", f"np.asarray({rows}, {FLOATS}" if rows else "")


def _first_value(text: str, *, whole: bool) -> tuple[Any, int]:
    """The first value of a JSON text and where it ends; of one that goes on what is there of it; None of no JSON."""
    decoder = json.JSONDecoder()
    with suppress(ValueError, RecursionError):
        return decoder.raw_decode(text)
    with suppress(ValueError, RecursionError):
        return None if whole else decoder.raw_decode(_closed(text))[0], len(text)
    return None, len(text)


def _closed(text: str) -> str:
    """A JSON text that is cut, without its last item and with what is open closed."""
    open_now, cut, in_word = [], ("", ""), False
    for found in re.finditer(r'\\.|["\[\]{},]', text):
        mark = found[0]
        if mark == '"':
            in_word = not in_word
        elif in_word:
            continue
        elif mark in "[{":
            open_now.append("]" if mark == "[" else "}")
        elif mark in "]}":
            del open_now[-1:]
        elif mark == ",":
            cut = text[: found.start()], "".join(reversed(open_now))
    return "".join(cut)


def _vectors_in(value: Any, code: str) -> Iterator[tuple[int, str]]:
    """Lists of numbers in a value: how long they are, and the Python that takes them out. code: what gives the value"""
    if _is_vector(value):
        yield len(value), code
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _vectors_in(one, f"{code}[{key!r}]")


def _rows_in(value: Any, code: str) -> Iterator[tuple[int, str]]:
    """As `_vectors_in`, of many such lists: in a list, in values that have one each, or as all that a dict holds."""
    if isinstance(value, list) and value and (row := max(_vectors_in(value[0], "row"), default=None)):
        yield row[0], code if row[1] == "row" else f"[{row[1]} for row in {code}]"
    if isinstance(value, dict):
        rows = list(value.values())
        if len(rows) > 1 and all(map(_is_vector, rows)) and len(set(map(len, rows[:-1]))) == 1:  # the last may be cut
            yield len(rows[0]), f"list({code}.values())"
        for key, one in value.items():
            yield from _rows_in(one, f"{code}[{key!r}]")


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) in (int, float) for one in value)
