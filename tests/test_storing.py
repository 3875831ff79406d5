"""Which buckets `store` says, against a run's evaluation and brute force in float64; what it refuses."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from ivfast.data.vectors import Vectors
from ivfast.route.routers import LogitTiles, centers_router
from ivfast.runtime.errors import UserError
from ivfast.store import from_folder as storing
from ivfast.store.budget import assign
from ivfast.store.dcnet_file import load_model, save_model
from ivfast.store.demand import Demand, find_probes, reverse_of
from ivfast.store.rules import Plan, log_use
from run_dcnet import main
from tests import by_hand
from tests.conftest import TinySet


def trained(data: TinySet, folder: Path, *more: str) -> Path:
    flags = "--data_name tiny --learn_name learn --nlist 8 --param_list 8 8 --epochs 1 --warmup 0 --percents 0 --gpu -1"
    assert main(["--data_path", str(data.data_path), "--save_path", str(folder), *flags.split(), *more]) == 0
    return folder


@pytest.mark.whole_run
def test_store_asks_its_own_vectors(tmp_path: Path, tiny_set: TinySet):
    """Against assign with the neighbours found by brute force in float64; another answer without them."""
    trained(tiny_set, tmp_path, "--percents", "0.8")
    rows, buckets = storing.store(tmp_path, tiny_set.base, 0.8)
    model = load_model(tmp_path / "dcnet.safetensors", tmp_path / "ivfast.npy")
    assert model is not None
    facts = model.facts["centers"]
    nearest = np.argsort(by_hand.distances_of_others(tiny_set.base), axis=1)[:, :20]  # more than ftopk, which is 8
    centers = np.load(tmp_path / "ivfast.npy")
    router = centers_router("centers", centers, "IP", model.delta_floor, facts.k)
    tiles = LogitTiles(router, Vectors("base", tmp_path, tiny_set.base), model.space)
    plan = Plan("benefit", 0.8, facts.storing[0.8], log_use(facts.use[facts.storing[0.8]]))
    width = min(model.about["settings"]["ftopk"], len(centers))
    demand = Demand(reverse_of(nearest, model.asking), find_probes(tiles, facts.nprobe))
    lists = [sorted(buckets[rows == i].tolist()) for i in range(len(nearest))]
    for asked, equal in ((demand, True), (None, False)):
        (expected,) = assign(tiles, [plan], width, demand=asked)
        assert (lists == [sorted(row[row >= 0].tolist()) for row in expected.buckets]) == equal
    results = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    (told,) = (r for r in results if (r["router"], r["rule"], r["probing"]) == ("centers", "benefit", "fixed"))
    sizes = np.bincount(buckets, minlength=len(centers))
    assert (told["largest"], told["empty"]) == (sizes.max(), (sizes == 0).sum())
    assert told["imbalance"] == pytest.approx(by_hand.imbalance(sizes))


@pytest.mark.whole_run
def test_store_normalizes_where_the_run_did(tmp_path: Path, tiny_set: TinySet):
    out = trained(tiny_set, tmp_path, "--normalize", "True")
    factors = np.linspace(0.2, 30, len(tiny_set.base), dtype=np.float32)[:, None]
    one, two = (storing.store(out, rows, 0.0) for rows in (tiny_set.base, tiny_set.base * factors))
    np.testing.assert_array_equal(one[1], two[1])


def with_rows(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.whole_run
def test_store_opens_centers_with_every_check_of_an_evaluation(tmp_path: Path, tiny_set: TinySet):
    """The network's file is made to belong to the spoiled centers, as whoever can write both would."""
    out = trained(tiny_set, tmp_path)
    path, network = out / "ivfast.npy", out / "dcnet.safetensors"
    whole, model = path.read_bytes(), load_model(network, path)
    centers = np.load(path)
    assert model is not None
    for spoiled, told in (
        (whole + b"more", "centers: .* has 4 bytes too many"), (whole[:-1], "centers: .* is truncated"),
        (with_rows(np.where(centers == centers[2, 1], np.nan, centers)), "centers: .* row 2 holds NaN or infinity"),
        (with_rows(np.where(centers == centers[3, 1], np.inf, centers)), "centers: .* row 3 holds NaN or infinity"),
        (with_rows(5 * centers), "centers: .* has norm [0-9.]+, expected at most 1"),
        (with_rows(centers.astype(int)), "centers: .* holds int64"),
        (with_rows(centers[0]), r"centers: .* shape \(8,\)"),
        (with_rows(centers[:7]), "belongs to another"), (with_rows(centers[:, :7]), "belongs to another"),
    ):  # fmt: skip
        path.write_bytes(spoiled)
        save_model(network, model, path)
        with pytest.raises(UserError, match=told) as refused:
            storing.store(out, tiny_set.base, 0.0)
        assert "\n" not in str(refused.value)
    path.write_bytes(whole)
    save_model(network, model, path)
    assert len(storing.store(out, tiny_set.base, 0.0)[0]) == len(tiny_set.base)


@pytest.mark.whole_run
def test_store_refuses_what_a_run_would(tmp_path: Path, tiny_set: TinySet):
    out = trained(tiny_set, tmp_path)
    base = tiny_set.base
    spoiled = base.copy()
    spoiled[3, 2] = np.nan
    for rows, told in (
        (2 * base, r"(has|have) norm 2.*faiss\.normalize_L2"), (spoiled, "row 3 holds NaN.* leave them out before"),
        (base[:, :7], r"expected floats, \(n, 8\)"), (base[:0], "n above 0"), (base.astype(int), "found int64"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            storing.store(out, rows, 0.0)
    for percent in (0.8, "0.0", None, np.nan):
        with pytest.raises(UserError, match=r"percent .* was not among the run's --percents \(0\)"):
            storing.store(out, base, percent)  # pyright: ignore[reportArgumentType]
    (out / "ivfast.npy").unlink()
    with pytest.raises(UserError, match=r"no ivfast\.npy"):
        storing.store(out, base, 0.0)
