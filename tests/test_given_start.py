"""Training from given centers: it starts there, k-means stays what it is measured by, and nothing else is continued."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import ivfast
from ivfast.choose.judgement import Curves, nprobe_grid
from ivfast.data.synthetic import make_faces
from ivfast.front.command_line import main as ivfast_main
from ivfast.front.given import open_given
from ivfast.runtime.command_line import parse
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.train import epochs as training
from ivfast.train.given import digest_of
from ivfast.train.run import Run, start_run
from run_dcnet import main
from tests.runs import flags, make_data, outputs
from tests.test_resume import stop_in

pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("given_start")]
NLIST, DIM = 32, 24
FAST = ("--param_list", str(DIM), str(NLIST), "--batch_size", "100")  # centers alone, few steps
NONE = ("--epochs", "0", "--warmup", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, and centers.npy beside them: learn rows drawn at random."""
    folder = make_data(tmp_path_factory.mktemp("data"))
    learn = np.load(folder / "learn_faces.npy")
    drawn = np.random.default_rng(3).choice(len(learn), NLIST, replace=False)
    np.save(folder / "centers.npy", learn[drawn])
    return folder


@pytest.fixture(scope="module")
def run_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run by its further flags; what changes it copies it."""

    @cache
    def run(*more: str) -> Path:
        out = tmp_path_factory.mktemp("out")
        assert main(flags(data, out, *more)) == 0
        return out

    return run


def curves_by_hand(run: Run, centers: np.ndarray) -> Curves:
    """Each vector of the pool in its nearest center's bucket, in float64. centers: (nlist, dim), inside"""

    def d2(rows: np.ndarray) -> np.ndarray:
        x = run.learn.points.x(rows).astype(np.float64)
        return np.square(x[:, None] - centers.astype(np.float64)).sum(axis=2)

    held = run.judged
    bucket, order = d2(held.pool).argmin(axis=1), d2(held.rows).argsort(axis=1)
    place = order.argsort(axis=1)
    share = np.bincount(bucket[held.sample], minlength=len(centers)) / len(held.sample)
    grid = nprobe_grid(len(centers))
    found = np.take_along_axis(place, bucket[held.answers.at], axis=1)[:, :, None] < grid
    recall = (found * held.answer_weights[:, :, None]).sum(axis=1)
    return Curves(found.sum(axis=1), recall, share[order].cumsum(axis=1)[:, grid - 1], found.shape[1])


def check_curves(found: Curves | None, expected: Curves) -> None:
    assert found is not None
    assert np.mean(found.found != expected.found) < 1e-3  # ties, which rounding decides
    assert np.mean(np.abs(found.scanned - expected.scanned) > 1e-6) < 1e-3
    assert found.n_answers == expected.n_answers


@pytest.mark.parametrize("metric", ["IP", "L2"])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_starts_at_the_given_centers_and_kmeans_is_judged_beside(
    backend: str, metric: str, data: Path, tmp_path: Path
) -> None:
    given = np.load(data / "centers.npy")
    words = flags(data, tmp_path, "--backend", backend, "--metric", metric, "--start", str(data / "centers.npy"))
    run = start_run(parse(words)[0], silent())
    inside = run.learn.points.space.inside(given)
    point = training.start_point(run)
    np.testing.assert_allclose(run.backend.centers(point.state.params), inside, atol=1e-6)
    choice = point.choices["centers"]
    assert choice.given is not None
    check_curves(choice.given.judgement.nearest, curves_by_hand(run, inside))
    check_curves(choice.start.judgement.nearest, curves_by_hand(run, run.kmeans))
    plain = start_run(parse(flags(data, tmp_path, "--backend", backend, "--metric", metric))[0], silent())
    at_kmeans = training.start_point(plain).choices
    np.testing.assert_array_equal(plain.kmeans, run.kmeans)
    for name, other in at_kmeans.items():  # as where training starts there: the network's first centers are k-means
        assert other.given is None
        ours = point.choices[name].start
        assert ours.k == pytest.approx(other.start.k, rel=1e-4)
        for one, two in zip(ours.judgement.by_rule, other.start.judgement.by_rule, strict=True):
            np.testing.assert_allclose(one.scanned.mean(axis=0), two.scanned.mean(axis=0), rtol=2e-3)
    share = np.square(run.learn.points.x(slice(None))[:, None] - inside).sum(axis=2).argmin(axis=1)
    np.testing.assert_allclose(run.buckets.share, np.bincount(share, minlength=NLIST) / len(share), atol=1e-3)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_blocks_are_made_of_buckets_near_the_given_centers(
    backend: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MANY_BUCKETS": 32, "LEAST_BATCH": 1, "BLOCK_PAIRS": 4, "SEEN": 8, "LISTED": 5}.items():
        monkeypatch.setattr(f"ivfast.network.backend.{name}", value)
    words = flags(data, tmp_path, "--backend", backend, *FAST, "--start", str(data / "centers.npy"))
    run = start_run(parse(words)[0], silent())
    assert run.source.cells is not None
    products = run.learn.points.x(slice(None)).astype(np.float64) @ run.start.T.astype(np.float64)
    assert np.mean(run.source.cells.nearest[:, 0] == products.argmax(axis=1)) > 0.999
    after = training.train_epoch(run, training.start_point(run))
    assert np.isfinite(run.backend.centers(after.state.params)).all()


def about(out: Path) -> dict[str, Any]:
    with safe_open(out / "dcnet.safetensors", framework="numpy") as file:
        return json.loads(file.metadata()["ivfast"])["about"]


def test_a_good_start_is_exported_where_nothing_is_trained(run_of: Callable[..., Path]) -> None:
    trained = run_of(*FAST, "--backend", "jax")
    out = run_of(*FAST, "--backend", "jax", *NONE, "--start", str(trained / "ivfast.npy"))
    centers, kmeans = np.load(trained / "ivfast.npy"), np.load(trained / "kmeans.npy")
    assert np.abs(centers - kmeans).max() > 0.01
    np.testing.assert_allclose(np.load(out / "ivfast.npy"), centers, atol=1e-6)
    assert (out / "kmeans.npy").read_bytes() == (trained / "kmeans.npy").read_bytes()
    found = about(out)
    assert found["chosen_epochs"]["centers"] == found["chosen_ways"]["centers"] == 0
    assert found["held_out_gain"]["centers"][0] > 0.005
    assert "centers: the given start: " in (out / "train.log").read_text()
    assert "the given start" in (out / "report.html").read_text()
    both = [json.loads((folder / "evaluation.json").read_text())["results"] for folder in (trained, out)]
    of_kmeans = [[(r["recall"], r["scanned"]) for r in results if r["router"] == "kmeans"] for results in both]
    np.testing.assert_allclose(np.array(of_kmeans[0]), np.array(of_kmeans[1]), atol=1e-3)


def test_from_a_bad_start_kmeans_is_exported_for_both_routers(data: Path, run_of: Callable[..., Path]) -> None:
    out = run_of("--backend", "torch", *NONE, "--start", str(data / "centers.npy"))
    assert (out / "ivfast.npy").read_bytes() == (out / "kmeans.npy").read_bytes()
    model, query = ivfast.load(out, "torch"), np.load(data / "faces" / "query.npy")
    np.testing.assert_allclose(model._model.net["centers"], np.load(out / "kmeans.npy"), atol=1e-6)
    nearest = (query @ np.load(out / "kmeans.npy").T).argmax(axis=1)
    assert np.mean(model.rank(query, 1, "net").buckets[:, 0] == nearest) > 0.99


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_resumed_run_equals_unbroken_run_and_no_other_start_is_continued(
    backend: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_of: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    start = (*FAST, "--backend", backend, "--epochs", "2", "--start", str(data / "centers.npy"))
    with monkeypatch.context() as patch:
        stop_in(patch, 2, 0)
        assert main(flags(data, tmp_path, *start)) == 143
    other = tmp_path / "other.npy"
    np.save(other, np.load(data / "centers.npy")[::-1])
    for more, told in ((start[:-2], "began at other centers"), ((*start[:-1], str(other)), "began at other centers")):
        capsys.readouterr()
        assert main(flags(data, tmp_path, *more, "--resume", "True")) == 2
        assert told in capsys.readouterr().err
    moved = tmp_path / "moved.npy"  # where the file lies does not matter
    shutil.copy(data / "centers.npy", moved)
    assert main(flags(data, tmp_path, *start[:-1], str(moved), "--resume", "True")) == 0
    assert outputs(tmp_path) == outputs(run_of(*start))


def test_a_run_from_kmeans_is_not_continued_from_a_start(
    data: Path, tmp_path: Path, run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(run_of(*FAST, "--backend", "jax"), tmp_path / "out")
    more = (*FAST, "--backend", "jax", "--resume", "True", "--start", str(data / "centers.npy"))
    assert main(flags(data, out, *more)) == 2
    assert "--start: the checkpoint's run began at k-means" in capsys.readouterr().err


def too_long(centers: np.ndarray) -> np.ndarray:
    return centers * np.float32(2)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c: c[:31], "found 31 centers of 24 entries, expected 32 (nlist) of 24"),
        (lambda c: c[:, :20], "found 32 centers of 20 entries"),
        (too_long, "norm 2, expected unit norm under IP"),
        (lambda c: np.where(c == c[3, 3], np.nan, c), "row 3 holds NaN or infinity"),
        (lambda c: c.ravel(), "(768,)"),
    ],
)
def test_what_is_no_start_ends_in_one_line(
    spoil: Callable[[np.ndarray], np.ndarray], told: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    np.save(tmp_path / "spoiled.npy", spoil(np.load(data / "centers.npy")))
    assert main(flags(data, tmp_path, "--start", str(tmp_path / "spoiled.npy"))) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    assert told in line
    assert main(flags(data, tmp_path, "--start", str(tmp_path / "spoiled.npy"), "--dry_run", "True")) == 2


def test_a_start_of_another_metric_or_none_is_refused(
    data: Path, tmp_path: Path, run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = str(run_of(*FAST, "--backend", "jax") / "ivfast.npy")
    assert main(flags(data, tmp_path, "--metric", "L2", "--start", trained)) == 2
    assert "found centers trained for IP, expected L2" in capsys.readouterr().err
    assert main(flags(data, tmp_path, "--start", str(tmp_path / "none.npy"))) == 2
    assert "none.npy" in capsys.readouterr().err
    assert main(flags(data, tmp_path, "--eval", "True", "--ai_center", trained, "--start", trained)) == 2
    assert "--start is where a training starts" in capsys.readouterr().err


@pytest.fixture(scope="module")
def base() -> np.ndarray:
    return make_faces(5, n_identities=600, images=10, dim=DIM, n_query=100).learn


@pytest.fixture(scope="module")
def first(base: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> ivfast.TrainedModel:
    """A model of the first two thirds."""
    out = tmp_path_factory.mktemp("first")
    return ivfast.fit(base[:4000], NLIST, epochs=4, batch_size=50, save_path=out, backend="jax")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_model_of_two_thirds_is_trained_again_on_all_and_scans_no_more_than_kmeans(
    backend: str, base: np.ndarray, first: ivfast.TrainedModel, tmp_path: Path
) -> None:
    again = ivfast.fit(base, start=first, epochs=2, batch_size=50, save_path=tmp_path, backend=backend)
    assert (again.nlist, again.metric) == (NLIST, "IP")
    assert len(again.index(base)) == len(base)
    results = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    at = {(r["router"], r["rule"], r["percent"], r["probing"]): r["scanned_at"]["0.90"] for r in results}
    kmeans = min(share for (router, _, _, probing), share in at.items() if (router, probing) == ("kmeans", "fixed"))
    assert at["centers", "ratio", 0.0, "fixed"] <= kmeans
    assert at["centers", "benefit", 0.8, "adaptive"] < 0.9 * kmeans


def test_a_start_is_a_model_a_folder_a_file_or_an_array(
    base: np.ndarray, first: ivfast.TrainedModel, tmp_path: Path
) -> None:
    file = str(first.folder / "ivfast.npy")
    for start, metric in ((first, "IP"), (first.folder, "IP"), (file, "IP"), (first.centers.astype(np.float64), None)):
        given = open_given(start)
        np.testing.assert_array_equal(given.centers, first.centers)
        assert (given.centers.dtype, given.metric) == (np.float32, metric)
    ivfast.fit(base, start=first, epochs=0, save_path=tmp_path, backend="jax")
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "start.npy"), first.centers)
    assert about(tmp_path)["start"] == digest_of(first.centers)


@pytest.mark.parametrize(
    ("start", "more", "told"),
    [
        (None, {"nlist": 31}, "nlist 31: start has 32 centers; leave nlist out"),
        (None, {"metric": "L2"}, "metric L2: start was trained for IP; leave metric out"),
        (np.ones((32, 20)), {}, "start: found 32 centers of 20 entries"),
        (np.ones((32, DIM)), {}, "expected unit norm under IP"),
        (np.ones((32, DIM), int), {}, "start: found int64 of shape"),
        (np.ones(32), {}, "start: found float64 of shape"),
        (np.full((32, DIM), np.inf), {}, "start: found NaN or infinity"),
        ("nowhere", {}, "nowhere"),
        (".", {}, "no ivfast.npy, expected the folder of a finished fit"),
    ],
)
def test_fit_refuses_what_is_no_start_for_a_base(
    start: Any, more: dict, told: str, base: np.ndarray, first: ivfast.TrainedModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told.replace("(", r"\(")):
        ivfast.fit(base, start=first if start is None else start, save_path=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_the_command_starts_at_an_earlier_folder_and_goes_on_there_alone(
    base: np.ndarray, first: ivfast.TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "base.npy", base)
    words = ["fit", str(tmp_path / "base.npy"), "--save_path", str(tmp_path / "out"), "--epochs", "1"]
    assert ivfast_main([*words, "--start", str(first.folder)]) == 0
    assert "the given start: held-out scanned" in (tmp_path / "out" / "train.log").read_text()
    assert ivfast.load_index(tmp_path / "out").model.nlist == NLIST
    assert ivfast_main([*words, "--nlist", str(NLIST)]) == 2
    assert "began at other centers" in capsys.readouterr().err
