"""Who imports whom inside the packages, read from the source without running it.

    python -m tests.imports [CHECKOUT]

prints modules, arrows (pairs of modules of which one imports the other), the longest chain of imports, and the floors:
the longest chain of rooms, a room being a folder of ivfast or a module that stands beside the folders.
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
    """Modules that each module imports, at its top or within a function.

    Of a package's own face, which loads a name where it is first used, not what it tells type checkers alone.
    """
    known = modules(root)
    return {name: _imports(path, known, face=name in PACKAGES) - {name} for name, path in known.items()}


def _imports(path: Path, known: dict[str, Path], *, face: bool) -> set[str]:
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    if face:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and _names(node.test, "TYPE_CHECKING"))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: expected absolute imports alone"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found & known.keys()


def _names(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def longest_chain(imports: dict[str, set[str]]) -> int:
    """Modules in the longest chain of imports; raises RecursionError where they go in a circle."""

    @cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in imports[name]), default=0)

    return max(height(name) for name in imports)


def rooms(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same between rooms of ivfast."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    found: dict[str, set[str]] = {}
    for module, others in imports.items():
        if module.startswith("ivfast."):
            inside = {room(other) for other in others if other.startswith("ivfast.")}
            found.setdefault(room(module), set()).update(inside - {room(module)})
    return found


def main() -> None:
    """Print the four numbers."""
    imports = arrows(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    between = rooms(imports)
    sys.stdout.write(
        f"{len(imports)} modules, {sum(map(len, imports.values()))} arrows, {longest_chain(imports)} in the longest "
        f"chain; {len(between)} rooms, {sum(map(len, between.values()))} arrows, {longest_chain(between)} floors\n"
    )


if __name__ == "__main__":
    main()
