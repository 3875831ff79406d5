"""How much of the two backends is one text: the share of lines that are equal, file by file.

    python -m parity_tests.twin_lines [CHECKOUT]

raw: lines as they stand; after dialect: once what the frameworks merely spell otherwise is spelled alike.
"""

import re
import sys
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
JAX, TORCH = "ivfast_jax", "ivfast_torch"
JAX_ALONE = ("hosts", "layout", "shards")  # the reference trains on one device

# Spellings alone: the same thing under another name, at the same place, with the same arguments.
DIALECT = [(re.compile(pattern), spelled) for pattern, spelled in (
    (r"\bivfast_jax\b", "ivfast_torch"),
    (r"\bJAX\b", "torch"),
    (r"\bArray\b", "Tensor"),
    (r"\bDTypeLike\b", "torch.dtype"),
    (r"\blax\.stop_gradient\b", "torch.detach"),
    (r"\bjnp\.split\b", "torch.chunk"),
    (r"\bjnp\.|\bjax\.nn\.", "torch."),
    (r"\.astype\(", ".to("),
    (r"\baxis=", "dim="),
    (r"\bkeepdims=", "keepdim="),
    (r"\b__call__\b", "forward"),
)]  # fmt: skip


class Share(NamedTuple):
    """Of the lines of both twins."""

    equal: int
    lines: int

    def __add__(self, other: "Share") -> "Share":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Share(self.equal + other.equal, self.lines + other.lines)

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.equal / self.lines


def common(left: str, right: str) -> Share:
    """Lines that stand in both texts, in the same order; blank ones don't count."""
    sides = [[line for line in text.splitlines() if line.strip()] for text in (left, right)]
    blocks = SequenceMatcher(None, *sides, autojunk=False).get_matching_blocks()
    return Share(2 * sum(block.size for block in blocks), sum(map(len, sides)))


def spelled_alike(text: str) -> str:
    """In torch's dialect, as far as names go."""
    for pattern, spelled in DIALECT:
        text = pattern.sub(spelled, text)
    return text


def shares(root: Path = ROOT) -> dict[str, tuple[Share, Share]]:
    """Of each pair of files: raw, and after dialect; `in all` sums them up."""
    found = {}
    for path in sorted(path for path in (root / JAX).glob("*.py") if path.stem not in JAX_ALONE):
        texts = [(root / package / path.name).read_text(encoding="utf-8") for package in (JAX, TORCH)]
        found[path.name] = common(*texts), common(*map(spelled_alike, texts))
    every = list(found.values())
    total = Share(0, 0)
    found["in all"] = sum((raw for raw, _ in every), total), sum((after for _, after in every), total)
    return found


def main() -> None:
    """Print one line a pair of files."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, (raw, after) in shares(root).items():
        print(f"{name:14} {raw.lines:4} lines  raw {100 * raw.value:5.1f} %  after dialect {100 * after.value:5.1f} %")


if __name__ == "__main__":
    main()
