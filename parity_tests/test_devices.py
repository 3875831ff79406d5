"""Eight devices train what one trains: states, centers and buckets are the same, and little is sent between them."""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from ivfast.network.backend import Blocks, Setup
from parity_tests.cases import BATCH, DIM, HIDDEN, NLIST, Case, make_problem
from parity_tests.test_blocks import BLOCKS

pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("devices")]

MESHES = ("data 8", "model 8", "data 4 x model 2")
CASES = ("IP-deep", "L2-linear", "IP-deep-blocks", "L2-linear-blocks")
FLOAT64, FLOAT32 = 1e-12, 1e-6

each_mesh = pytest.mark.parametrize("mesh", MESHES)
every_case = pytest.mark.parametrize("case", CASES)


@cache
def found() -> dict[str, Any]:
    """What eight pretended devices compute, beside one of them."""
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "parity_tests.devices"], env=flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@every_case
@each_mesh
def test_states_are_those_of_one_device(case: str, mesh: str) -> None:
    assert found()["devices"] == 8
    for precision, most in (("float64", FLOAT64), ("float32", FLOAT32)):
        gaps = found()["gaps"][f"{case}, {precision}, {mesh}"]
        assert {"centers", "use/centers", "scale/value", "sums/loss_centers", "sums/n_skipped"} <= gaps.keys()
        assert not {name: gap for name, gap in gaps.items() if not gap <= most}


def test_steps_were_skipped() -> None:
    assert found()["skipped"] == 9


@each_mesh
@every_case
def test_neither_logits_nor_the_last_weight_are_gathered(case: str, mesh: str) -> None:
    """All that is gathered are the best few of each row, and numbers of buckets."""
    sent = found()["collectives"][f"{case}, {mesh}"]
    assert any(operation == "all-reduce" for operation, _ in sent)
    gathered = [size for operation, size in sent if operation in ("all-gather", "all-to-all", "collective-permute")]
    rows, bytes_of_one = 2 * (BATCH + BLOCKS.pairs), 4
    assert max(gathered, default=0) < bytes_of_one * min(rows * NLIST, HIDDEN[-1] * NLIST)


def setup_of(nlist: int, widths: tuple[int, ...], blocks: Blocks | None = None) -> Setup:
    """As wide as is asked for; nothing else of it matters."""
    setup = make_problem(Case("IP", deep=False, drop=False)).setup
    return setup._replace(param_list=(DIM, *widths, nlist), blocks=blocks)
