"""A million real vectors out of what packages ship: static embeddings of the lines of Python code that is installed.

The lines are those of the .py files in site-packages and of the standard library, distinct, stripped of white space,
in an order that depends on the seed alone. A line's vector is the mean of the embeddings of its tokens, of unit norm
(256 entries). The table of embeddings and its tokenizer come with the package `wordllama`, so nothing is downloaded.
"""

import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

SHORTEST = 12  # characters: below that a line says nothing
MOST_TOKENS = 64  # of a line that count
BATCH = 20_000  # lines embedded at once


def installed_files() -> Iterator[str]:
    """The text of every .py file of this environment and of the standard library, in the order of their names."""
    for name in ("purelib", "stdlib"):
        for path in sorted(Path(sysconfig.get_path(name)).rglob("*.py")):
            try:
                yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def installed_lines() -> list[str]:
    """All their lines that differ, stripped."""
    lines: dict[str, None] = {}
    for text in installed_files():
        lines.update(dict.fromkeys(line for part in text.splitlines() if len(line := part.strip()) >= SHORTEST))
    return list(lines)


def different(rows: np.ndarray) -> np.ndarray:
    """Each of the different rows once, where it stands first. rows: (n, dim) float32"""
    _, first = np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))), return_index=True)
    return rows[np.sort(first)]


def embedded(lines: list[str]) -> Iterator[np.ndarray]:
    """Vectors of lines, batch by batch, (n, 256) float32 of unit norm; lines without a known token are left out."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("wordllama is not installed: pip install 'ivfast[bench]'")
    package = Path(spec.submodule_search_locations[0])
    (table,) = load_file(package / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    table = table.astype(np.float32)
    for start in range(0, len(lines), BATCH):
        encoded = tokenizer.encode_batch(lines[start : start + BATCH], add_special_tokens=False)
        lengths = np.array([len(one.ids) for one in encoded])
        ids = np.concatenate([np.array(one.ids, dtype=np.int64) for one in encoded if one.ids])
        first = np.r_[0, np.cumsum(lengths[lengths > 0])[:-1]]
        sums = np.add.reduceat(table[ids], first, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        yield (sums / np.where(norms > 0, norms, 1))[norms[:, 0] > 0]


def make_code_lines(n: int, n_query: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Vectors to store and queries, all of different lines: (n, 256) and (n_query, 256) float32.

    n: at most; fewer where fewer lines are installed
    """
    lines = installed_lines()
    order = np.random.default_rng(seed).permutation(len(lines))[: int(1.2 * (n + n_query))]  # some vectors are equal
    found = different(np.concatenate(list(embedded([lines[i] for i in order]))))
    return found[n_query : n_query + n], found[:n_query]
