"""The modules around the network: for users of Flax and torch, over the same functions that train."""

from typing import Any

import flax.serialization
import jax
import numpy as np
import pytest
import torch

from ivfast.network.backend import weight_shapes
from parity_tests.cases import CASES, Case, make_problem
from parity_tests.comparisons import short_batch
from parity_tests.twins import JAX, TORCH, TWINS, Twin, to_numpy

pytestmark = pytest.mark.parity

whole_cases = pytest.mark.parametrize("case", [c for c in CASES if not c.drop], ids=lambda case: case.name)


def given(twin: Twin, case: Case) -> tuple[Any, dict[str, Any], Any]:
    """A backend, weights and vectors, in float32."""
    problem = make_problem(case)
    backend = twin.backend(problem, "float32")
    return backend, backend.put(problem.group("params")), twin.array(short_batch(problem).x, backend.policy.stat)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
@whole_cases
def test_the_module_is_its_functions_to_the_bit(case: Case, twin: Twin) -> None:
    backend, params, x = given(twin, case)
    z, deep = (
        backend.network.apply({"params": params}, x, backend.constants)
        if twin is JAX
        else torch.func.functional_call(backend.network, params, (x, backend.constants))
    )
    c = twin.model.centers(params["u"], backend.constants, case.metric)
    alone = twin.model.center_logits(x, c, backend.constants.delta_floor, case.metric, backend.policy)
    np.testing.assert_array_equal(to_numpy(z), to_numpy(alone))
    added = twin.model.deep(params, x, backend.constants, backend.policy)
    assert (deep is None) == (added is None) == (not case.deep)
    if case.deep:
        np.testing.assert_array_equal(to_numpy(deep), to_numpy(added))


@whole_cases
def test_flax_initialises_and_serialises_by_the_weights_names(case: Case) -> None:
    backend, params, x = given(JAX, case)
    begun: Any = backend.network.init(jax.random.key(0), x, backend.constants)
    shapes = {name: value.shape for name, value in begun["params"].items()}
    assert shapes == weight_shapes(backend.setup.param_list)
    read = flax.serialization.from_bytes(begun, flax.serialization.to_bytes({"params": params}))
    for name, value in params.items():
        np.testing.assert_array_equal(read["params"][name], value, err_msg=name)


@whole_cases
def test_torch_loads_a_state_dict_by_the_weights_names(case: Case) -> None:
    backend, params, x = given(TORCH, case)
    shapes = {name: tuple(value.shape) for name, value in backend.network.state_dict().items()}
    assert shapes == weight_shapes(backend.setup.param_list)
    other = TORCH.model.DCNet(backend.setup.param_list, case.metric, backend.policy)
    other.load_state_dict(params, assign=True)
    expected = torch.func.functional_call(backend.network, params, (x, backend.constants))
    np.testing.assert_array_equal(to_numpy(other(x, backend.constants)[0]), to_numpy(expected[0]))
