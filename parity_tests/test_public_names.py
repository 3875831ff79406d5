"""The two backends are one text in two dialects: names, order, parameters, defaults."""

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ivfast_jax
import ivfast_torch
import ivfast_torch.loss
from parity_tests.comparator import DifferenceError
from parity_tests.twin_lines import JAX_ALONE

pytestmark = pytest.mark.parity

# What frameworks force: Flax spells a module's methods otherwise.
SPELLED = {"forward": "__call__"}
FLAX_FIELDS = {"parent", "name"}

Text = list[tuple[str, ...]]


def modules(package: ModuleType) -> list[str]:
    """File names of a backend, without what JAX has alone."""
    assert package.__file__ is not None
    return sorted({path.stem for path in Path(package.__file__).parent.glob("*.py")} - {*JAX_ALONE})


def public_text(module: ModuleType) -> Text:
    """Constants with values, and functions and classes with parameters and defaults, in order."""
    assert module.__file__ is not None
    names = [name for node in ast.parse(Path(module.__file__).read_text()).body for name in _defined(node)]
    return [line for name in names if name[0] != "_" for line in _told(module, name)]


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def _told(module: ModuleType, name: str) -> Text:
    thing = getattr(module, name)
    if inspect.isclass(thing):
        methods = [key for key, value in vars(thing).items() if inspect.isfunction(value)]
        methods = [key for key in methods if key[0] != "_" or key in SPELLED.values()]
        return [(name, *_parameters(thing))] + [
            (f"{name}.{SPELLED.get(key, key)}", *_parameters(getattr(thing, key))) for key in methods
        ]
    if inspect.isfunction(thing):
        return [(name, *_parameters(thing), inspect.getdoc(thing) or "")]
    return [(name, repr(thing))]


def _parameters(thing: Any) -> list[str]:
    found = inspect.signature(thing).parameters.values()
    return [f"{p.kind.description} {p.name} = {p.default}" for p in found if p.name not in FLAX_FIELDS]


def compare_text(left: Text, right: Text) -> None:
    """Raises DifferenceError at the first line that is not the same."""
    for mine, other in zip(left, right, strict=False):
        if mine != other:
            raise DifferenceError(f"{mine} against {other}")
    if len(left) != len(right):
        raise DifferenceError(f"{len(left)} and {len(right)} public names: {left[len(right) :] or right[len(left) :]}")


def test_files_are_the_same() -> None:
    assert modules(ivfast_jax) == modules(ivfast_torch)


@pytest.mark.parametrize("name", modules(ivfast_jax))
def test_public_names_order_parameters_and_defaults_are_the_same(name: str) -> None:
    place = "" if name == "__init__" else f".{name}"
    texts = [public_text(importlib.import_module(package + place)) for package in ("ivfast_jax", "ivfast_torch")]
    assert texts[0]
    compare_text(*texts)


@pytest.mark.parametrize(
    "other",
    [
        lambda log_p, log_q, valid, m: None,  # noqa: ARG005
        lambda log_p, log_q, m, valid=True: None,  # noqa: ARG005
        lambda log_p, log_q, m: None,  # noqa: ARG005
    ],
    ids=["order", "default", "dropped"],
)
def test_a_changed_parameter_is_caught(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = public_text(ivfast_torch.loss)
    other.__doc__ = ivfast_torch.loss.meet.__doc__
    monkeypatch.setattr(ivfast_torch.loss, "meet", other)
    with pytest.raises(DifferenceError):
        compare_text(before, public_text(ivfast_torch.loss))
