"""Who imports whom inside the packages, read from the source without running it.

    python -m tests.imports [CHECKOUT]

prints modules, arrows (pairs of modules of which one imports the other) and floors (the longest chain of imports).
"""

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ivfast", "ivfast_jax", "ivfast_torch")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages by its dotted name; a package goes by the name of its folder."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """Modules that each module imports, at its top or within a function."""
    known = modules(root)
    return {name: _imports(path, known) - {name} for name, path in known.items()}


def _imports(path: Path, known: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: expected absolute imports alone"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found & known.keys()


def floors(imports: dict[str, set[str]]) -> int:
    """Modules in the longest chain of imports; raises RecursionError where they go in a circle."""

    @cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in imports[name]), default=0)

    return max(height(name) for name in imports)


def main() -> None:
    """Print the three numbers."""
    imports = arrows(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    sys.stdout.write(f"{len(imports)} modules, {sum(map(len, imports.values()))} arrows, {floors(imports)} floors\n")


if __name__ == "__main__":
    main()
