"""`ivfast fit --query_log`, and `ivfast evaluate` where queries are of another kind than what is stored."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import ivfast
from ivfast.front.command_line import main
from ivfast.runtime.errors import UserError
from tests.query_logs import make_set

WARNED = "warning: queries are of another kind than what is stored: their nearest vector lies "


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_set`."""
    return make_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """What `ivfast fit` left, by its further flags."""

    @cache
    def fit(*more: str) -> Path:
        out = tmp_path_factory.mktemp("fit") / "out"
        words = ["fit", str(data / "s" / "base.npy"), "--save_path", str(out), "--nlist", "32", "--epochs", "2"]
        assert main([*words, "--query", str(data / "s" / "query.npy"), "--backend", "torch", *more]) == 0
        return out

    return fit


def test_a_log_asks_for_queries_to_evaluate_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of base, which try an index otherwise, would say nothing of it."""
    words = ["fit", str(data / "s" / "base.npy"), "--save_path", str(tmp_path), "--query_log", str(data / "log.npy")]
    assert main(words) == 2
    assert "--query_log is given without --query: expected real queries" in capsys.readouterr().err
    assert main([*words, "--query", str(data / "log.npy")]) == 2
    assert "--query_log and --query are both" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"query_log is given without query"):
        ivfast.fit(np.load(data / "s" / "base.npy"), query_log=np.load(data / "log.npy"), save_path=tmp_path / "o")


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda log: log[:, :15], "query_log: found rows of 15 columns, expected 16"),
    (lambda log: log[:99], r"query_log: \(array\) has 99 different rows that can be used, expected 100 or more"),
    (lambda log: np.repeat(log[:99], 2, axis=0), r"query_log: \(array\) has 99 different rows"),
    (lambda log: 2 * log, "query_log: .* norm 2"),
    (lambda log: np.where(np.arange(len(log))[:, None] == 3, np.nan, log), "query_log: .*row 3 holds NaN"),
])  # fmt: skip
def test_a_log_that_cannot_be_used_is_refused(
    spoil: Callable[[np.ndarray], np.ndarray], said: str, data: Path, tmp_path: Path
) -> None:
    base, query, log = (np.load(data / f"{name}.npy") for name in ("s/base", "s/query", "log"))
    with pytest.raises(UserError, match=said):
        ivfast.fit(base, query=query, query_log=spoil(log).astype(np.float32), nlist=32, save_path=tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.whole_run
@pytest.mark.xdist_group("query_log_front")
def test_a_fit_learns_from_a_log(fitted: Callable[..., Path], data: Path) -> None:
    plain, logged = fitted(), fitted("--query_log", str(data / "log.npy"))
    assert "the log trains, and tells who asks" in (logged / "train.log").read_text()
    query, gt = (np.load(data / "s" / f"{name}.npy") for name in ("query", "gt"))
    of_logged, of_plain = (ivfast.load_index(out).evaluate(query, gt, recalls=(0.9,))[0] for out in (logged, plain))
    assert of_logged.recall == pytest.approx(0.9, abs=0.03)  # calibrated on logged queries
    assert abs(of_plain.recall - 0.9) > 0.03
    recalls = (0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)

    def scanned(out: Path) -> float:
        found = ivfast.load_index(out).evaluate(query, gt, recalls=recalls)
        return float(np.interp(0.9, [one.recall for one in found], [one.scanned for one in found]))

    assert scanned(logged) < 0.85 * scanned(plain)


@pytest.mark.whole_run
@pytest.mark.xdist_group("query_log_front")
def test_a_finished_fit_takes_no_log_and_is_left_as_it_was(
    fitted: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    base, query, log = (np.load(data / f"{name}.npy") for name in ("s/base", "s/query", "log"))
    shutil.copytree(fitted(), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()}
    with pytest.raises(UserError, match=r"another configuration: --query_log data/query_log .* start anew elsewhere"):
        ivfast.fit(
            base, 32, epochs=2, query=query[:300], query_log=log, save_path=tmp_path / "out", backend="torch"
        )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()} == before


@pytest.mark.whole_run
@pytest.mark.xdist_group("query_log_front")
def test_an_evaluation_warns_of_queries_of_another_kind(
    fitted: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, query = (np.load(data / "s" / f"{name}.npy") for name in ("base", "query"))
    near = base[::10] + np.float32(0.1) * np.random.default_rng(3).standard_normal((400, 16)).astype(np.float32)
    np.save(tmp_path / "near.npy", near / np.linalg.norm(near, axis=1, keepdims=True))

    def told(out: Path, file: Path) -> str:
        capsys.readouterr()
        assert main(["evaluate", str(out), "--query", str(file), "--recall", "0.9"]) == 0
        return " ".join(capsys.readouterr().err.split())

    plain, asked = fitted(), data / "s" / "query.npy"
    said = told(plain, asked)
    assert WARNED in said
    own = np.sort(2 - 2 * base.astype(np.float64) @ base.T, axis=1)[:, 1]
    times = np.sqrt(np.median((2 - 2 * query.astype(np.float64) @ base.T).min(axis=1)) / np.median(own))
    assert float(said.split(WARNED)[1].split(" ")[0]) == pytest.approx(times, rel=0.1)  # of a hundred each
    assert WARNED not in told(plain, tmp_path / "near.npy")
    assert WARNED not in told(plain, data / "s" / "base.npy")  # themselves
    assert WARNED not in told(fitted("--query_log", str(data / "log.npy")), asked)
    turned_down = fitted("--query_log", str(data / "noise.npy"))
    assert "the log is not used" in (turned_down / "train.log").read_text()
    assert WARNED in told(turned_down, asked)
    assert json.loads((turned_down / "data.json").read_text())["logged"] is False
    logged = fitted("--query_log", str(data / "log.npy"))
    page = (logged / "report.html").read_text()
    assert "training vectors alone" not in page
    assert "queries train, with" in page
    said = told(logged, tmp_path / "near.npy")  # nearer than those of the log
    assert "warning: queries are of another kind than the log: their nearest vector lies 0." in said
