"""Collapse is noticed and told with advice; a run that learns is left in peace."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ivfast.network.backend import Chunk
from ivfast.train import together as training
from ivfast.train.health import ADVICE, collapse
from ivfast.train.pairs import PairSource, epoch_chunks
from run_dcnet import main
from tests.runs import make_data

pytestmark = pytest.mark.usefixtures("one_thread")

CHANCE = math.log(64)


def test_nothing_is_said_of_a_run_that_learns() -> None:
    used = {"centers": 60, "net": 40}
    assert collapse(used, 64, {"centers": 1.0, "net": 2.0}, 64, warming_up=False) == []


@pytest.mark.parametrize(("used", "n_warnings"), [(6, 1), (7, 0)])
def test_a_tenth_of_kmeans_buckets_in_use_is_the_border(used: int, n_warnings: int) -> None:
    """Of 64: 6.4. Also during warm-up."""
    found = collapse({"centers": 64, "net": used}, 64, {"centers": 1.0, "net": 1.0}, 64, warming_up=True)
    assert len(found) == n_warnings
    for warning in found:
        assert f"net puts the held-out vectors into {used} buckets, k-means into 64" in warning
        assert ADVICE in warning


def test_use_is_counted_against_kmeans_not_against_nlist() -> None:
    """k-means itself uses 20 of 1,000 buckets on few held-out vectors."""
    assert collapse({"centers": 3}, 20, {"centers": 1.0}, 1000, warming_up=False) == []


@pytest.mark.parametrize(("loss", "warming_up", "n_warnings"), [
    (CHANCE, False, 1), (CHANCE, True, 0), (0.99 * CHANCE, False, 0), (2 * CHANCE, False, 1),
])  # fmt: skip
def test_loss_at_chance_is_told_once_warm(loss: float, warming_up: bool, n_warnings: int) -> None:
    found = collapse({"centers": 64}, 64, {"centers": loss}, 64, warming_up=warming_up)
    assert len(found) == n_warnings
    assert all("at chance (4.159)" in warning and ADVICE in warning for warning in found)


def test_one_bucket_is_never_at_chance() -> None:
    assert collapse({"centers": 1}, 1, {"centers": 0.0}, 1, warming_up=False) == []


def test_advice_names_the_flags() -> None:
    assert "--lr" in ADVICE
    assert "--batch_size" in ADVICE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), n_identities=300, n_query=100)


def log_of(data: Path, out: Path, *more: str) -> list[str]:
    flags = (
        "--data_name faces --learn_name learn_faces --nlist 64 --param_list 24 64 --niter 10 --epochs 3 --warmup 1 "
        "--batch_size 200 --percents 0 --gpu -1"
    )
    assert main(["--data_path", str(data), "--save_path", str(out), *flags.split(), *more]) == 0
    return [line for line in (out / "train.log").read_text().splitlines() if "collapsed" in line or "at chance" in line]


@pytest.mark.whole_run
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_strangers_for_neighbours_are_told_as_loss_at_chance(
    backend: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs that have nothing to do with each other: nothing can be learned from the third step on."""

    def strangers(source: PairSource, epoch: int, steps: int, first: int) -> Iterator[Chunk]:
        for chunk in epoch_chunks(source, epoch, steps, first):
            yield chunk._replace(x_pair=np.roll(chunk.x_pair, 1, axis=1))

    monkeypatch.setattr(training, "epoch_chunks", strangers)
    found = log_of(data, tmp_path, "--lr", "1e-3", "--backend", backend)
    assert len(found) == 2  # of three epochs, the first of which warms up
    assert all("the loss of centers is" in line and ADVICE in line for line in found)


@pytest.mark.whole_run
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_learning_rate_that_throws_the_centers_away_is_told_as_collapse(
    backend: str, data: Path, tmp_path: Path
) -> None:
    found = log_of(data, tmp_path, "--metric", "L2", "--lr", "1000", "--backend", backend)
    assert any("centers puts the held-out vectors into" in line for line in found)
    assert all(ADVICE in line for line in found)
    assert log_of(data, tmp_path / "good", "--metric", "L2", "--lr", "2e-3", "--backend", backend) == []
