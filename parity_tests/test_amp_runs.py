"""Whole runs in mixed precision find what float32 finds, in both backends."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ivfast.choose.verdict import Candidate, Choice, Verdict
from ivfast.train import finish as exporting
from parity_tests.cases import Case
from parity_tests.runs import EPOCHS, Outcome, make_config, run, write_data

pytestmark = [pytest.mark.parity, pytest.mark.whole_run]

RECALL = 0.005  # largest gap seen: 0.0014, of bfloat16; of float16 0.0002
LENGTH = {"IP": 1.0, "L2": 300.0}  # of all rows; a thousand times the latter is beyond float16

# Each mode, type and metric with each other once; test_precision compares steps of the other four.
CASES = [("O1-float16", "IP"), ("O1-bfloat16", "L2"), ("O2-float16", "L2"), ("O2-bfloat16", "IP")]

Runs = Callable[[str, str, str, float], Outcome]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One run of a backend, a mode, a metric and a length of all rows; each once."""

    @cache
    def data(length: float) -> Path:
        folder = tmp_path_factory.mktemp("amp")
        write_data(folder, length)
        return folder

    @cache
    def outcome(backend: str, mode: str, metric: str, length: float) -> Outcome:
        config = make_config(Case(metric, deep=True, drop=False), data(length))
        config = replace(config, save_path=config.save_path / mode)
        if mode != "float32":
            apex_mode, amp_dtype = mode.split("-")
            config = replace(config, use_amp=True, apex_mode=apex_mode, amp_dtype=amp_dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting, "decide", last_epoch)
            return run(config, backend, "float32", patch)

    return outcome


def last_epoch(choice: Choice, shorter: list[Candidate], kmeans: object, seed: int) -> Verdict:
    """The same for all: of epochs and ways as good as each other, the choice is rounding's."""
    del choice, kmeans, seed
    return Verdict(shorter[0], 0.1, 0.01, "the last epoch")


def gap(left: Outcome, right: Outcome) -> float:
    """Largest difference of recall, mean over nprobes, of all routers, rules and percents."""
    mine, other = left.reported("recall"), right.reported("recall")
    assert mine.keys() == other.keys()
    return max(abs(float((mine[line] - other[line]).mean())) for line in mine if "fixed" in line)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize(("mode", "metric"), CASES)
def test_half_precision_reaches_float32_s_recall(mode: str, metric: str, backend: str, runs: Runs) -> None:
    half, whole = (runs(backend, name, metric, LENGTH[metric]) for name in (mode, "float32"))
    assert half.states[-1]["scale/n_skipped"] == 0
    assert half.states[-1]["scale/value"] == 2048  # 1024 at the start, doubled once: after 50 of some 85 steps
    assert half.chosen == whole.chosen == {"centers": EPOCHS, "net": EPOCHS}
    assert gap(half, whole) <= RECALL


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_l2_beyond_the_range_of_float16_trains_as_within(backend: str, runs: Runs) -> None:
    within, beyond = (runs(backend, "O2-float16", "L2", LENGTH["L2"] * factor) for factor in (1, 1e3))
    assert np.abs(within.ivfast).max() < 300
    assert np.abs(beyond.ivfast).max() > 65_504
    assert beyond.states[-1]["scale/n_skipped"] == 0
    assert gap(beyond, within) <= RECALL
