"""Where a trained model says to store and to look, against an evaluation and float64; what it refuses."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors import safe_open

from ivfast.data.space import Space
from ivfast.data.vectors import Points, Vectors
from ivfast.index.load import load
from ivfast.index.model import Placed, TrainedModel
from ivfast.network.backend import weight_shapes
from ivfast.route.routers import ROUTERS, centers_router
from ivfast.route.tiles import LogitTiles
from ivfast.runtime.errors import UserError
from ivfast.store.dcnet_file import Model, load_model, model_router, save_model
from ivfast.store.demand import Demand, find_probes
from ivfast.store.place import place
from ivfast.store.records import Facts, Storing, router_plans
from ivfast.store.reverse import reverse_of
from run_dcnet import main
from tests import by_hand
from tests.conftest import TinySet
from tests.runs import flags, make_data


def trained(data: TinySet, folder: Path, *more: str) -> Path:
    flags = "--data_name tiny --learn_name learn --nlist 8 --param_list 8 8 --epochs 1 --warmup 0 --percents 0 --gpu -1"
    assert main(["--data_path", str(data.data_path), "--save_path", str(folder), *flags.split(), *more]) == 0
    return folder


def store(folder: Path, base: np.ndarray, copies: float) -> Placed:
    return load(folder).store(base, copies)


@pytest.mark.whole_run
def test_store_asks_its_own_vectors(tmp_path: Path, tiny_set: TinySet):
    """Against place with the neighbours found by brute force in float64; another answer without them."""
    trained(tiny_set, tmp_path, "--percents", "0.8")
    rows, buckets = store(tmp_path, tiny_set.base, 0.8)
    model = load_model(tmp_path / "dcnet.safetensors", tmp_path / "ivfast.npy")
    assert model is not None
    facts = model.facts["centers"]
    nearest = np.argsort(by_hand.distances_of_others(tiny_set.base), axis=1)[:, :20]  # more than ftopk, which is 8
    centers = np.load(tmp_path / "ivfast.npy")
    router = centers_router("centers", centers, "IP", model.delta_floor, facts.k)
    tiles = LogitTiles(router, Points(Vectors("base", tmp_path, tiny_set.base), model.space))
    width = min(model.about["settings"]["ftopk"], len(centers))
    demand = Demand(reverse_of(nearest, model.asking), find_probes(tiles, facts.nprobe))
    lists = [sorted(buckets[rows == i].tolist()) for i in range(len(nearest))]
    for asked, equal in ((demand, True), (None, False)):
        (plan,) = (p for p in router_plans(ROUTERS["centers"], facts, (0.8,), asked) if p.name == "benefit")
        (expected,) = place(tiles, [plan], width)
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
    one, two = (store(out, rows, 0.0) for rows in (tiny_set.base, tiny_set.base * factors))
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
            store(out, tiny_set.base, 0.0)
        assert "\n" not in str(refused.value)
    path.write_bytes(whole)
    save_model(network, model, path)
    assert len(store(out, tiny_set.base, 0.0)[0]) == len(tiny_set.base)


@pytest.mark.whole_run
def test_store_refuses_what_a_run_would(tmp_path: Path, tiny_set: TinySet):
    out = trained(tiny_set, tmp_path)
    base = tiny_set.base
    spoiled = base.copy()
    spoiled[3, 2] = np.nan
    for rows, told in (
        (2 * base, r"(has|have) norm 2.*faiss\.normalize_L2"), (spoiled, "row 3 holds NaN.* leave them out before"),
        (base[:, :7], "rows of 7 columns, expected 8"), (base[:0], "n above 0"), (base.astype(int), "found int64"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            store(out, rows, 0.0)
    for percent in (0.8, "0.0", None, np.nan):
        with pytest.raises(UserError, match=r"copies .*: expected one of the run's --percents \(0\)"):
            store(out, base, percent)  # pyright: ignore[reportArgumentType]
    (out / "ivfast.npy").unlink()
    with pytest.raises(UserError, match=r"no ivfast\.npy"):
        store(out, base, 0.0)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run whose network ranks otherwise than its centers, and its base of 24 dims."""
    folder = tmp_path_factory.mktemp("deep")
    data = make_data(folder / "data")
    out = folder / "out"
    assert main(flags(data, out)) == 0
    return out, np.load(data / "faces" / "base.npy")


class Formulas(NamedTuple):
    """What a router says, from its files and the formulas of docs/formats.md, in float64."""

    z: np.ndarray  # (n, nlist) logits
    chances: np.ndarray  # (n, nlist) softmax(z / probing_t)

    def check(self, buckets: np.ndarray, chances: np.ndarray) -> None:
        """The best buckets, best first, but where float32 cannot tell two apart."""
        n, nprobe = buckets.shape
        assert (buckets.dtype, chances.dtype, chances.shape) == (np.int64, np.float32, (n, nprobe))
        own = np.take_along_axis(self.z, buckets, axis=1)
        np.testing.assert_allclose(own, -np.sort(-self.z, axis=1)[:, :nprobe], rtol=3e-5, atol=3e-5)
        assert (buckets == by_hand.best_probes(self.z, nprobe)).mean() > 0.999
        assert all(len(set(row)) == nprobe for row in buckets.tolist())
        expected = np.take_along_axis(self.chances, buckets, axis=1)
        np.testing.assert_allclose(chances, expected, rtol=1e-4, atol=1e-7)


def by_formulas(folder: Path, x: np.ndarray, router: str) -> Formulas:
    """router: "centers", those of ivfast.npy, or "net"."""
    with safe_open(folder / "dcnet.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["ivfast"])
        arrays = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
    facts = about["routers"][router]

    def inside(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        if about["metric"] == "L2":
            return (rows - arrays["space.mean"]) / arrays["space.scale"]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.where(np.abs(norms - 1) <= 1e-3, rows / norms, rows)

    x, centers = inside(x), inside(np.load(folder / "ivfast.npy"))
    centers = arrays["net.centers"] if router == "net" else centers
    d2 = np.maximum(2 - 2 * x @ centers.T, 0) if about["metric"] == "IP" else by_hand.distances(x, centers)
    z = -facts["k"] * d2 / by_hand.delta(d2, about["delta_floor"])
    z += by_hand.deep_path(x, arrays) if router == "net" else 0
    return Formulas(z, by_hand.softmax(z, facts["probing_t"]))


@pytest.mark.whole_run
def test_network_ranks_as_its_formulas_say(deep: tuple[Path, np.ndarray]):
    folder, base = deep
    found = load(folder).rank(base, nprobe=8, router="net")
    by_formulas(folder, base, "net").check(*found)
    by_centers = load(folder).rank(base, nprobe=8).buckets
    assert (by_centers != found.buckets).any()


@pytest.mark.whole_run
def test_centers_rank_by_distance(deep: tuple[Path, np.ndarray]):
    folder, base = deep
    model = load(folder)
    d2 = by_hand.distances(base, model.centers)
    buckets, chances = model.rank(base, nprobe=32)
    assert (buckets == np.argsort(d2, axis=1)).mean() > 0.999
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert (np.diff(chances, axis=1) <= 0).all()
    by_formulas(folder, base, "centers").check(buckets, chances)


DIM, HIDDEN, NLIST = 6, (9, 7), 12
LENGTH = {"IP": 1.0, "L2": 200.0}  # about that of a vector as it is stored


def write_model(folder: Path, metric: str) -> Path:
    """Files of a run, with any numbers: all weights, temperatures and k of their own."""
    rng = np.random.default_rng(8)
    centers = rng.standard_normal((2, NLIST, DIM)).astype(np.float32)  # those of ivfast.npy and of the network
    mean, scale = np.zeros(DIM, np.float32), np.float32(1)
    if metric == "IP":
        centers /= np.linalg.norm(centers, axis=2, keepdims=True)
    else:
        mean, scale = LENGTH["L2"] * rng.standard_normal(DIM).astype(np.float32), np.float32(LENGTH["L2"])
    space = Space(metric, mean, scale)
    shapes = weight_shapes((DIM, *HIDDEN, NLIST))
    net = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items() if name != "u"}
    storings = (Storing(0.5, {}, 1.3, rng.dirichlet(np.ones(NLIST))),)
    np.save(folder / "ivfast.npy", space.outside(centers[0]))
    model = Model(
        facts={
            "kmeans": Facts(5.0, 1.0, 2.0, (Storing(0.5, {}, None, None),), 0.0),
            "centers": Facts(9.0, 1.7, 2.0, storings, 0.0),
            "net": Facts(7.0, 0.6, 2.0, storings, 0.0),
        },
        net={"centers": centers[1]} | net,
        mean=rng.standard_normal(DIM).astype(np.float32),
        scale=np.float32(0.7),
        space=space,
        delta_floor=1e-3,
        param_list=(DIM, *HIDDEN, NLIST),
        asking=np.array([0.9, 0.5], np.float32),
        about={"settings": {"seed": 1, "normalize": False, "ftopk": 4}},
    )
    save_model(folder / "dcnet.safetensors", model, folder / "ivfast.npy")
    return folder


class Written(NamedTuple):
    """Files of any model, and vectors to rank, of which the first are the centers themselves."""

    folder: Path
    x: np.ndarray  # (1400, 6) float32: two tiles

    def load(self, backend: str = "jax") -> TrainedModel:
        return load(self.folder, backend)


@pytest.fixture(scope="module", params=["IP", "L2"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    metric = request.param
    folder = write_model(tmp_path_factory.mktemp("written"), metric)
    x = np.random.default_rng(2).standard_normal((1400, DIM))
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "IP" else LENGTH[metric] * x
    x[:NLIST] = np.load(folder / "ivfast.npy")
    return Written(folder, x.astype(np.float32))


@pytest.mark.parametrize("router", ["centers", "net"])
@pytest.mark.parametrize("nprobe", [1, 5, NLIST])
def test_any_model_ranks_as_its_formulas_say(written: Written, router: str, nprobe: int):
    by_formulas(written.folder, written.x, router).check(*written.load().rank(written.x, nprobe, router))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_network_ranks_as_the_router_that_is_evaluated(written: Written, backend: str):
    """To the bit."""
    model = load_model(written.folder / "dcnet.safetensors", written.folder / "ivfast.npy")
    assert model is not None
    facts = model.facts["net"]
    router = model_router(model, facts.k, backend, -1)
    z = LogitTiles(router, Points(Vectors("x", Path("x"), written.x), model.space)).all()
    buckets, chances = written.load(backend).rank(written.x, 5, "net")
    np.testing.assert_array_equal(buckets, np.argsort(-z, axis=1, kind="stable")[:, :5])
    expected = by_hand.softmax(z, facts.probing_t)
    np.testing.assert_allclose(chances, np.take_along_axis(expected, buckets, axis=1), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("router", ["centers", "net"])
def test_rows_are_ranked_alike_however_they_are_handed_over(written: Written, router: str, tmp_path: Path):
    """As a memory map, in Fortran order, in float64, by the tile or all at once."""
    model = written.load()
    whole = model.rank(written.x, 3, router)
    np.save(tmp_path / "x.npy", written.x)
    ways = [np.load(tmp_path / "x.npy", mmap_mode="r"), np.asfortranarray(written.x), written.x.astype(np.float64)]
    for x in ways:
        found = model.rank(x, 3, router)
        assert found.buckets.tobytes() == whole.buckets.tobytes()
        assert found.chances.tobytes() == whole.chances.tobytes()
    parts = [model.rank(x, 3, router) for x in (written.x[:1024], written.x[1024:])]
    for i in range(2):
        assert np.concatenate([part[i] for part in parts]).tobytes() == whole[i].tobytes()
    few = model.rank(written.x, 1, router)
    assert few.buckets.tobytes() == whole.buckets[:, :1].tobytes()
    assert few.chances.tobytes() == whole.chances[:, :1].tobytes()


def test_a_vector_s_own_center_is_the_first(written: Written):
    buckets, chances = written.load().rank(written.x[:NLIST], 2)
    assert buckets[:, 0].tolist() == list(range(NLIST))
    assert (chances[:, 0] > chances[:, 1]).all()


def test_what_a_model_says_of_itself(written: Written):
    model = written.load()
    assert (model.nlist, model.dim, model.copies) == (NLIST, DIM, (0.5,))
    assert model.metric == ("IP" if np.allclose(np.linalg.norm(model.centers, axis=1), 1) else "L2")
    np.testing.assert_array_equal(model.centers, np.load(written.folder / "ivfast.npy"))
    assert model.centers.dtype == np.float32


@pytest.mark.whole_run
def test_rank_normalizes_where_the_run_did(tmp_path: Path, tiny_set: TinySet):
    model = load(trained(tiny_set, tmp_path, "--normalize", "True"))
    factors = np.where(np.arange(len(tiny_set.base)) % 3, np.float32(1), np.float32(8))[:, None]
    one, two = (model.rank(rows, 4) for rows in (tiny_set.base, tiny_set.base * factors))
    np.testing.assert_array_equal(one.buckets, two.buckets)
    np.testing.assert_array_equal(one.chances, two.chances)


@pytest.mark.whole_run
@pytest.mark.parametrize(
    ("nprobe", "router", "columns", "message"),
    [
        (0, "centers", 24, "nprobe 0: expected a whole number from 1 to 32"),
        (-1, "centers", 24, "nprobe -1: expected a whole number from 1 to 32"),
        (2.5, "centers", 24, "nprobe 2.5: expected a whole number from 1 to 32"),
        (33, "net", 24, "nprobe 33: expected a whole number from 1 to 32"),
        (4, "kmeans", 24, "router 'kmeans': expected 'centers' or 'net'"),
        (4, "network", 24, "router 'network': expected 'centers' or 'net'"),
        (4, "net", 23, "rows of 23 columns, expected 24"),
        (4, "centers", 23, "rows of 23 columns, expected 24"),
    ],
)
def test_rank_refuses_what_does_not_fit(
    nprobe: int, router: str, columns: int, message: str, deep: tuple[Path, np.ndarray]
):
    with pytest.raises(UserError, match=message) as refused:
        load(deep[0]).rank(deep[1][:, :columns], nprobe, router)
    assert "\n" not in str(refused.value)


@pytest.mark.whole_run
def test_rank_refuses_what_a_run_would(deep: tuple[Path, np.ndarray]):
    folder, base = deep
    model, spoiled = load(folder), base.copy()
    spoiled[3, 2] = np.inf
    for rows, told in (
        (2 * base, r"have norm 2.*faiss\.normalize_L2"), (spoiled, "row 3 holds NaN.* leave them out before"),
        (base[0], r"expected floats, \(n, 24\)"), (base[:0], "n above 0"), (base.astype(int), "found int64"),
    ):  # fmt: skip
        for router in ("centers", "net"):
            with pytest.raises(UserError, match=told) as refused:
                model.rank(rows, 4, router)
            assert "\n" not in str(refused.value)


@pytest.mark.whole_run
def test_network_is_refused_where_the_run_trained_none(tmp_path: Path, tiny_set: TinySet):
    with pytest.raises(UserError, match="router 'net': expected 'centers', since the run trained no network"):
        load(trained(tiny_set, tmp_path)).rank(tiny_set.base, 4, "net")
