"""The graph of a large set: the same bytes every time, found once, and complete whatever NN-descent leaves out."""

import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import ivfast
from ivfast import commands
from ivfast.data.exact import nearest_of
from ivfast.data.mapped import map_points, remove_mapped
from ivfast.data.vectors import Points, Vectors
from ivfast.runtime.command_line import parse
from ivfast.runtime.errors import RunError, StopRequestedError
from ivfast.runtime.progress import silent
from ivfast.runtime.signals import handled
from ivfast.start import descent
from ivfast.start.descent import SPARE, Means, graph_of, pick
from ivfast.start.extend import extend
from ivfast.start.neighbors import SearchLimits, find_neighbors, nearest_of_all
from ivfast.store.reverse import reverse_of_base
from ivfast.train.disk import bytes_needed
from run_dcnet import main
from tests import by_hand
from tests.conftest import Notes, WriteGraph, points_of
from tests.runs import flags, make_data
from tests.test_neighbors import METRICS, check_nearest, draw, recall_of

K = 20


def digested(rows: np.ndarray, metric: str = "L2", digest: str = "d") -> Points:
    points = points_of(rows, metric)
    return Points(Vectors("learn", Path("learn.npy"), rows, digest), points.space)


@pytest.mark.usefixtures("descent_here")
def test_two_graphs_have_the_same_bytes_and_nearly_all_neighbours(tmp_path: Path):
    rows = draw("L2", 20_000)  # more than one of the blocks that threads share
    one, two = (graph_of(digested(rows), K, silent(), Means(tmp_path / name)) for name in "ab")
    assert one.shape == (20_000, K + SPARE)
    assert one.tobytes() == two.tobytes()
    some, everyone = np.arange(0, 20_000, 50), np.arange(20_000)
    assert (one != everyone[:, None]).all()
    assert recall_of(rows, some, everyone, one[some]) >= 0.95


@pytest.mark.usefixtures("descent_here")
def test_a_graph_is_found_once_for_equal_points_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows, notes, runs = draw("IP", 600), Notes(), []
    run = descent._run

    def counted(*given: Any) -> None:
        runs.append(given)
        run(*given)

    monkeypatch.setattr(descent, "_run", counted)
    limits, means = SearchLimits(exact_learn=100), Means(tmp_path)
    find_neighbors(digested(rows, "IP"), 5, 1, notes, means, limits)
    base = Points(Vectors("base", Path("base.npy"), rows, "d"), points_of(rows, "IP").space)
    nearest_of_all(base, K, notes, means, limits)
    assert len(runs) == 1
    graphs = [said for said in notes.told if "NN-descent" in said]
    assert graphs[0] == "neighbours: NN-descent on 600 vectors, measured recall 1.000"
    assert graphs[1] == graphs[0] + ", from the cache"
    nearest_of_all(digested(rows, "IP", "other"), K, notes, means, limits)
    nearest_of_all(digested(rows, "IP"), K + 1, notes, means, limits)
    assert len(runs) == 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("descent_here")
def test_base_that_is_learn_asks_for_the_same_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows, limits, means = draw("L2", 600), SearchLimits(exact_learn=100), Means(tmp_path)
    for module in ("ivfast.store.reverse", "ivfast.start.neighbors"):
        monkeypatch.setattr(f"{module}.LIMITS", limits)
    monkeypatch.setattr(nearest_of_all, "__defaults__", (Means(), limits))
    found = find_neighbors(digested(rows), 5, 1, silent(), means, limits)
    monkeypatch.setattr(descent, "_run", None)  # called no more
    weights = np.ones(found.train_nearest.shape[1], np.float32)
    reverse = reverse_of_base(means, digested(rows), weights, silent())
    expected = by_hand.askers(graph_of(digested(rows), K, silent(), means)[:, :K])
    for i in range(0, 600, 7):
        askers = reverse.asker[reverse.first[i] : reverse.first[i + 1]].tolist()
        assert askers[0] == i
        assert sorted(askers[1:]) == [y for y, _ in expected[i]]


@pytest.mark.parametrize("metric", METRICS)
def test_what_descent_leaves_out_is_searched_for_exactly(metric: str):
    """No neighbour at all, itself last, itself not there, others that do not count: lists as they must not be."""
    rows = draw(metric, 300)
    points, everyone, among = points_of(rows, metric), np.arange(300), np.arange(0, 300, 2)
    near = nearest_of(everyone, points, everyone, 14, "", silent()).astype(np.int32)
    near[0] = -1
    near[1, 3:] = -1
    near[2] = np.roll(np.r_[2, near[2, :-1]], -1)  # itself last
    near[3, :] = np.r_[3, near[3, :-1]]
    near[4, :10] = np.arange(1, 21, 2)  # none of `among`
    for some in (everyone, among):
        found = pick(points, everyone, near, some, 10, silent())
        assert found.dtype == np.int32
        assert np.isin(found, some).all()
        assert all(len(set(row)) == len(row) for row in found.tolist())
        whole = np.setdiff1d(everyone, [4]) if some is everyone else everyone
        check_nearest(rows, whole, some, found[whole])


@pytest.mark.parametrize("metric", METRICS)
def test_an_exact_search_of_a_device_is_used_for_all_of_it(metric: str, monkeypatch: pytest.MonkeyPatch):
    rows = draw(metric, 1000)
    measure = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2

    def search(x: np.ndarray, blocks: Any, k: int, asked: str) -> tuple[np.ndarray, np.ndarray]:
        assert asked == metric
        close, numbers = faiss.knn(x, np.concatenate(list(blocks)), k, metric=measure)
        return close, numbers.astype(np.int32)

    monkeypatch.setattr(descent, "rows_per_block", lambda *_: 301)
    monkeypatch.setattr(descent, "_run", None)
    notes = Notes()
    found = find_neighbors(points_of(rows, metric), 5, 1, notes, Means(search=search), SearchLimits(exact_learn=100))
    check_nearest(rows, found.train, found.train, found.train_nearest)
    check_nearest(rows, found.held_out, np.arange(1000), found.answers)
    assert "neighbours: exact search on 1,000 vectors, measured recall 1.000" in notes.told


@pytest.mark.parametrize("n_new", [2, 90])
@pytest.mark.parametrize("metric", METRICS)
def test_an_exact_graph_of_a_part_becomes_the_exact_graph_of_all(metric: str, n_new: int):
    rows = draw(metric, 3000)  # more than one block
    points, everyone = points_of(rows, metric), np.arange(3000)
    part = np.delete(everyone, np.random.default_rng(2).choice(3000, n_new, replace=False))
    graph = np.searchsorted(part, nearest_of(part, points, part, 14, "", silent())).astype(np.int32)
    found = extend(points, part, graph, silent())
    assert (found.shape, found.dtype) == ((3000, 14), np.int32)
    check_nearest(rows, everyone, everyone, found)
    assert np.isin(found[part], np.setdiff1d(everyone, part)).any()


@pytest.mark.whole_run
@pytest.mark.usefixtures("descent_here")
@pytest.mark.parametrize("normalize", [False, True])
def test_a_fit_searches_its_base_once_and_stores_it_as_a_search_of_all_would(
    normalize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Everything counts as large."""
    limits, runs, run = SearchLimits(exact_learn=100), [], descent._run
    for module in (
        "train.run", "train.admit", "train.disk", "start.prepare", "store.reverse", "front.fit", "index.placing_model",
    ):  # fmt: skip
        monkeypatch.setattr(f"ivfast.{module}.LIMITS", limits)
    for function in (find_neighbors, nearest_of_all):
        monkeypatch.setattr(function, "__defaults__", (Means(), limits))

    def counted(*given: Any) -> None:
        runs.append(given)
        run(*given)

    monkeypatch.setattr(descent, "_run", counted)
    base = draw("L2", 1500)
    model = ivfast.fit(base, nlist=16, normalize=normalize, epochs=1, save_path=tmp_path, batch_size=128)
    aside = np.arange(0, 1500, 20)
    extended = model.place_points(model.points_trained_on(), 0.8, aside, silent())
    assert len(runs) == 1
    anew = model.place_points(model.points(base), 0.8, aside, silent())
    assert len(runs) == 2
    assert (np.sort(extended.buckets) == np.sort(anew.buckets)).all(axis=1).mean() > 0.99
    assert np.isclose(extended.reach, anew.reach, rtol=1e-3).mean() > 0.99


def test_recall_is_measured_where_it_is_low_and_copies_count_as_right():
    rows = draw("L2", 400)
    points, everyone = points_of(rows), np.arange(400)
    near = nearest_of(everyone, points, everyone, 10, "", silent())
    assert descent._measured_recall(points, near, silent()) == 1
    near[:, 8:] = np.argsort(-by_hand.distances_of_others(rows, everyone, everyone), axis=1)[:, 1:3]
    assert descent._measured_recall(points, near, silent()) == pytest.approx(0.8)
    copies = points_of(np.ones((400, 8), np.float32))
    assert descent._measured_recall(copies, near, silent()) == 1


def test_two_stages_find_as_much_and_the_same_after_a_kill(tmp_path: Path, write_graph: WriteGraph):
    rows = draw("L2", 20_000)
    x, graph, stage = (str(tmp_path / f"{name}.npy") for name in ("x", "graph", "stage"))
    np.save(x, rows)
    found = []
    for _ in range(2):  # the second begins with the stage of the first
        write_graph(x, graph, stage, K + 1, staged=1)
        found.append(np.load(graph))
    assert found[0].tobytes() == found[1].tobytes()
    some, everyone = np.arange(0, 20_000, 50), np.arange(20_000)
    near = pick(points_of(rows), everyone, found[0], everyone, K, silent())
    assert recall_of(rows, some, everyone, near[some]) >= 0.95
    (tmp_path / "stage.npy").unlink()
    write_graph(x, graph, stage, K + 1, staged=20_001)
    assert not (tmp_path / "stage.npy").exists()


@pytest.mark.whole_run
@pytest.mark.usefixtures("descent_here")
def test_run_in_sample_searches_once_maps_x_and_clears_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Everything counts as large; base is learn."""
    limits = SearchLimits(exact_learn=100)
    for module in ("train.run", "train.admit", "train.disk", "start.prepare", "store.reverse"):
        monkeypatch.setattr(f"ivfast.{module}.LIMITS", limits)
    for function in (find_neighbors, nearest_of_all):
        monkeypatch.setattr(function, "__defaults__", (Means(), limits))
    runs, mapped = [], []
    run, start = descent._run, commands.start_run

    def counted(*given: Any) -> None:
        runs.append(given)
        run(*given)

    def started(*given: Any) -> Any:
        found = start(*given)
        mapped.append(found.learn.points.mapped)
        return found

    monkeypatch.setattr(descent, "_run", counted)
    monkeypatch.setattr(commands, "start_run", started)
    data, out = make_data(tmp_path / "data"), tmp_path / "out"
    argv = [*flags(data, out), "--learn_name", "faces/base", "--epochs", "2"]
    n = len(np.load(data / "faces" / "base.npy"))
    needed = bytes_needed(parse(argv)[0], n, n)
    assert main(argv) == 0
    assert (len(runs), mapped[0].shape) == (1, (n, 24))
    said = (out / "train.log").read_text()
    assert said.count(f"neighbours: NN-descent on {n:,} vectors, measured recall 0.99") == 2  # seen: 0.995
    assert len(re.findall(r"measured recall [0-9.]+, from the cache", said)) == 1
    kept = sorted(path.name.split(".")[0] for path in (out / "cache").iterdir())
    assert kept == ["graph", "kmeans", "neighbors"]
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert written + mapped[0].nbytes <= needed


def test_a_failed_descent_is_told_with_its_last_line(tmp_path: Path):
    with pytest.raises(RunError, match=r"over 10 vectors failed with exit code 1 .*No such file.*run it again"):
        descent._run([tmp_path / f"{name}.npy" for name in ("none", "graph", "stage")], 5, 10, silent())


def test_a_signal_stops_descent_at_once_and_leaves_nothing(tmp_path: Path):
    """In this process the compiled code would hold it back to the end."""
    points = map_points(digested(draw("L2", 20_000)), tmp_path, silent())
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(2, signal.pthread_kill, (main, signal.SIGTERM)).start()
    started = time.monotonic()
    with handled(), pytest.raises(StopRequestedError):
        graph_of(points, K, silent(), Means(tmp_path))
    assert time.monotonic() - started < 4
    assert [path.name[:2] for path in tmp_path.iterdir()] == ["x."]


@pytest.mark.parametrize("metric", METRICS)
def test_mapped_points_are_the_same_bits_without_a_copy(metric: str, tmp_path: Path):
    rows = draw(metric, 500).astype(np.float64)
    plain = Points(Vectors("learn", Path("l.npy"), rows, "d", np.arange(0, 500, 2)), points_of(rows, metric).space)
    mapped = map_points(plain, tmp_path, silent())
    assert mapped.mapped is not None
    for index in (slice(None), slice(7, 90), np.array([3, 3, 200, 0])):
        assert mapped.x(index).tobytes() == plain.x(index).tobytes()
        assert mapped.x(index).dtype == np.float32
    view = mapped.x(slice(7, 90))
    assert np.shares_memory(view, mapped.mapped)
    assert view.flags["C_CONTIGUOUS"]
    assert not view.flags["WRITEABLE"]
    some = np.array([5, 9])
    assert mapped.only(some).x(slice(None)).tobytes() == plain.only(some).x(slice(None)).tobytes()


def test_mapped_file_is_written_once_anew_where_damaged_and_removed(tmp_path: Path):
    points = digested(draw("L2", 50))
    map_points(points, tmp_path, silent())
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns, path.read_bytes()
    map_points(points, tmp_path, silent())
    assert path.stat().st_mtime_ns == written[0]
    path.write_bytes(written[1][:-9])
    map_points(points, tmp_path, silent())
    assert path.read_bytes() == written[1]
    map_points(digested(draw("L2", 60), digest="e"), tmp_path, silent())
    (tmp_path / "graph.npz").touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_mapped(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == ["graph.npz"]
