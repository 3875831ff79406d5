"""dcnet.safetensors: what is saved is what is read, and only beside its own ivfast.npy."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from ivfast.data.space import Space
from ivfast.route.routers import ROUTERS, RouterKind
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import file_hash, save_array
from ivfast.runtime.tensors import read_tensors
from ivfast.store.dcnet_file import SCHEMA, Model, load_model, save_model
from ivfast.store.records import Facts, Predicted, Storing, router_plans
from ivfast.store.rules import RULES

COPIES = (0.0, 0.8, 1.25)
ASKING = np.array([0.9, 1 / 3], np.float32)


def make_storings(rng: np.random.Generator, copies: tuple[float, ...], *, fitted: bool) -> tuple[Storing, ...]:
    """A record for each number of copies, each with numbers of its own."""
    found = []
    for i, number in enumerate(copies):
        predicted = {"0.90": Predicted(7.5 + i, 1 / (7 + i)), "0.99": Predicted(31.0, 0.4 + number)}
        storing_t, m = (float(rng.choice([0.7, 1.0, 1.5])), rng.dirichlet(np.ones(5))) if fitted else (None, None)
        found.append(Storing(number, predicted if i else {}, storing_t, m, 2.0 * i))
    return tuple(found)


def make_model(metric: str = "L2", *, deep: bool = True, copies: tuple[float, ...] = COPIES) -> Model:
    rng = np.random.default_rng(3)
    facts = {
        "kmeans": Facts(11.25, 1 / 3, 2.0, make_storings(rng, copies, fitted=False), 0.02),
        "centers": Facts(12.1, 1.7, 3.5, make_storings(rng, copies, fitted=True), 0.03),
    }
    net = {}
    if deep:
        facts["net"] = Facts(13.0, 0.9, 1.0, make_storings(rng, copies, fitted=True), 0.01)
        shapes = {
            "centers": (5, 4), "layers_0.weight": (4, 3), "layers_0.bias": (3,), "norms_0.scale": (3,),
            "norms_0.bias": (3,), "layers_1.weight": (3, 5), "layers_1.bias": (5,),
        }  # fmt: skip
        # Fortran order
        net = {name: rng.standard_normal(shape[::-1]).astype(np.float32).T for name, shape in shapes.items()}
    space = Space(metric, rng.standard_normal(4).astype(np.float32), np.float32(0.1))
    settings = {"seed": 7, "ftopk": 10, "normalize": False, "learn_name": "näher"}
    about = {"settings": settings, "chosen_epochs": {"centers": 3}}
    mean = rng.standard_normal(4).astype(np.float32)
    return Model(
        facts=facts, net=net, mean=mean, scale=np.float32(1 / 3), space=space, delta_floor=1.1e-9,
        param_list=(4, 3, 5) if deep else (4, 5), asking=ASKING, about=about,
    )  # fmt: skip


@pytest.fixture
def centers_path(tmp_path: Path) -> Path:
    save_array(tmp_path / "ivfast.npy", np.arange(20, dtype=np.float32).reshape(5, 4))
    return tmp_path / "ivfast.npy"


def leaves(value: Any, name: str = "model") -> dict[str, Any]:
    """Every number, text and array of a record by its field's name, with types, and arrays as their bytes."""
    if isinstance(value, np.ndarray):
        return {name: (value.dtype, value.shape, value.tobytes())}
    inner = value._asdict() if hasattr(value, "_fields") else value
    inner = {str(i): held for i, held in enumerate(inner)} if type(inner) is tuple else inner
    if not isinstance(inner, dict):
        return {name: (type(value), value)}
    found: dict[str, Any] = {name: (type(value), set(inner))}
    for key, held in inner.items():
        found |= leaves(held, f"{name}.{key}")
    return found


def assert_same(found: Model | None, expected: Model) -> None:
    assert found is not None
    one, two = leaves(found), leaves(expected)
    assert {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)} == set()


def spoiled(value: Any, name: str = "model") -> Iterator[tuple[str, Any]]:
    """The record again and again, each time with one of its numbers, texts and arrays another."""
    if isinstance(value, np.ndarray):
        yield name, np.nextafter(value, value.dtype.type(9))
        yield name, value.astype(np.float16 if value.dtype == np.float32 else np.float32)
    elif hasattr(value, "_fields"):
        for field, held in value._asdict().items():
            for inner, other in spoiled(held, f"{name}.{field}"):
                yield inner, value._replace(**{field: other})
    elif type(value) is tuple:
        yield name, value * 2
        for i, held in enumerate(value):
            for inner, other in spoiled(held, f"{name}.{i}"):
                yield inner, (*value[:i], other, *value[i + 1 :])
    elif value is None:
        yield name, 0.5
    elif isinstance(value, dict):
        yield name, value | {"more": 1}
        for key, held in value.items():
            yield name, without(value, key)
            for inner, other in spoiled(held, f"{name}.{key}"):
                yield inner, value | {key: other}
    else:
        yield name, (value or 1) * 2  # of numbers and texts alike


def test_comparison_of_models_sees_every_field() -> None:
    """Otherwise what is ruined on load would pass for what was saved."""
    model = make_model()
    seen = set()
    for name, other in spoiled(model):
        with pytest.raises(AssertionError):
            assert_same(other, model)
        seen.add(name)
    assert seen >= {f"model.{field}" for field in ("mean", "scale", "delta_floor", "param_list", "asking")}
    assert seen >= {f"model.space.{field}" for field in Space._fields}
    assert seen >= {f"model.facts.{router}.{field}" for router in model.facts for field in Facts._fields}
    for router in model.facts:
        for i in range(len(COPIES)):
            assert seen >= {f"model.facts.{router}.storings.{i}.{field}" for field in Storing._fields}
        assert seen >= {f"model.facts.{router}.storings.2.predicted.0.90.{field}" for field in Predicted._fields}
    assert seen >= {f"model.{group}.{name}" for group in ("net", "about") for name in getattr(model, group)}


@pytest.mark.parametrize("metric", ["IP", "L2"])
@pytest.mark.parametrize("deep", [True, False])
def test_save_then_load_is_identity(metric: str, deep: bool, centers_path: Path):
    model = make_model(metric, deep=deep)
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, model, centers_path)
    assert_same(load_model(path, centers_path), model)


@given(st.lists(st.floats(0, 9), min_size=1, max_size=4, unique=True))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_every_number_of_copies_keeps_its_record(tmp_path_factory: pytest.TempPathFactory, copies: list[float]):
    folder = tmp_path_factory.mktemp("model")
    save_array(folder / "ivfast.npy", np.ones((5, 4), np.float32))
    model = make_model(copies=tuple(copies))
    save_model(folder / "dcnet.safetensors", model, folder / "ivfast.npy")
    assert_same(load_model(folder / "dcnet.safetensors", folder / "ivfast.npy"), model)


def test_repeated_writes_give_equal_bytes(centers_path: Path):
    contents = set()
    for i in range(5):
        path = centers_path.with_name(f"{i}.safetensors")
        save_model(path, make_model(), centers_path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_file_of_other_centers_is_not_taken(centers_path: Path):
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, make_model(), centers_path)
    centers = np.load(centers_path)
    centers[-1, -1] = np.nextafter(centers[-1, -1], np.float32(0))
    save_array(centers_path, centers)
    assert load_model(path, centers_path) is None


def test_absent_file_is_none(centers_path: Path):
    assert load_model(centers_path.with_name("dcnet.safetensors"), centers_path) is None


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_unreadable_file_is_an_error_that_names_it(content: bytes, centers_path: Path):
    path = centers_path.with_name("dcnet.safetensors")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"dcnet\.safetensors cannot be read"):
        load_model(path, centers_path)


def test_level_of_recall_that_is_never_reached_stays_so(centers_path: Path):
    model = make_model()
    never = model.facts["net"].storings[1]._replace(predicted={"0.99": Predicted(math.nan, math.nan)})
    changed = model.facts["net"]._replace(storings=(never,))
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, model._replace(facts=model.facts | {"net": changed}), centers_path)
    found = load_model(path, centers_path)
    assert found is not None
    assert np.isnan(found.facts["net"].storings[0].predicted["0.99"]).all()


@pytest.mark.parametrize("metadata", [None, {"ivfast": json.dumps({"schema": 99})}, {"ivfast": '{"schema": 3}'}])
def test_other_schema_is_an_error_that_names_the_file(metadata: dict[str, str] | None, centers_path: Path):
    path = centers_path.with_name("dcnet.safetensors")
    save_file({"x": np.ones(3, np.float32)}, path, metadata)
    with pytest.raises(UserError, match=r"dcnet\.safetensors has schema"):
        load_model(path, centers_path)


WRONG: list[tuple[str, Callable[[Model], Model]]] = [
    ("net.layers_0.weight has shape (3, 4), expected (4, 3)", lambda m: with_net(m, "layers_0.weight", (3, 4))),
    ("net.layers_2.bias has shape (5,), expected None", lambda m: with_net(m, "layers_2.bias", (5,))),
    ("net.layers_1.bias has shape None, expected (5,)", lambda m: m._replace(net=without(m.net, "layers_1.bias"))),
    ("net.centers has shape None, expected (5, 4)", lambda m: m._replace(net={})),
    ("net.layers_0.bias has shape (3,), expected (9,)", lambda m: m._replace(param_list=(4, 9, 5))),
    ("input.mean has shape (9,), expected (4,)", lambda m: m._replace(mean=np.ones(9, np.float32))),
    ("space.mean holds NaN", lambda m: m._replace(space=m.space._replace(mean=np.full(4, np.nan, np.float32)))),
    ("asking has shape (2, 3), expected (6,)", lambda m: m._replace(asking=np.ones((2, 3), np.float32))),
    ("asking holds NaN", lambda m: m._replace(asking=np.full(20, np.nan, np.float32))),
    ("metric 'cosine'", lambda m: m._replace(space=m.space._replace(metric="cosine"))),
    ("index out of range", lambda m: m._replace(param_list=())),
    ("'kmeans'", lambda m: m._replace(facts=without(m.facts, "kmeans"))),
    ("centers has 0.0 among k", lambda m: with_facts(m, k=0.0)),
    ("centers has nan among k", lambda m: with_facts(m, probing_t=math.nan)),
    ("centers has inf among k", lambda m: with_facts(m, nprobe=math.inf)),
    ("net has None among k", lambda m: with_storing(m, "net", storing_t=None)),
    ("centers has wait [-1.0]", lambda m: with_storing(m, "centers", wait=-1.0)),
    ("centers has -1.0 among k", lambda m: with_storing(m, "centers", storing_t=-1.0)),
    ("kmeans has 0 among k", lambda m: m._replace(delta_floor=0)),
    ("TypeError", lambda m: with_facts(m, k="12")),
    ("centers lacks m for copies [0.8]", lambda m: with_storing(m, "centers", m=None)),
    ("use.centers.1 has shape (3,), expected (5,)", lambda m: with_storing(m, "centers", m=np.ones(3))),
    ("use.net.1 holds NaN", lambda m: with_storing(m, "net", m=np.full(5, np.nan))),
    ("TypeError", lambda m: with_storing(m, "net", predicted={"0.90": (1.0, 2.0, 3.0)})),
    ("ValueError", lambda m: with_storing(m, "net", predicted={"0.90": ("a", 2.0)})),
    ("centers has copies [-0.5]", lambda m: with_storing(m, "centers", copies=-0.5)),
    ("kmeans has copies [nan]", lambda m: with_storing(m, "kmeans", copies=math.nan)),
    ("'seed'", lambda m: m._replace(about={"settings": {}})),
    ("'ftopk'", lambda m: m._replace(about={"settings": without(m.about["settings"], "ftopk")})),
    ("'normalize'", lambda m: m._replace(about={"settings": without(m.about["settings"], "normalize")})),
]


def with_net(model: Model, name: str, shape: tuple[int, ...]) -> Model:
    return model._replace(net=model.net | {name: np.ones(shape, np.float32)})


def with_facts(model: Model, **changes: Any) -> Model:
    return model._replace(facts=model.facts | {"centers": model.facts["centers"]._replace(**changes)})


def with_storing(model: Model, router: str, **changes: Any) -> Model:
    """Its second record changed."""
    facts = model.facts[router]
    first, second, *others = facts.storings
    changed = facts._replace(storings=(first, second._replace(**changes), *others))
    return model._replace(facts=model.facts | {router: changed})


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(("told", "spoil"), WRONG, ids=[told for told, _ in WRONG])
def test_model_that_does_not_fit_itself_is_refused(
    told: str, spoil: Callable[[Model], Model], centers_path: Path
) -> None:
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, spoil(make_model()), centers_path)
    with pytest.raises(UserError, match=rf"dcnet\.safetensors is not as schema {SCHEMA} has it .*{re.escape(told)}"):
        load_model(path, centers_path)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"schema": ' * 200_000])
def test_nested_metadata_is_an_error_that_names_the_file(text: str, centers_path: Path) -> None:
    path = centers_path.with_name("dcnet.safetensors")
    save_file({"x": np.ones(3, np.float32)}, path, {"ivfast": text})
    with pytest.raises(UserError, match=r"dcnet\.safetensors cannot be read"):
        load_model(path, centers_path)


def test_a_file_of_an_earlier_version_waits_for_nothing(centers_path: Path) -> None:
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, make_model(), centers_path)
    arrays, metadata = read_tensors(path)
    about = json.loads(metadata["ivfast"])
    for router in about["routers"].values():
        for storing in router["storings"]:
            del storing["wait"]
    save_file(arrays, path, {"ivfast": json.dumps(about)})
    found = load_model(path, centers_path)
    assert found is not None
    assert {storing.wait for facts in found.facts.values() for storing in facts.storings} == {0.0}


def test_a_record_is_found_by_its_number_of_copies() -> None:
    """However the number was written down: 0.8 in float32 is another than 0.8."""
    facts = make_model().facts["centers"]
    for i, number in enumerate(COPIES):
        numbers: list[Any] = [number, np.float32(number), np.float64(number), number * (1 + 1e-9)]
        for same in numbers:
            assert facts.storing(same) is facts.storings[i]
    assert facts.storing(0) is facts.storings[0]
    for other in (0.81, 1.2, 0.001, math.nan):
        assert facts.storing(other) is None


def test_what_rules_are_made_from_is_taken_from_the_records() -> None:
    model = make_model()
    for router, facts in model.facts.items():
        terms = facts.terms([1.25, 0.8 + 1e-9], None)
        assert [t.copies for t in terms] == [1.25, 0.8]
        for t, storing in zip(terms, (facts.storings[2], facts.storings[1]), strict=True):
            assert t.storing_t == (storing.storing_t or 1.0)
            assert t.m is storing.m
            assert (t.wait, t.recall) == (storing.wait, facts.recall)
            assert t.demand is None
        assert (terms[0].m is None) == (router == "kmeans")


@pytest.mark.parametrize("kind", ROUTERS.values(), ids=ROUTERS)
def test_plans_of_a_router_are_all_its_rules_for_all_numbers_of_copies(kind: RouterKind) -> None:
    plans = router_plans(kind, make_model().facts[kind.name], COPIES)
    assert [(plan.name, plan.copies) for plan in plans] == [(rule, copies) for rule in kind.rules for copies in COPIES]
    unfitted = router_plans(kind, None, (0.0, 2.5))
    rules = [rule for rule in kind.rules if not RULES[rule].fitted]
    assert [(plan.name, plan.copies) for plan in unfitted] == [(r, copies) for r in rules for copies in (0.0, 2.5)]


def test_failed_write_keeps_the_old_file(centers_path: Path):
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, make_model(), centers_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_model(path, make_model()._replace(about={"bad": object()}), centers_path)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["dcnet.safetensors", "ivfast.npy"]


def test_metadata_carries_the_hash_of_ivfast_npy(centers_path: Path):
    path = centers_path.with_name("dcnet.safetensors")
    save_model(path, make_model(), centers_path)
    expected = hashlib.sha256(centers_path.read_bytes()).hexdigest()
    assert file_hash(centers_path) == expected
    with safe_open(path, framework="numpy") as file:
        assert json.loads((file.metadata() or {})["ivfast"])["ivfast_sha256"] == expected
