"""Eight devices train what one trains: states, centers and buckets are the same, and little is sent between them."""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from ivfast.network.backend import Setup
from ivfast.runtime.errors import UserError
from ivfast_jax.layout import parts_of_buckets
from ivfast_torch import make_backend
from parity_tests.cases import BATCH, DIM, HIDDEN, Case, make_problem
from parity_tests.devices import CASES, EPOCHS, SEEN, WIDE

pytestmark = pytest.mark.parity

MESHES = ("data 8", "model 8", "data 4 x model 2")
XLA_FLAGS = (  # little is optimised, since compiling takes nearly all the time
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)
FLOAT64, FLOAT32 = 1e-12, 1e-6
MOVED = ("all-gather", "all-to-all", "collective-permute")

every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.xdist_group(case)) for case in CASES]
)


@cache
def found(case: str) -> dict[str, Any]:
    """What eight pretended devices compute, beside one of them."""
    flags = os.environ | {"XLA_FLAGS": XLA_FLAGS, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "parity_tests.devices", case]
    done = subprocess.run(command, env=flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@every_case
def test_states_are_those_of_one_device(case: str) -> None:
    assert (found(case)["devices"], found(case)["skipped"]) == (8, EPOCHS)
    for precision, most in (("float64", FLOAT64), ("float32", FLOAT32)):
        for mesh in MESHES:
            gaps = found(case)["gaps"][f"{precision}, {mesh}"]
            assert {"centers", "use/centers", "scale/value", "sums/loss_centers", "sums/n_skipped"} <= gaps.keys()
            assert not {name: gap for name, gap in gaps.items() if not gap <= most}


@every_case
def test_neither_logits_nor_the_last_weight_are_gathered(case: str) -> None:
    """All that is brought together are the best few of each row, and numbers of buckets."""
    columns = SEEN if "blocks" in case else WIDE
    logits, weight = 4 * 2 * BATCH * columns, 4 * (HIDDEN[-1] if "deep" in case else DIM) * WIDE
    for mesh in MESHES:
        sent = found(case)["collectives"][mesh]
        assert any(operation == "all-reduce" for operation, _ in sent)
        assert max((size for operation, size in sent if operation in MOVED), default=0) <= min(logits // 4, weight)


def setup_of(nlist: int, *widths: int) -> Setup:
    """As wide as is asked for; nothing else of it matters."""
    setup = make_problem(Case("IP", deep=len(widths) > 1, drop=False)).setup
    return setup._replace(param_list=(*widths, nlist))


@pytest.mark.parametrize(
    ("setup", "parts"),
    [
        (setup_of(16_384, 256, 512, 1024, 2048, 8192), 1),  # the documented size: 2.2 GB
        (setup_of(1 << 22, 256), 2),  # four arrays of 4.3 GB
        (setup_of(1 << 24, 256), 8),
        (setup_of(1_000_003, 768), 1),  # a prime: in parts of equal size alone
    ],
)
def test_buckets_are_split_where_one_device_could_not_hold_them(setup: Setup, parts: int) -> None:
    assert parts_of_buckets(8, setup) == parts


@pytest.mark.parametrize("gpu", [(0, 1), "all"])
def test_torch_trains_on_one_device(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivfast_torch._gpus", lambda: ["cuda:0", "cuda:1"])
    with pytest.raises(UserError, match=r"--backend torch: trains on one device, found --gpu with 2; .*--backend jax"):
        make_backend(make_problem(Case("IP", deep=False, drop=False)).setup, gpu)
