"""The front door: from a file or an array to an index, and what it says on the way."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import faiss
import numpy as np
import pytest

import ivfast
from ivfast.data.cleaning import scan
from ivfast.data.formats.convert import convert
from ivfast.data.vectors import Vectors, float_rows
from ivfast.evaluate.page.record import read_record
from ivfast.front.command_line import main, parse
from ivfast.front.sentences import kmeans_scanned, tell
from ivfast.front.sizes import choose_metric, choose_nlist
from ivfast.front.trial import try_index
from ivfast.index.files import was_added_to
from ivfast.runtime.errors import StopRequestedError, UserError
from ivfast.runtime.progress import silent
from tests import by_hand
from tests.finished import evaluation
from tests.many_files import kill_before
from tests.test_index import make_rows

whole_run = [pytest.mark.whole_run, pytest.mark.xdist_group("front")]


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A folder that `ivfast fit` left, from an .fvecs file; what changes it copies it."""

    @cache
    def fit() -> Path:
        folder = tmp_path_factory.mktemp("front")
        rows = make_rows(5000, 1, "L2")
        with (folder / "base.fvecs").open("wb") as file:
            for row in rows:
                file.write(struct.pack("<i", len(row)) + row.tobytes())
        words = [
            "fit",
            str(folder / "base.fvecs"),
            "--save_path",
            str(folder / "out"),
            "--nlist",
            "20",
            "--epochs",
            "1",
        ]
        assert main(words) == 0
        return folder / "out"

    return fit


@pytest.mark.parametrize(
    ("n", "nlist"), [(1000, 16), (3000, 16), (10_000, 50), (50_000, 248), (1_000_000, 4000), (100_000_000, 40_000)]
)
def test_buckets_follow_the_root_and_leave_each_enough(n: int, nlist: int):
    found = choose_nlist(n)
    assert found == nlist
    assert n / found >= 39


def test_a_fit_of_several_files_is_told_to_name_their_folder(capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "a.npy", "b.npy", "--nlist", "4"]) == 2
    assert "fit: expected one file or folder, found b.npy too; name the folder" in capsys.readouterr().err
    assert main(["convert", "a.npy", "b.npy", "c.npy"]) == 2
    assert "unrecognized arguments: c.npy" in capsys.readouterr().err


def test_metric_is_told_by_norms():
    rows = make_rows(1000, 1, "IP")
    assert choose_metric(rows) == choose_metric(rows.astype(np.float16)) == "IP"
    rows[777] *= 1.01
    assert choose_metric(rows) == "L2"


def test_a_seed_that_cannot_be_is_refused_before_rows_are_drawn(tmp_path: Path):
    with pytest.raises(UserError, match=r"^--seed -1: expected 0 or more"):
        ivfast.fit(make_rows(1000, 1, "L2"), seed=-1, save_path=tmp_path)


@pytest.mark.parametrize("spherical", [False, True])
def test_a_kmeans_says_what_it_is_and_refuses_seeds_that_cannot_be(spherical: bool):
    for seed in (-1, 2**31):
        with pytest.raises(UserError, match=rf"^seed {seed}: expected 0 to 2147483647; correct it"):
            ivfast.Kmeans(16, 8, seed=seed, max_points_per_centroid=10)
    metric = "IP" if spherical else "L2"
    kmeans = ivfast.Kmeans(16, 8, spherical=spherical)
    assert repr(kmeans) == f"ivfast.Kmeans(dim 16, nlist 8, metric {metric}, not trained yet)"
    kmeans.model = Mock(trained_on=[0] * 3000)
    assert repr(kmeans) == f"ivfast.Kmeans(dim 16, nlist 8, metric {metric}, trained on 3,000 vectors)"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cosine", "use metric='IP', normalize=True"),
        ("Cosine Similarity", "use metric='IP', normalize=True"),
        ("ip", "use metric='IP'"),
        ("inner_product", "use metric='IP'"),
        ("l2", "use metric='L2'"),
        ("METRIC_L2", "use metric='L2'"),
        ("hamming", "correct it"),
        (1, "correct it"),
    ],
)
def test_metrics_of_other_tools_are_told_what_they_are_here(name: Any, told: str, tmp_path: Path):
    said = rf"^metric {name!r}: expected 'IP' or 'L2'; {told}$"
    with pytest.raises(UserError, match=said):
        ivfast.fit(make_rows(1000, 1, "L2"), metric=name, save_path=tmp_path)
    config = ivfast.Config(tmp_path, tmp_path, "s", (0.0,), "learn", metric=name, nlist=8, param_list=(16, 8))
    with pytest.raises(UserError, match=said):
        ivfast.train_centers(config)


def test_a_fit_is_told_what_other_tools_call_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", str(tmp_path / "x.npy"), "--metric", "cosine"]) == 2
    assert "'cosine', expected IP or L2; use --metric IP --normalize True" in capsys.readouterr().err


def test_what_would_be_ignored_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "x.npy", make_rows(1000, 1, "L2"))
    x, out = str(tmp_path / "x.npy"), str(tmp_path / "out")
    assert main(["fit", x, "--save_path", out, "--column", "q"]) == 2
    assert f"base: {x} has no columns to choose q from; leave --column out" in capsys.readouterr().err
    for words in (["convert", x, f"{tmp_path}/y.npy/"], ["report", out, "--out", f"{tmp_path}/y.html/"]):
        assert main(words) == 2
        assert "ends in a slash, as folders do, expected a file; leave the slash out" in capsys.readouterr().err
    with pytest.raises(UserError, match="ends in a slash"):
        convert(x, f"{tmp_path}/y.npy/")
    assert {path.name for path in tmp_path.iterdir()} <= {"x.npy", "out"}


def test_files_that_cannot_be_read_are_named_with_their_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "x.npy", make_rows(1000, 1, "L2"))
    for name in ("bad.fvecs", "bad.parquet", "bad.hdf5"):
        (tmp_path / name).write_bytes(b"x" * 999)
        bad = str(tmp_path / name)
        assert main(["fit", bad, "--save_path", str(tmp_path / "out")]) == 2
        assert f"error: base: {bad} " in capsys.readouterr().err
        fit = ["fit", str(tmp_path / "x.npy"), "--save_path", str(tmp_path / "out"), "--query", bad]
        assert main(fit) == 2
        assert f"error: query: {bad} " in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_a_fit_names_the_file_of_a_row_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows, words = make_rows(1000, 1, "L2"), ["fit", str(tmp_path / "base.npy"), "--save_path", str(tmp_path / "out")]
    rows[5, 3] = np.nan
    np.save(tmp_path / "base.npy", rows)
    assert main(words) == 2
    assert f"base: {tmp_path / 'base.npy'} row 5 holds NaN" in capsys.readouterr().err.replace("\n", "")
    np.save(tmp_path / "base.npy", make_rows(1000, 1, "L2").byteswap())
    assert main(words) == 2
    assert "save its .byteswap()" in capsys.readouterr().err


def test_integers_are_taken_as_floats_and_others_are_refused():
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(float_rows(rows, "base"), rows.astype(np.float32))
    for wrong in (rows.astype(np.int64), rows.astype(complex), rows.astype(str), rows[0], rows[:0]):
        with pytest.raises(UserError, match="base: found"):
            float_rows(wrong, "base")
    with pytest.raises(UserError, match="query: found rows of 4 columns, expected 5"):
        float_rows(rows, "query", 5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fitt", "x"], "invalid choice: 'fitt'"),
        (["fit"], "the following arguments are required: BASE"),
        (["fit", "x.npy", "--nlits", "5"], "unknown argument --nlits: did you mean --nlist?"),
        (["fit", "x.npy", "--nlist", "many"], "invalid int value"),
        (["evaluate", "out"], "--query"),
        ([], "required"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["", "fit", "index", "evaluate", "convert", "report"])
def test_help_fits_a_screen(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse([command, "--help"] if command else ["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 45


def test_version_is_told_without_loading_a_backend():
    done = subprocess.run([sys.executable, "-m", "ivfast", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"ivfast {ivfast.__version__}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "x.npy"], "goes on where"),
        (["index", "d", "x.npy"], "begins anew"),
        (["index", "d", "x.npy", "y.npy", "--out", "o"], "goes on where"),
        (["index", "d", "x.npy", "--out", "o", "--ray", "none"], "begins anew"),
    ],
)
def test_a_signal_says_what_the_same_command_does(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: Any) -> None:
        raise StopRequestedError(15)

    monkeypatch.setattr(f"ivfast.front.actions.{words[0]}", stop)
    assert main(words) == 128 + 15
    assert f"stopped by signal 15; the same command {told}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "base.npy", make_rows(1000, 1, "L2"))
    (tmp_path / "file").write_text("no folder")
    assert main(["fit", str(tmp_path / "base.npy"), "--save_path", str(tmp_path / "file" / "out")]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("rows", [10, 999])
def test_too_few_vectors_are_refused(rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "base.npy", make_rows(rows, 1, "L2"))
    assert main(["fit", str(tmp_path / "base.npy"), "--save_path", str(tmp_path / "out")]) == 2
    assert f"found {rows:,} vectors, expected 1,000 or more" in capsys.readouterr().err


class TestFit:
    """What `ivfast fit` leaves."""

    pytestmark = whole_run

    def test_three_sentences_say_gain_cost_and_what_next(self, fitted: Callable[[], Path]):
        index, out = ivfast.load_index(fitted()), fitted()
        test = np.array(json.loads((out / "fit.json").read_text())["test"])
        reached = try_index(index, index.model.points(make_rows(5000, 1, "L2")), None, test, silent())
        gain, cost, then = tell(out, index, reached)
        results = json.loads((out / "evaluation.json").read_text())["results"]
        (plain,) = (r for r in results if (r["router"], r["percent"], r["probing"]) == ("kmeans", 0, "fixed"))
        at = next(one for one in reached if one.asked == 0.9)
        assert f"finds {100 * at.recall:.1f} % of them" in gain
        assert f"{100 * at.scanned:.2f} % of the vectors. For as many answers a plain IVF index" in gain
        share = float(gain.split("queries, takes ")[1].split(" %")[0]) / 100
        below, above = (np.searchsorted(plain["recall"], at.recall) + i for i in (-1, 0))
        assert plain["scanned"][below] - 1e-4 <= share <= plain["scanned"][above] + 1e-4
        times = share / at.scanned
        told = f"{times:.1f} times as many" if times > 1.06 else "about as many" if times > 0.96 else "fewer"
        assert gain.split(" %, ")[-1].startswith(told)
        n_bytes = 4 * index.model.dim + 8  # of an entry
        assert f"0.8 copies a vector and takes {9000 * n_bytes / 1e6:.2g} MB of memory" in cost
        assert f"instead of {5000 * n_bytes / 1e6:.2g} MB; `ivfast index {out} BASE --out OTHER --percents 0`" in cost
        evaluation = json.loads((out / "evaluation.json").read_text())
        assert gain.startswith("No gain of training was sure") == evaluation["is_kmeans"]
        assert str(out / "ivfast.npy") in then
        assert all(line.count(".") >= 1 and line.endswith(".") for line in (gain, cost, then))

    def test_index_holds_every_vector_of_the_file_and_faiss_reads_it(self, fitted: Callable[[], Path]):
        base = make_rows(5000, 1, "L2")
        index: Any = faiss.read_index(str(fitted() / "index.faiss"))
        assert index.ntotal == 9000
        index.nprobe = 20
        rows = np.arange(0, 5000, 50)
        np.testing.assert_array_equal(index.search(base[rows], 1)[1][:, 0], rows)

    def test_rows_set_aside_trained_nothing(self, fitted: Callable[[], Path]):
        base, out = make_rows(5000, 1, "L2"), fitted()
        facts = json.loads((out / "fit.json").read_text())
        aside, test = facts["aside"], facts["test"]
        kept = np.setdiff1d(np.arange(5000), np.concatenate([aside, test]))
        assert len(aside) == len(test) == 250
        assert len(kept) == 4500
        np.testing.assert_array_equal(np.load(out / "data" / "base.npy"), base[kept])
        np.testing.assert_array_equal(np.load(out / "data" / "query.npy"), base[test])
        near = np.argsort(by_hand.distances(base[test].astype(float), base[kept].astype(float)), axis=1)[:, :10]
        assert (np.load(out / "data" / "gt.npy") == near).mean() > 0.999

    def test_evaluate_finds_answers_itself_or_takes_them(
        self, fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        query, base = make_rows(200, 5, "L2"), make_rows(5000, 1, "L2")
        np.save(tmp_path / "query.npy", query)
        np.save(tmp_path / "one.npy", query[:1])
        np.save(tmp_path / "gt.npy", np.argsort(by_hand.distances(query, base), axis=1)[:, :10])
        words = ["evaluate", str(fitted()), "--query", str(tmp_path / "query.npy"), "--recall", "0.9"]
        capsys.readouterr()
        assert main(words) == 0
        found = capsys.readouterr().err
        assert main([*words, "--gt", str(tmp_path / "gt.npy")]) == 0
        assert capsys.readouterr().err == found
        assert "90.0 %" in found
        assert "recall@10" in found
        assert main([*words, "--ties", "True"]) == 0
        assert "without ties" not in capsys.readouterr().err  # no two are equally far
        assert main([*words[:3], str(tmp_path / "one.npy"), *words[4:]]) == 0
        told = capsys.readouterr().err
        assert "unknown" in told
        assert "recall@10 is that of 1 query: how sure it is cannot be told" in told

    def test_a_gt_that_a_full_search_does_not_find_is_warned_of(
        self, fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        query, base = make_rows(200, 5, "L2"), make_rows(5000, 1, "L2")
        near = np.argsort(by_hand.distances(query, base), axis=1)[:, :11]
        np.save(tmp_path / "query.npy", query)
        words = ["evaluate", str(fitted()), "--query", str(tmp_path / "query.npy"), "--recall", "0.9", "--gt"]
        for gt, told in (
            (near[:, :10], ""),
            (np.minimum(near[:, :10] + 1, 4999), "its numbers seem to be counted from 1: save gt - 1"),
            (near[:, 9::-1], "its answers are listed farthest first: save gt[:, ::-1]"),
            (near[:, 1:], "it fits the second nearest"),
            (near[::-1, :10], "regenerate it for the vectors of this index"),
        ):
            np.save(tmp_path / "gt.npy", gt)
            capsys.readouterr()
            assert main([*words, str(tmp_path / "gt.npy")]) == 0
            said = " ".join(capsys.readouterr().err.split())
            assert told in said
            assert ("warning: gt: its first answer is the exact nearest for" in said) == bool(told)
        np.save(tmp_path / "gt.npy", np.tile(near[:, :2], 5))
        assert main([*words, str(tmp_path / "gt.npy")]) == 2
        assert "row 0 names" in capsys.readouterr().err

    def test_index_stores_another_base_elsewhere(self, fitted: Callable[[], Path], tmp_path: Path):
        np.save(tmp_path / "more.npy", make_rows(3000, 9, "L2"))
        words = ["index", str(fitted()), str(tmp_path / "more.npy"), "--out", str(tmp_path / "out"), "--kind", "SQ8"]
        assert main([*words, "--percents", "0"]) == 0
        index = ivfast.load_index(tmp_path / "out")
        assert (len(index), index.faiss_index.ntotal, index.kind) == (3000, 3000, "SQ8")

    def test_another_fit_loses_nothing(
        self, fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        out = tmp_path / "out"
        shutil.copytree(fitted(), out)
        before = {path: path.read_bytes() for path in out.rglob("*.npy")}
        np.save(tmp_path / "other.npy", make_rows(2000, 8, "L2"))
        assert main(["fit", str(tmp_path / "other.npy"), "--save_path", str(out)]) == 2
        assert "it holds what was made of another base" in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in before}
        index = ivfast.load_index(out)
        index.add(make_rows(10, 3, "L2"))
        index.save(out)
        grown = (out / "index.faiss").read_bytes()
        for words in (["fit", str(tmp_path / "other.npy"), "--save_path"], ["index"]):
            assert main([*words, str(out), *([str(tmp_path / "other.npy")] if words == ["index"] else [])]) == 2
            assert "vectors were added to its index" in capsys.readouterr().err
        assert (out / "index.faiss").read_bytes() == grown

    def test_what_would_fail_later_is_refused_first(
        self, fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        np.save(tmp_path / "base.npy", make_rows(2000, 8, "L2"))
        np.save(tmp_path / "query.npy", make_rows(5, 8, "L2")[:, :7])
        fit = ["fit", str(tmp_path / "base.npy"), "--save_path", str(tmp_path / "out")]
        assert main([*fit, "--kind", "PQ7"]) == 2
        assert "kind 'PQ7': FAISS cannot make" in capsys.readouterr().err
        assert main([*fit, "--query", str(tmp_path / "query.npy")]) == 2
        said = f"query: {tmp_path / 'query.npy'}: found rows of 7 columns, expected 16"
        assert said in capsys.readouterr().err
        lossy = ivfast.load(fitted()).index(make_rows(2000, 8, "L2"), kind="PQ4")
        lossy.save(tmp_path / "lossy")
        np.save(tmp_path / "query.npy", make_rows(5, 8, "L2"))
        assert main(["evaluate", str(tmp_path / "lossy"), "--query", str(tmp_path / "query.npy")]) == 2
        assert "--gt is missing" in capsys.readouterr().err
        np.save(tmp_path / "gt.npy", np.zeros((5, 10), dtype=int))
        words = ["evaluate", str(tmp_path / "lossy"), "--query", str(tmp_path / "query.npy")]
        assert main([*words, "--gt", str(tmp_path / "gt.npy"), "--ties", "True"]) == 2
        assert "codes of kind PQ4 tell no equal distances, expected kind Flat" in capsys.readouterr().err

    def test_report_is_one_page_and_a_comparison_another(self, fitted: Callable[[], Path], tmp_path: Path):
        shutil.copytree(fitted(), tmp_path / "one")
        (tmp_path / "one" / "report.html").unlink()
        assert main(["report", str(tmp_path / "one")]) == 0
        assert "</html>" in (tmp_path / "one" / "report.html").read_text()
        both = [str(tmp_path / "one"), str(fitted())]
        assert main(["report", *both, "--out", str(tmp_path / "both.html")]) == 0
        assert "</html>" in (tmp_path / "both.html").read_text()

    def test_files_of_wrong_rows_are_named_with_their_role(
        self, fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        rows, near = make_rows(2000, 8, "L2"), np.zeros((2000, 10), int)
        rows[7, 3] = np.nan
        near[:] = np.arange(10)
        near[3, 4] = 5000
        for name, array in (("base", rows), ("query", rows), ("right", np.nan_to_num(rows)), ("gt", near)):
            np.save(tmp_path / f"{name}.npy", array)
        base, query, right, gt = (str(tmp_path / f"{name}.npy") for name in ("base", "query", "right", "gt"))
        evaluate = ["evaluate", str(fitted()), "--query"]
        for words, told in (
            (["index", str(fitted()), base, "--out", str(tmp_path / "out")], f"base: {base} row 7 holds NaN"),
            ([*evaluate, query], f"query: {query}: row 7 is not finite"),
            ([*evaluate, right, "--gt", gt], f"gt: {gt}: found ids from 0 to 5000, expected 0 to 4999"),
        ):
            assert main(words) == 2
            assert f"error: {told}" in capsys.readouterr().err

    def test_a_gt_with_no_answers_for_some_is_evaluated(
        self, fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        query, base = make_rows(200, 5, "L2"), make_rows(5000, 1, "L2")
        near = np.argsort(by_hand.distances(query, base), axis=1)[:, :10]
        near[::2] = -1
        near[1::4, 4:] = -1
        np.save(tmp_path / "query.npy", query)
        np.save(tmp_path / "gt.npy", near)
        words = ["evaluate", str(fitted()), "--query", str(tmp_path / "query.npy"), "--gt", str(tmp_path / "gt.npy")]
        assert main([*words, "--recall", "0.9"]) == 0
        said = capsys.readouterr().err
        assert "warning" not in said
        assert "that of 100 queries" in said
        np.save(tmp_path / "gt.npy", np.where(near < 0, -1, np.minimum(near + 1, 4999)))
        assert main([*words, "--recall", "0.9"]) == 0
        assert "its numbers seem to be counted from 1" in capsys.readouterr().err

    def test_damaged_index_is_one_line(self, fitted: Callable[[], Path], tmp_path: Path):
        for name, spoil, told in (
            ("index.faiss", lambda data: data[:200], "cannot be read"),
            ("index.safetensors", lambda data: data[:50], "cannot be read"),
            ("index.safetensors", None, "is missing"),
            ("index.faiss", None, "is missing"),
        ):
            out = tmp_path / f"{name}{spoil is None}"
            shutil.copytree(fitted(), out)
            if spoil is None:
                (out / name).unlink()
            else:
                (out / name).write_bytes(spoil((out / name).read_bytes()))
            with pytest.raises(UserError, match=told) as refused:
                ivfast.load_index(out)
            assert "\n" not in str(refused.value)


@pytest.mark.whole_run
@pytest.mark.xdist_group("front")
@pytest.mark.whole_run
@pytest.mark.xdist_group("front")
def test_evaluate_tells_of_removed_vectors_and_of_recalls_that_codes_miss(
    fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    query, base = make_rows(200, 5, "L2"), make_rows(5000, 1, "L2")
    np.save(tmp_path / "query.npy", query)
    near = np.argsort(by_hand.distances(query, base), axis=1)[:, :10]
    np.save(tmp_path / "gt.npy", near)

    def told(folder: Path) -> str:
        words = ["evaluate", str(folder), "--query", str(tmp_path / "query.npy"), "--recall", "0.8", "0.99", "--gt"]
        capsys.readouterr()
        code = main([*words, str(tmp_path / "gt.npy")])
        said = " ".join(capsys.readouterr().err.split())
        assert code == (2 if "holds no vectors" in said else 0)
        return said

    assert "were removed" not in told(fitted())
    assert "nearest at most" not in told(fitted())
    index = ivfast.load_index(fitted())
    index.remove(np.arange(1000))
    index.save(tmp_path / "less")
    missed = f"{int((near < 1000).sum()):,} of 2,000 answers in gt among them"
    said = told(tmp_path / "less")
    assert f"warning: 1,000 of 5,000 vectors were removed since the index was made, {missed}" in said
    index.remove(np.arange(5000))
    index.save(tmp_path / "none")
    assert f"error: {tmp_path / 'none'}: its index holds no vectors, expected some" in told(tmp_path / "none")
    coded = ivfast.load(fitted()).index(base, 0.8, "PQ2")
    coded.save(tmp_path / "coded")
    best = coded.calibration.best(10)
    assert best < 0.99
    assert f"an index of kind PQ2 finds {100 * best:.1f} % of the 10 nearest at most" in told(tmp_path / "coded")


def test_model_moves_with_save_and_evaluates(tmp_path: Path):
    base = make_rows(3000, 1, "IP") * np.linspace(1, 2, 3000, dtype=np.float32)[:, None]
    model = ivfast.fit(base, nlist=16, normalize=True, epochs=1, copies=0.5)
    model.save(tmp_path / "moved")
    again = ivfast.load(tmp_path / "moved")
    ours, theirs = (one.index(base, copies=0.5) for one in (model, again))
    query = make_rows(30, 2, "IP")
    np.testing.assert_array_equal(ours.search(3 * query)[0], theirs.search(query)[0])
    assert again.copies == (0.0, 0.5)


@pytest.mark.whole_run
@pytest.mark.xdist_group("front")
def test_kmeans_in_the_shape_of_faiss():
    base = make_rows(3000, 1, "L2")
    kmeans, plain = ivfast.Kmeans(16, 16, niter=5, epochs=1), faiss.Kmeans(16, 16, niter=5)
    with pytest.raises(UserError, match="nothing is trained yet"):
        kmeans.assign(base)
    with pytest.raises(UserError, match="x: found rows of 5 columns, expected 16"):
        kmeans.train(base[:, :5])
    with pytest.raises(UserError, match=r"^x: found 999 vectors, expected 1,000 or more"):
        kmeans.train(base[:999])
    with pytest.raises(UserError, match=r"^x: .* row 5 holds NaN"):
        kmeans.train(np.where(np.arange(3000)[:, None] == 5, np.nan, base))
    kmeans.train(base)
    plain.train(base)
    assert kmeans.centroids is not None
    assert plain.centroids is not None
    assert (kmeans.centroids.shape, kmeans.centroids.dtype) == (plain.centroids.shape, plain.centroids.dtype)
    assert kmeans.index.ntotal == 16
    distances, buckets = kmeans.assign(base[:100])
    d2 = by_hand.distances(base[:100].astype(float), kmeans.centroids.astype(float))
    np.testing.assert_array_equal(buckets, d2.argmin(axis=1))
    np.testing.assert_allclose(distances, d2.min(axis=1), rtol=1e-3)


def test_kmeans_takes_settings_of_faiss_where_they_mean_something(monkeypatch: pytest.MonkeyPatch):
    wrong: list[dict[str, Any]] = [{"nredo": 5}, {"int_centroids": True}, {"update_index": True}, {"init_method": 2}]
    for one in wrong:
        name, value = next(iter(one.items()))
        with pytest.raises(UserError, match=f"^{name} {value}: of faiss.Kmeans alone, expected"):
            ivfast.Kmeans(16, 16, **one)
    handed: list[dict[str, Any]] = []

    def fit(base: np.ndarray, nlist: int, **given: Any) -> Any:
        handed.append(given | {"base": base, "nlist": nlist})
        return SimpleNamespace(centers=base[:nlist])

    monkeypatch.setattr("ivfast.front.kmeans.fit", fit)
    base = make_rows(3000, 1, "L2")
    for gpu, device in ((False, -1), (0, -1), (True, 0), (1, 0), (4, 0)):
        ivfast.Kmeans(16, 16, gpu=gpu, nredo=1, int_centroids=False, epochs=3).train(base)
        assert (handed[-1]["gpu"], handed[-1]["epochs"], len(handed[-1]["base"])) == (device, 3, 3000)
        assert not {"nredo", "int_centroids"} & handed[-1].keys()
    for most, rows in ((100, 1600), (10, 1000), (256, 3000)):
        ivfast.Kmeans(16, 16, max_points_per_centroid=most, min_points_per_centroid=1).train(base)
        drawn = handed[-1]["base"]
        assert len(np.unique(drawn, axis=0)) == len(drawn) == rows
        assert (drawn[:, None, 0] == base[None, :, 0]).any(axis=1).all()


@pytest.mark.whole_run
@pytest.mark.xdist_group("front")
def test_a_fit_killed_between_the_files_of_its_index_goes_on_and_checks_base_once(
    fitted: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, beside = tmp_path / "out", tmp_path / "out" / "index.safetensors"
    shutil.copytree(fitted(), out)
    whole = {name: (out / name).read_bytes() for name in ("index.faiss", "index.safetensors")}
    beside.unlink()
    assert not was_added_to(out, 5000)
    with monkeypatch.context() as killed:
        other = ivfast.load(out).index(make_rows(5000, 1, "L2"), 0.0)
        beside.write_bytes(whole["index.safetensors"])
        killed.setattr("ivfast.runtime.files.os.replace", kill_before("index.faiss"))
        with pytest.raises(KeyboardInterrupt):
            other.save(out)
    with pytest.raises(UserError, match=r"of another index\.faiss"):
        ivfast.load_index(out)
    scanned: list[int] = []

    def counted(vectors: Vectors, *given: Any) -> Vectors:
        scanned.append(len(vectors.rows))
        return scan(vectors, *given)

    for place in ("ivfast.front.fit.scan", "ivfast.index.placing_model.scan"):
        monkeypatch.setattr(place, counted)
    words = ["fit", str(fitted().parent / "base.fvecs"), "--save_path", str(out), "--nlist", "20", "--epochs", "1"]
    assert main(words) == 0
    assert scanned == [5000]
    assert whole == {name: (out / name).read_bytes() for name in whole}


@pytest.mark.whole_run
@pytest.mark.xdist_group("front")
def test_an_index_killed_between_its_files_goes_on(
    fitted: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a folder of its own, where no fit tells of how many vectors it was made."""
    np.save(tmp_path / "base.npy", make_rows(3000, 7, "L2"))
    words = ["index", str(fitted()), str(tmp_path / "base.npy"), "--out", str(tmp_path / "out"), "--ray", "none"]
    with monkeypatch.context() as killed:
        killed.setattr("ivfast.runtime.files.os.replace", kill_before("index.faiss"))
        with pytest.raises(KeyboardInterrupt):
            main(words)
    assert (tmp_path / "out" / "index.safetensors").is_file()
    assert main(words) == 0
    assert len(ivfast.load_index(tmp_path / "out")) == 3000
    assert not (tmp_path / "out" / "stored.json").exists()  # one file without Ray is no base of many


@pytest.mark.whole_run
@pytest.mark.xdist_group("front")
def test_added_vectors_are_never_lost_to_a_fit(
    fitted: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out, beside = tmp_path / "out", tmp_path / "out" / "index.safetensors"
    shutil.copytree(fitted(), out)
    before = beside.read_bytes()
    words = ["fit", str(fitted().parent / "base.fvecs"), "--save_path", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr("faiss.read_index", lambda *_: pytest.fail("the index was loaded"))
        assert not was_added_to(out, None)
    index = ivfast.load_index(out)
    index.add(make_rows(10, 3, "L2"))
    index.save(out)
    grown = {"index.faiss": (out / "index.faiss").read_bytes(), "index.safetensors": beside.read_bytes()}
    for spoiled in (before, grown["index.safetensors"][:50], b"", None):
        beside.unlink() if spoiled is None else beside.write_bytes(spoiled)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "can't be told whether vectors were added; move index.faiss elsewhere or remove it" in said
        assert said.count("\n") == 1
        assert (out / "index.faiss").read_bytes() == grown["index.faiss"]
    (out / "index.faiss").write_bytes(grown["index.faiss"][:200])
    assert main(words) == 2
    assert "can't be told" in capsys.readouterr().err


def test_of_equal_recalls_the_cheapest_of_kmeans_counts(tmp_path: Path):
    record = evaluation()
    line = record["results"][0]  # k-means, no copies
    line |= {"recall": [0.5, 1.0, 1.0, 1.0], "scanned": [0.1, 0.2, 0.5, 1.0], "scanned_at": {"0.90": 0.18}}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    found = read_record(tmp_path)
    assert kmeans_scanned(found, 1.0) == 0.2
    assert kmeans_scanned(found, 0.9) == 0.18
    assert kmeans_scanned(found, 0.95) == pytest.approx(0.19)
    (tmp_path / "evaluation.json").write_text(json.dumps(record | {"results": record["results"][1:]}))
    assert kmeans_scanned(read_record(tmp_path), 0.9) is None
