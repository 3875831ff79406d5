"""Queries of another kind than what is stored, out of what packages ship: one model of text, two kinds of text.

The text is that of the .py files in site-packages and of the standard library; its vectors are those of
`benchmarks.code_lines` (256 entries, unit norm, IP). Each set has a learn that is its base, queries to evaluate by,
and a log of other queries from the same source.

    comments   lines of comments ask for lines of code
    bodies     the first sentence of a docstring asks for paragraphs of docstrings (none of them a first one)
    messages   sentences of error messages and other strings ask for lines of code
    means      made: the mean of two stored vectors of code, moved, with noise
"""

import ast
from pathlib import Path

import numpy as np

from benchmarks.code_lines import SHORTEST, different, embedded, installed_files
from benchmarks.peers.task import exact
from ivfast.data.synthetic import save_set

KINDS = ("comments", "bodies", "messages", "means")
N_BASE, N_QUERY, N_LOG = 60_000, 2000, 2000
WORDS = 4  # a sentence has so many at least
MOVED, NOISE = 0.3, 0.5  # lengths beside the unit vectors of `means`


def is_sentence(text: str) -> bool:
    """Whether it is made of words rather than of code."""
    words = [word for word in text.split() if word.strip(".,:;!?'\"()").isalpha()]
    return len(words) >= WORDS and len(words) >= 0.7 * len(text.split())


def texts() -> dict[str, list[str]]:
    """Distinct texts by kind: code, comments, first sentences, paragraphs, messages."""
    found: dict[str, dict[str, None]] = {name: {} for name in ("code", "comments", "firsts", "paragraphs", "messages")}
    for text in installed_files():
        lines = [line.strip() for line in text.splitlines()]
        found["comments"].update(
            dict.fromkeys(said for line in lines if line.startswith("#") and is_sentence(said := line.strip("#: ")))
        )
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        inside: set[int] = set()  # lines that strings fill
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                last = node.end_lineno or node.lineno
                if last > node.lineno:
                    inside.update(range(node.lineno, last + 1))
                elif is_sentence(node.value):
                    found["messages"][node.value.strip()] = None
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)):
                parts = [" ".join(part.split()) for part in (ast.get_docstring(node) or "").split("\n\n")]
                if parts and is_sentence(parts[0]):
                    found["firsts"][parts[0].split(". ")[0]] = None
                found["paragraphs"].update(dict.fromkeys(part for part in parts[1:] if is_sentence(part)))
        code = (line for i, line in enumerate(lines, 1) if i not in inside and not line.startswith("#"))
        found["code"].update(dict.fromkeys(line for line in code if len(line) >= SHORTEST))
    return {name: list(of) for name, of in found.items()}


def vectors_of(lines: list[str], n: int, rng: np.random.Generator) -> np.ndarray:
    """Different vectors of so many lines at most, drawn. (n, 256) float32 of unit norm"""
    drawn = rng.permutation(len(lines))[: int(1.3 * n)]
    return different(np.concatenate(list(embedded([lines[i] for i in drawn]))))[:n]


def means(base: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of two of base, moved in one direction for all, with noise; of unit norm."""
    dim = base.shape[1]
    direction = np.random.default_rng(5).standard_normal(dim)
    mean = (base[rng.integers(0, len(base), n)] + base[rng.integers(0, len(base), n)]) / 2
    noise = NOISE * rng.standard_normal((n, dim)) / np.sqrt(dim)
    x = mean + MOVED * direction / np.linalg.norm(direction) + noise
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_kinds(folder: Path, kinds: tuple[str, ...], seed: int = 1) -> None:
    """Write the sets: folder/KIND/base.npy, query.npy, gt.npy, and folder/log_KIND.npy."""
    rng, found = np.random.default_rng(seed), texts()
    code = vectors_of(found["code"], N_BASE, rng)
    asked = {"comments": "comments", "bodies": "firsts", "messages": "messages"}
    for kind in kinds:
        base = vectors_of(found["paragraphs"], N_BASE, rng) if kind == "bodies" else code
        n = N_QUERY + N_LOG
        queries = means(base, n, rng) if kind == "means" else vectors_of(found[asked[kind]], n, rng)
        save_set(folder, kind, base, base, queries[:N_QUERY], exact(queries[:N_QUERY], base, "IP"))
        np.save(folder / f"log_{kind}.npy", queries[N_QUERY:])
