"""Reading what a backend has learned: from weights alone, and no more of them than is asked for."""

import importlib
from typing import Any

import numpy as np
import pytest

from ivfast.network.backend import Goal, starting_weights
from tests.test_precision import DIM, NLIST, begin, make_chunk

WIDTHS = (DIM, 12, NLIST)

each_backend = pytest.mark.parametrize("name", ["jax", "torch"])


def trained(name: str, rng: np.random.Generator) -> tuple[Any, Any]:
    """A backend, and its state after three steps."""
    backend, state = begin(name, rng, "float32", 1.0)
    return backend, backend.train_chunk(state, make_chunk(rng, (False,) * 3), Goal(10.0, 3.0, 9.0, 0.3))[0]


@each_backend
def test_reading_centers_copies_the_centers_and_nothing_else(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, state = trained(name, rng)
    package = importlib.import_module(f"ivfast_{name}")
    to_host, copied = package._numpy, []

    def counted(value: Any) -> np.ndarray:
        copied.append(to_host(value))
        return copied[-1]

    monkeypatch.setattr(package, "_numpy", counted)
    others: dict[str, Any] = {key: object() for key in state.params if key != "u"}  # of no use to anybody
    centers = backend.centers({"u": state.params["u"]} | others)
    assert [value.nbytes for value in copied] == [NLIST * DIM * 4]
    assert (centers.shape, centers.dtype) == ((NLIST, DIM), np.float32)


@each_backend
def test_centers_are_no_view_of_weights_that_train_on(name: str, rng: np.random.Generator) -> None:
    backend, state = trained(name, rng)
    centers, weights = backend.centers(state.params), backend.weights(state.params)
    before = centers.copy(), {key: value.copy() for key, value in weights.items()}
    backend.train_chunk(state, make_chunk(rng, (False,) * 3), Goal(10.0, 3.0, 9.0, 0.3))
    np.testing.assert_array_equal(centers, before[0])
    for key, value in weights.items():
        np.testing.assert_array_equal(value, before[1][key], err_msg=key)


@each_backend
def test_a_candidate_s_centers_logits_and_export_are_its_state_s_to_the_bit(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate is a copy of weights on the host, of u alone for the centers."""
    backend, state = trained(name, rng)
    monkeypatch.setattr(f"ivfast_{name}.init_moments", None)  # no moments for those who only read
    kept = backend.weights(state.params)
    assert kept.keys() == starting_weights(WIDTHS, 1).keys()
    params, x = backend.put(kept), rng.standard_normal((50, DIM)).astype(np.float32)
    centers = backend.centers(state.params)
    assert np.abs(centers - backend.setup.start).max() > 1e-3
    for same in (backend.centers(params), backend.centers(backend.put({"u": kept["u"]}))):
        np.testing.assert_array_equal(same, centers)
    np.testing.assert_array_equal(backend.logits(params, x, 7.0), backend.logits(state.params, x, 7.0))
    exported = backend.export(state.params)
    assert exported.keys() == {"centers"} | (kept.keys() - {"u"})
    for key, value in backend.export(params).items():
        np.testing.assert_array_equal(value, exported[key], err_msg=key)
