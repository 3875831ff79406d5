"""Queries of another kind than what an index holds, by either metric, however far from zero it lies."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import ivfast
from ivfast.data.another_kind import LEAST, farther
from ivfast.index.fill import on_disk
from ivfast.index.kind_of_queries import tell_another_kind
from ivfast.index.model import TrainedModel

pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("kind_of_queries")]
SAID = "queries are of another kind than what is stored: their nearest vector lies "


def make(metric: str, seed: int, n: int, wide: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Clumps around thirty middles; wide: times as far from them."""
    middles = 3 * np.random.default_rng(0).standard_normal((30, 12))
    rng = np.random.default_rng(seed)
    rows = middles[rng.integers(30, size=n)] + wide * rng.standard_normal((n, 12)) + offset
    if metric == "IP":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainedModel]:
    @cache
    def of(metric: str, offset: float = 0.0) -> TrainedModel:
        base, folder = make(metric, 1, 3000, offset=offset), tmp_path_factory.mktemp("fit")
        return ivfast.fit(base, 16, metric=metric, epochs=1, save_path=folder, backend="torch")

    return of


@pytest.mark.parametrize(("metric", "offset"), [("IP", 0.0), ("L2", 0.0), ("L2", 1e4), ("L2", 3e5)])
def test_wider_queries_are_told_and_like_ones_are_not(
    metric: str, offset: float, model_of: Callable[..., TrainedModel]
) -> None:
    base = make(metric, 1, 3000, offset=offset)
    index = model_of(metric, offset).index(base, 0.8)
    asked = make(metric, 2, 400, wide=3.0, offset=offset)
    assert tell_another_kind(index, make(metric, 2, 400, offset=offset)) == ""
    said = tell_another_kind(index, asked)
    of_queries = np.linalg.norm(asked[:, None] - base.astype(np.float64), axis=2).min(axis=1)
    own = np.sort(np.linalg.norm(base[::10, None] - base.astype(np.float64), axis=2), axis=1)[:, 1]
    times = np.median(of_queries) / np.median(own)
    assert float(said.removeprefix(SAID).split(" ")[0]) == pytest.approx(times, rel=0.15)  # of a hundred each


def test_twins_do_not_make_base_look_near(model_of: Callable[..., TrainedModel]) -> None:
    """Each vector is stored twice, so that the nearest to it lies at 0."""
    base = make("L2", 1, 3000)
    index = model_of("L2").index(np.concatenate([base, base]), 0.8)
    assert tell_another_kind(index, make("L2", 2, 400)) == ""
    assert tell_another_kind(index, make("L2", 2, 400, wide=3.0)).startswith(SAID)


def test_nothing_is_said_of_few_queries_codes_and_an_empty_index(model_of: Callable[..., TrainedModel]) -> None:
    wide = make("L2", 2, 400, wide=3.0)
    index, coded = (model_of("L2").index(make("L2", 1, 3000), 0.8, kind) for kind in ("Flat", "SQ8"))
    assert tell_another_kind(index, wide[:LEAST]).startswith(SAID)
    assert tell_another_kind(index, wide[: LEAST - 1]) == ""
    assert tell_another_kind(coded, wide) == ""
    index.remove(np.arange(40, 3000))
    assert tell_another_kind(index, wide).startswith(SAID)
    index.remove(np.arange(40))
    assert (len(index), tell_another_kind(index, wide)) == (0, "")


def test_lists_on_disk_are_not_read_whole(model_of: Callable[..., TrainedModel], tmp_path: Path) -> None:
    index = model_of("L2").index(make("L2", 1, 3000), 0.8, lists_file=tmp_path / "lists")
    assert on_disk(index.faiss_index) is not None
    assert tell_another_kind(index, make("L2", 2, 400, wide=3.0)) == ""


def test_like_queries_are_seldom_called_another_kind() -> None:
    rng = np.random.default_rng(1)
    for n in (LEAST, 100):
        shares = [farther(rng.standard_normal(n), rng.standard_normal(100)) for _ in range(2000)]
        assert np.mean([share is not None and share > 0.65 for share in shares]) < 0.01
