"""Files of text are told by their first lines, and the Python that is advised makes the array that was meant."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivfast.data.first_bytes import TEXT
from ivfast.data.npy import open_array
from ivfast.runtime.errors import UserError

N, DIM = 23, 6
X = (np.random.default_rng(5).standard_normal((N, DIM)) * 40).astype(np.float32)
WORDS = ["the", "1", "naïve", '"', "#", "a,b", "日本", "nan", "x" * 30, "it's", "[UNK]", "&amp;"]
WORDS += [f"w{i}" for i in range(N - len(WORDS))]
CSV, JSON, LINES = r"text of numbers \(CSV\)", "JSON text", "JSON lines"
LISTS, VECTORS = r"text with a column of lists \(CSV\)", r"text of words with their vectors \(word2vec, GloVe\)"


def lines(rows: Sequence[object]) -> str:
    return "".join(f"{row}\n" for row in rows)


def table(mark: str = ",", head: Sequence[str] = (), ids: Sequence[object] = (), after: Sequence[object] = ()) -> str:
    """As csv writes it."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=mark)
    if head:
        writer.writerow(head)
    for i, row in enumerate(X.tolist()):
        writer.writerow([*ids[i : i + 1], *row, *after[i : i + 1]])
    return file.getvalue()


def lists() -> str:
    """A column of lists, as pandas writes it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["", "id", "text", "vector"])
    writer.writerows([i, 10 * i, f'say "{i}", then', row] for i, row in enumerate(X.tolist()))
    return file.getvalue()


def words(names: Sequence[str] = WORDS, head: str = "", end: str = "") -> str:
    """As word2vec and GloVe write it: word2vec.c has a space behind each number."""
    return head + lines([f"{name} {' '.join(map(str, row))}{end}" for name, row in zip(names, X.tolist(), strict=True)])


def records(**more: Any) -> list[dict[str, Any]]:
    return [{"id": i, **more, "embedding": row, "near": [1, 2]} for i, row in enumerate(X.tolist())]


TEXTS: dict[str, tuple[str, str]] = {
    "csv": (table(), CSV),
    "csv, a head": (table(head="abcdef"), CSV),
    "csv, ids": (table(ids=range(N), head=["id", *"abcdef"]), CSV),
    "csv, ids of text": (table(ids=WORDS), CSV),
    "csv, ids and labels": (table(ids=WORDS, after=WORDS, head=["key", *"abcdef", "label"]), CSV),
    "csv, an empty last column": (table(after=[""] * N), CSV),
    "semicolons": (table(";", head="abcdef"), CSV),
    "tabs and words": (table("\t", ids=WORDS), CSV),
    "pandas": (table(ids=range(N), head=["", *"012345"]), CSV),
    "pandas without an index": (table(head="012345"), CSV),
    "pandas, named": (table(ids=range(N), head=["", *"abcdef"]), CSV),
    "pandas, a column of lists": (lists(), LISTS),
    "spaces": (lines([" ".join(map(str, row)) for row in X.tolist()]), CSV),
    "spaces, sizes first": (f"{N} {DIM}\n" + lines([" ".join(map(str, row)) for row in X.tolist()]), CSV),
    "np.savetxt with notes": ("# made by\n# somebody\n" + table(" "), CSV),
    "a byte order mark": ("\ufeff" + table(head="abcdef"), CSV),
    "GloVe": (words(), VECTORS),
    "GloVe, words of several parts": (words([". . .", "at name@domain.com", *WORDS[2:]]), VECTORS),
    "word2vec": (words(head=f"{N} {DIM}\n"), VECTORS),
    "word2vec.c": (words(head=f"{N} {DIM}\n", end=" "), VECTORS),
    "word, then tab": (lines([line.replace(" ", "\t", 1) for line in words().splitlines()]), CSV),
    "json": (json.dumps(X.tolist()), JSON),
    "json, pretty": (json.dumps(X.tolist(), indent=2), JSON),
    "json, records": (json.dumps(records(text="a [b] {c}, \\ \"d\"")), JSON),
    "json, of a service": (json.dumps({"object": "list", "data": records(), "usage": {"tokens": 3}}, indent=1), JSON),
    "json, named": (json.dumps({"ids": list(range(N)), "vectors": X.tolist()}), JSON),
    "json, words": (json.dumps(dict(zip(WORDS, X.tolist(), strict=True)), ensure_ascii=False), JSON),
    "json lines, lists": (lines([json.dumps(row) for row in X.tolist()]), LINES),
    "json lines, records": (lines([json.dumps(row) for row in records(text="a\nb")]), LINES),
    "json lines, nested": (lines([json.dumps({"id": 1, "values": {"dense": row}}) for row in X.tolist()]), LINES),
    "json lines, a byte order mark": ("\ufeff" + lines([json.dumps(row) for row in records()]), LINES),
}  # fmt: skip


def follow(refused: str) -> None:
    """Type what a message advises into a new Python."""
    exec(refused.split("; in Python ", 1)[1], {})  # noqa: S102


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # open(..) without a name is what people type
@pytest.mark.parametrize("case", TEXTS)
def test_a_text_is_told_and_the_advice_makes_the_array(case: str, tmp_path: Path) -> None:
    text, told = TEXTS[case]
    path = tmp_path / "base's.npy"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(
        UserError, match=rf"^base: {path} is no readable .npy array: .*; it is {told}; in Python import "
    ) as e:
        open_array(path, "base")
    assert "\n" not in str(e.value)
    follow(str(e.value))
    np.testing.assert_allclose(open_array(path, "base"), X, rtol=1e-6)


LONG: dict[str, tuple[Callable[[np.ndarray], str], str]] = {
    "json": (lambda x: json.dumps(x.tolist()), JSON),
    "json, records": (lambda x: json.dumps([{"vector": row, "id": i} for i, row in enumerate(x.tolist())]), JSON),
    "json, words": (lambda x: json.dumps({f"w{i}": row for i, row in enumerate(x.tolist())}), JSON),
    "json lines": (lambda x: lines([json.dumps({"vector": row}) for row in x.tolist()]), LINES),
    "csv": (lambda x: lines([",".join(map(str, row)) for row in x.tolist()]), CSV),
    "GloVe": (lambda x: lines([f"w{i} {' '.join(map(str, row))}" for i, row in enumerate(x.tolist())]), VECTORS),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("case", LONG)
def test_a_text_that_goes_on_behind_what_is_looked_at_is_told_too(case: str, tmp_path: Path) -> None:
    write, told = LONG[case]
    x, path = np.random.default_rng(6).standard_normal((200, 400)).astype(np.float32), tmp_path / "base.npy"
    path.write_text(write(x))
    assert path.stat().st_size > TEXT
    with pytest.raises(UserError, match=rf"; it is {told}; in Python ") as refused:
        open_array(path, "base")
    follow(str(refused.value))
    np.testing.assert_allclose(open_array(path, "base"), x, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("case", ["csv", "json", "json lines"])
def test_answers_keep_numbers_that_float32_would_round(case: str, tmp_path: Path) -> None:
    ids = np.arange(60).reshape(20, 3) + 2**24 + 1
    path = tmp_path / "gt.npy"
    text = {
        "csv": lines([",".join(map(str, row)) for row in ids.tolist()]),
        "json": json.dumps({"neighbors": ids.tolist()}),
        "json lines": lines([json.dumps({"neighbors": row}) for row in ids.tolist()]),
    }
    path.write_text(text[case])
    with pytest.raises(UserError, match=r"^gt: ") as refused:
        open_array(path, "gt")
    follow(str(refused.value))
    found = open_array(path, "gt")
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize(
    "text",
    [
        "the vectors are elsewhere\n",
        "{",
        "[",
        "[]",
        "{}",
        "[[[",
        "[" * 5000,
        '{"a": ' * 5000,
        '{"error": "Repository not found"}',
        '{"a": 1}\n{"b": 2}\n',
        "[1,\n[2",
        "1\n2\n3\n",
        "a,b\n",
        ",,,\n,,\n",
        '"a\n',
        "#\n#\n",
        "x 1 2\ny 1\n",
    ],
)
def test_of_a_text_without_vectors_no_line_is_advised(text: str, tmp_path: Path) -> None:
    path = tmp_path / "base.npy"
    path.write_text(text)
    with pytest.raises(UserError, match=r"; it is (JSON|plain) (text|lines)") as refused:
        open_array(path, "base")
    assert "in Python" not in str(refused.value)
    assert "\n" not in str(refused.value)
