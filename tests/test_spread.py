"""A base of many files: the same bytes however it is cut, and nothing lost where a file is damaged."""

import json
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import fsspec
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ivfast
from ivfast.front.command_line import main
from ivfast.index.fill import sizes_of
from ivfast.runtime.errors import RunError, UserError
from ivfast.runtime.own_files import claim
from ivfast.runtime.progress import silent
from ivfast.spread import tables
from ivfast.spread.asking import find_looks, rank_block
from ivfast.spread.border import ALL, NONE, count_lower, count_ties, count_upper, key_within, share_ties, stored_buckets
from ivfast.spread.maps import Here
from ivfast.spread.queries import exact_answers
from ivfast.spread.sources import BLOCK, blocks_of, find_sources, opened
from ivfast.spread.store import STORED_NAME, Stored, Wishes, store_files
from ivfast.store.place import BINS, border_of, ordered_keys
from tests.conftest import Notes
from tests.many_files import CUTS, N, base_of, copied, same
from tests.test_index import DIM, make_rows

pytestmark = [pytest.mark.whole_run, pytest.mark.xdist_group("spread")]


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_eight_files_are_stored_as_one_to_the_byte(
    metric: str, tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any, monkeypatch: pytest.MonkeyPatch
):
    out, stored = one_of(metric)
    # one block a piece
    monkeypatch.setattr("ivfast.spread.store.piece_rows", lambda *_: BLOCK)
    many = store_files(fit_of(metric), tmp_path, Wishes(files_of(metric), 0.8, formats=("faiss", "parquet")), Here(),
                       silent())  # fmt: skip
    assert many == stored == Stored(N, N + round(0.8 * N), N, N)
    assert same(out, tmp_path)
    told = json.loads((tmp_path / STORED_NAME).read_text())
    assert [(file["first_id"], file["rows"]) for file in told["files"]] == [
        (start, end - start) for start, end in pairwise(CUTS)
    ]


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_buckets_that_a_device_ranks_are_the_same_however_files_are_cut(
    metric: str, fit_of: Any, monkeypatch: pytest.MonkeyPatch
):
    """As above 2,048 buckets: by the backend, whose products round by the place in a tile."""
    monkeypatch.setattr("ivfast.route.routers.MANY_BUCKETS", 8)
    index, rows = ivfast.load_index(fit_of(metric)), base_of(metric)[:3000]
    looks = find_looks(index)
    whole = rank_block(index, looks, rows, 500, 0.8)
    parts = [rank_block(index, looks, rows[part], 500 + part.start, 0.8) for part in (slice(0, 701), slice(701, 3000))]
    for one, other in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(one, np.concatenate(other))


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_what_is_stored_is_what_was_handed_over(metric: str, one_of: Any):
    out, _ = one_of(metric)
    index, base = ivfast.load_index(out), base_of(metric)
    untyped: Any = index.faiss_index.invlists
    seen = []
    for bucket, size in enumerate(sizes_of(index.faiss_index).tolist()):
        ids = faiss.rev_swig_ptr(untyped.get_ids(bucket), size)
        codes = faiss.rev_swig_ptr(untyped.get_codes(bucket), size * 4 * DIM).view(np.float32).reshape(size, DIM)
        assert (np.diff(ids) > 0).all()
        np.testing.assert_array_equal(codes, base[ids])
        seen.append(np.stack([ids, np.full(size, bucket)], axis=1))
    entries = np.concatenate(seen)
    assert len(np.unique(entries, axis=0)) == N + round(0.8 * N)
    assert np.array_equal(np.unique(entries[:, 0]), np.arange(N))
    files = sorted((out / "parquet").glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path) for path in files])
    np.testing.assert_array_equal(np.stack([table["id"], table["bucket"]], axis=1), entries)
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    np.testing.assert_array_equal(vectors, base[entries[:, 0]])


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_a_search_reaches_what_was_expected(metric: str, one_of: Any):
    index, base, query = ivfast.load_index(one_of(metric)[0]), base_of(metric), make_rows(500, 9, metric)
    gt = brute(query, base, 10, metric)[1]
    for reached in index.evaluate(query, gt):
        assert abs(reached.recall - reached.expected.recall) < 0.03
        assert reached.recall > reached.asked - 0.02
    with pytest.raises(UserError, match="on disk"):
        index.add(query)


def brute(query: np.ndarray, base: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances in float64 and ids, ties to the smaller id."""
    x, y = query.astype(np.float64), base.astype(np.float64)
    found = -(x @ y.T) if metric == "IP" else np.square(x[:, None] - y[None]).sum(axis=2)
    ids = np.argsort(found, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, ids, axis=1), ids


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_exact_answers_over_files_are_those_of_brute_force(metric: str, fit_of: Any, files_of: Any):
    query, base = make_rows(50, 9, metric), base_of(metric)
    query[0] = base[45]  # twenty twins: ties of ten nearest
    found = exact_answers(fit_of(metric), files_of(metric), None, query, 10, Here(), silent())
    distances, ids = brute(query, base, 10, metric)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.ids[0], np.arange(39, 49))


def test_exact_answers_hold_far_from_zero_and_beside_far_rows(tmp_path: Path, fit_of: Any):
    """Where float32 tells neighbours apart no more, all of a block is compared in float64."""
    base, query = make_rows(3000, 5, "L2") + np.float32(1e4), make_rows(20, 9, "L2") + np.float32(1e4)
    base[7] = 1e7
    np.save(tmp_path / "base.npy", base)
    found = exact_answers(fit_of("L2"), [str(tmp_path / "base.npy")], None, query, 10, Here(), silent())
    np.testing.assert_array_equal(found.ids, brute(query, base, 10, "L2")[1])


def test_ties_at_the_border_go_to_the_smaller_vector_then_to_the_smaller_bucket(rng: np.random.Generator):
    """Against sorting all copies at once, with files of ten vectors and keys that are often equal."""
    n, width = 200, 6
    buckets = np.stack([rng.permutation(20)[:width] for _ in range(n)]).astype(np.int32)
    buckets[rng.random((n, width)) < 0.1] = -1
    keys = rng.choice(np.array([-2, -0.0, 0.0, 1, 1 + 2**-20, 3], np.float32), (n, width))
    row, column = np.nonzero(buckets[:, 1:] >= 0)
    order = np.lexsort((buckets[row, column + 1], row, -keys[row, column + 1]))
    files = [slice(start, start + 10) for start in range(0, n, 10)]
    for budget in (1, 17, 80, 333, len(row) - 1, len(row), len(row) + 5):
        expected = np.where(np.arange(width) == 0, buckets, -1)
        best = order[:budget]
        expected[row[best], column[best] + 1] = buckets[row[best], column[best] + 1]
        histogram = np.sum([count_upper(buckets[file], keys[file]) for file in files], axis=0)
        key, ties = ALL, [0] * len(files)
        if budget < len(row):
            upper = border_of(histogram, budget)
            within = np.sum([count_lower(buckets[file], keys[file], upper) for file in files], axis=0)
            key, spare = key_within(within, upper, budget - int(histogram[upper + 1 :].sum()))
            ties = share_ties(spare, [count_ties(buckets[file], keys[file], key) for file in files])
        found = [stored_buckets(buckets[file], keys[file], key, few)[0] for file, few in zip(files, ties, strict=True)]
        np.testing.assert_array_equal(np.concatenate(found), expected)
    np.testing.assert_array_equal(stored_buckets(buckets, keys, NONE, 0)[0][:, 1:], -1)


def test_keys_are_ordered_as_numbers(rng: np.random.Generator):
    keys = np.sort(np.r_[rng.normal(size=1000), 0, np.inf, -np.inf].astype(np.float32))
    assert (np.diff(ordered_keys(keys)) >= 0).all()
    assert np.ptp(ordered_keys(np.array([-0.0, 0.0], np.float32))) == 0
    assert ordered_keys(keys).max() < BINS * BINS


def test_a_rerun_does_what_is_left_and_nothing_twice(tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any):
    words = [copied(path, tmp_path) for path in files_of("L2")]
    wishes, out = Wishes(words, 0.8, formats=("faiss", "parquet")), tmp_path / "out"
    first = store_files(fit_of("L2"), out, wishes, Here(), silent())
    assert (first.ranked, first.listed) == (N, N)
    assert not list((out / "parts").glob("lists-*"))
    assert store_files(fit_of("L2"), out, wishes, Here(), silent()) == Stored(N, first.entries)
    (out / STORED_NAME).unlink()
    again = store_files(fit_of("L2"), out, wishes, Here(), silent())
    assert (again.ranked, again.listed) == (0, N)
    assert same(out, one_of("L2")[0])


def test_a_damaged_file_is_named_and_the_rest_goes_on(
    tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any, capsys: pytest.CaptureFixture[str]
):
    """Through the command: exit 1, and the same command after mending makes what a clean run makes."""
    words = [copied(path, tmp_path) for path in files_of("IP")]
    whole = Path(words[4]).read_bytes()
    Path(words[4]).write_bytes(whole[: len(whole) // 2])
    rows = np.load(words[6])
    np.save(words[6], np.where(np.arange(len(rows))[:, None] == 5, np.nan, rows))
    command = ["index", str(fit_of("IP")), *words, "--out", str(tmp_path / "out"), "--ray", "none", "--percents", "0.8",
               "--write", "faiss", "parquet"]  # fmt: skip
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"error: base: {words[4]} is truncated" in said
    assert f"error: base: {words[6]}: row 5 is not finite" in said
    assert f"error: 2 of 8 files could not be done: {words[4]}, {words[6]}; mend" in said
    assert not (tmp_path / "out" / "index.faiss").exists()
    Path(words[4]).write_bytes(whole)
    np.save(words[6], rows)
    assert main(command) == 0
    left = CUTS[5] - CUTS[4] + CUTS[7] - CUTS[6]
    assert f"{left:,} ranked and {N:,} put into lists now" in capsys.readouterr().err
    assert same(tmp_path / "out", one_of("IP")[0])


def test_files_behind_one_that_cannot_be_counted_wait(tmp_path: Path, fit_of: Any, files_of: Any):
    words = [copied(path, tmp_path) for path in files_of("L2")]
    Path(words[2]).write_bytes(b"no vectors")
    notes = Notes()
    with pytest.raises(RunError, match=r"1 of 8 files .*part-2\.npy"):
        store_files(fit_of("L2"), tmp_path / "out", Wishes(words), Here(), notes)
    assert len(list((tmp_path / "out" / "parts").glob("ranks-*"))) == 2


def test_every_format_and_place_gives_the_same_lists(tmp_path: Path, fit_of: Any, one_of: Any):
    """Shards of a folder, Parquet, fragments of a Lance dataset, and URLs."""
    base = base_of("L2")
    (tmp_path / "shards").mkdir()
    np.save(tmp_path / "shards" / "10.npy", base[1000:5000])
    np.save(tmp_path / "shards" / "9.npy", base[:1000])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.ravel()), DIM)
    table = pa.table({"vector": vectors})
    pq.write_table(table.slice(5000, 2000), tmp_path / "some.parquet")
    lance.write_dataset(table.slice(7000, 5000), tmp_path / "more.lance", max_rows_per_file=1500)
    memory = fsspec.filesystem("memory")
    for number, start in enumerate((12_000, 15_000)):
        with memory.open(f"/bucket/{number}.npy", "wb") as file:
            np.save(file, base[start : start + 3000])
    np.save(tmp_path / "last.npy", base[18_000:])
    words = [str(tmp_path / "shards"), str(tmp_path / "some.parquet"), str(tmp_path / "more.lance"),
             "memory://bucket/*.npy", f"file://{tmp_path}/last.npy"]  # fmt: skip
    assert len(find_sources(words)) == 2 + 1 + 4 + 2 + 1
    store_files(fit_of("L2"), tmp_path / "out", Wishes(words, 0.8), Here(), silent())
    name = "index.ivfdata"
    assert (tmp_path / "out" / name).read_bytes() == (one_of("L2")[0] / name).read_bytes()


def test_a_lance_dataset_holds_what_parquet_holds(tmp_path: Path, fit_of: Any, files_of: Any, one_of: Any):
    wishes = Wishes(files_of("IP"), 0.8, formats=("lance",))
    for lost in (False, True, False):  # again over what is there, and once where it is not
        if lost:
            shutil.rmtree(tmp_path / "vectors.lance")
        store_files(fit_of("IP"), tmp_path, wishes, Here(), silent())
        (tmp_path / STORED_NAME).unlink()
    found = lance.dataset(str(tmp_path / "vectors.lance")).to_table()
    files = sorted((one_of("IP")[0] / "parquet").glob("*.parquet"))
    assert found.equals(pa.concat_tables([pq.read_table(path) for path in files]).cast(found.schema))
    assert not (tmp_path / "index.faiss").exists()


def test_ranges_of_a_table_hold_all_buckets_once():
    sizes = np.array([5, 0, 100, 1, 2, 3, 50, 0])
    held = {"all": [1] * 8, "ends": [1, 0, 0, 0, 0, 0, 1, 0], "none": [0] * 8}
    shards = [tables.Shard(name, np.packbits(buckets)) for name, buckets in held.items()]
    parts = tables.ranges(sizes, 4, shards, "digest", n_bytes=60 * 28)
    assert [(part.first, part.last) for part in parts] == [(0, 1), (2, 2), (3, 7)]
    assert [part.shards for part in parts] == [("all", "ends"), ("all",), ("all", "ends")]


@pytest.mark.parametrize("kind", ["SQ8", "PQ2"])
def test_codes_are_stored_as_well(kind: str, tmp_path: Path, fit_of: Any, files_of: Any):
    np.save(tmp_path / "base.npy", base_of("L2")[: CUTS[2]])
    one, many = tmp_path / "one", tmp_path / "many"
    store_files(fit_of("L2"), one, Wishes([str(tmp_path / "base.npy")], 0.8, kind), Here(), silent())
    store_files(fit_of("L2"), many, Wishes(files_of("L2")[:2], 0.8, kind), Here(), silent())
    assert same(one, many)
    assert ivfast.load_index(many).kind == kind


def test_another_base_leaves_nothing_of_the_one_before(
    tmp_path: Path, fit_of: Any, files_of: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Tables of fewer files, and a part that something damaged."""
    monkeypatch.setattr("ivfast.spread.store.ranges", partial(tables.ranges, n_bytes=1 << 17))
    monkeypatch.setattr(tables, "ROW_GROUP", 1000)
    store_files(fit_of("L2"), tmp_path, Wishes(files_of("L2")[:4], 0.8, formats=("parquet",)), Here(), silent())
    before = {path.name for path in (tmp_path / "parquet").glob("*.parquet")}
    wishes = Wishes(files_of("L2")[:2], 0.8, formats=("parquet",))
    store_files(fit_of("L2"), tmp_path, wishes, Here(), silent())
    files = sorted((tmp_path / "parquet").glob("*.parquet"))
    assert 3 < len(files) < len(before)
    table = pa.concat_tables([pq.read_table(path) for path in files])
    assert len(table) == CUTS[2] + round(0.8 * CUTS[2])
    assert table.equals(table.sort_by([("bucket", "ascending"), ("id", "ascending")]))
    (tmp_path / STORED_NAME).unlink()
    for name in ("parts", "parquet"):  # as the command marks them
        claim(tmp_path / name, [])
    parts = list((tmp_path / "parts").glob("ranks-*"))
    for part in parts:
        part.write_bytes(part.read_bytes()[:100])
    command = [
        "index",
        str(fit_of("L2")),
        *files_of("L2")[:2],
        "--out",
        str(tmp_path),
        "--ray",
        "none",
        "--write",
        "parquet",
    ]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert any(f"error: {part} is damaged" in said for part in parts)


def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path, fit_of: Any, files_of: Any):
    """After it was counted: it is not stored half of one kind and half of the other."""
    words = [copied(path, tmp_path) for path in files_of("L2")[:3]]

    class Changing(Here):
        def each(self, work: Any, given: Any, items: Any, title: str) -> Any:
            if title == "filling lists":
                np.save(words[1], np.load(words[1]) + 1)
            return super().each(work, given, items, title)

    with pytest.raises(RunError, match=r"1 of 3 files could not be done: .*part-1\.npy"):
        store_files(fit_of("L2"), tmp_path / "out", Wishes(words, 0.8), Changing(), silent())


def test_a_fit_that_changes_meanwhile_is_refused(
    tmp_path: Path, fit_of: Any, files_of: Any, monkeypatch: pytest.MonkeyPatch
):
    """Later on it is another fit, with which all is done anew."""
    fit, notes = tmp_path / "fit", Notes()
    monkeypatch.setattr(notes, "say", notes.told.append)
    shutil.copytree(fit_of("L2"), fit)

    class Changing(Here):
        def each(self, work: Any, given: Any, items: Any, title: str) -> Any:
            if title == "ranking":
                index = ivfast.load_index(fit)
                index.add(make_rows(3, 4, "L2"))
                index.save(fit)
            return super().each(work, given, items, title)

    wishes = Wishes(files_of("L2")[:2], 0.8)
    with pytest.raises(RunError, match="2 of 2 files could not be done"):
        store_files(fit, tmp_path / "out", wishes, Changing(), notes)
    assert f"error: {fit}: the fit was changed while it was in use" in notes.told[0]
    assert store_files(fit, tmp_path / "out", wishes, Here(), silent()).ranked == CUTS[2]


def test_without_copies_every_vector_is_stored_once(tmp_path: Path, fit_of: Any, files_of: Any):
    assert store_files(fit_of("L2"), tmp_path, Wishes(files_of("L2"), 0.0), Here(), silent()).entries == N


def test_blocks_end_where_ids_do(tmp_path: Path):
    np.save(tmp_path / "rows.npy", np.arange(3 * BLOCK, dtype=np.float32)[:, None])
    (source,) = find_sources([str(tmp_path / "rows.npy")])
    with opened(source, None) as rows:
        found = list(blocks_of(rows, 5 * BLOCK + 100))
    assert [start for start, _ in found] == [0, BLOCK - 100, 2 * BLOCK - 100, 3 * BLOCK - 100]
    np.testing.assert_array_equal(np.concatenate([block[:, 0] for _, block in found]), np.arange(3 * BLOCK))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["BASE", "BASE"], "--out is missing: expected a folder other than that of the fit"),
        (["BASE", "BASE", "--out", "FIT"], "expected a folder other than that of the fit"),
        (["BASE", "absent.npy", "--out", "OUT"], "absent.npy is missing"),
        (["memory://absent/*.npy", "--out", "OUT"], "memory://absent/*.npy names no file; correct it"),
        (["nowhere://x.npy", "--out", "OUT"], "base: nowhere://x.npy cannot be read (Protocol not known: nowhere"),
        (["BASE", "BASE", "--out", "OUT", "--kind", "PQ4x4fs"], "packed codes can't lie on disk"),
        (["BASE", "--out", "OUT", "--kind", "SQ8", "--write", "lance"], "--kind SQ8: Parquet and Lance hold vectors"),
        (["BASE", "BASE", "--out", "OUT", "--percents", "0.3"], "--percents 0.3: expected one of the fit's (0"),
        (["BASE", "--out", "OUT", "--percents", "0.3"], "--percents 0.3: expected one of the fit's (0"),
        (["BASE", "BASE", "--out", "OUT", "--kind", "flat"], "kind 'flat': FAISS cannot make it for 16 entries (could"),
        (["BASE", "--out", "OUT", "--write", "csv"], "invalid choice: 'csv'"),
    ],
)
def test_bad_words_end_in_one_line(
    words: list[str], told: str, tmp_path: Path, fit_of: Any, files_of: Any, capsys: pytest.CaptureFixture[str]
):
    names = {"BASE": files_of("L2")[0], "OUT": str(tmp_path / "out"), "FIT": str(fit_of("L2"))}
    assert main(["index", str(fit_of("L2")), *(names.get(word, word) for word in words), "--ray", "none"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_evaluate_makes_answers_over_the_files(
    tmp_path: Path, one_of: Any, files_of: Any, capsys: pytest.CaptureFixture[str]
):
    out, query = one_of("L2")[0], make_rows(200, 9, "L2")
    np.save(tmp_path / "query.npy", query)
    words = ["evaluate", str(out), "--query", str(tmp_path / "query.npy"), "--make_gt", str(tmp_path / "gt.npy")]
    assert main([*words[:4], "--base", *files_of("L2")]) == 2
    assert "--base is given without --make_gt" in capsys.readouterr().err
    assert main([*words, "--ray", "none"]) == 2
    assert "--base is missing" in capsys.readouterr().err
    assert main([*words, "--base", *files_of("L2")[:3], "--ray", "none"]) == 2
    assert "its files hold 4,101 vectors, the index 21,000" in capsys.readouterr().err
    assert main([*words, "--base", *files_of("L2"), "--ray", "none"]) == 0
    assert "200 queries with their 10 nearest" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(tmp_path / "gt.npy"), brute(query, base_of("L2"), 10, "L2")[1])
