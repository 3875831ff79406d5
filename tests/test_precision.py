"""Flags of mixed precision, the loss scale as a value that survives jit and disk, and rankings in half types."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import ivfast_jax.model
import ivfast_jax.precision
from benchmarks.logit_error import FLOOR, K, half_logits
from ivfast.data.synthetic import make_faces
from ivfast.network.backend import Chunk, Goal, Setup, load_backend, starting_weights
from ivfast.network.precision import MOST_SKIPS, advice, growth_interval, precision_name
from ivfast.route.distances import center_logits
from ivfast.runtime.checkpoint import save_state
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import check
from run_dcnet import main
from tests.conftest import unit_rows
from tests.runs import flags as run_flags
from tests.runs import make_data

REQUIRED = ["--save_path", "s", "--data_path", "d", "--data_name", "n", "--percents", "0", "--learn_name", "l"]
GOAL = Goal(10.0, 3.0, 9.0, 0.3)

each_backend = pytest.mark.parametrize("backend", ["jax", "torch"])


@pytest.mark.parametrize(
    "scale", ["0", "-2", "3", "1000", "1023", str(2**24 + 1), str(2**25), "0.5", "1024.5", "nan", "1e3", "many"]
)
def test_scale_that_is_no_power_of_two_within_bounds_is_refused(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for amp in ("False", "True"):
        assert main([*REQUIRED, "--use_amp", amp, "--scale", scale]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert "--scale" in lines[0]
        assert scale in lines[0]


@pytest.mark.parametrize("exponent", [0, 1, 10, 23, 24])
def test_powers_of_two_within_bounds_are_taken(exponent: int) -> None:
    check(parse([*REQUIRED, "--scale", str(2**exponent)])[0])


def test_precision_is_named_after_its_flags() -> None:
    names = {
        "": "float32", "--apex_mode O1 --amp_dtype bfloat16": "float32", "--use_amp True": "O2-float16",
        "--use_amp True --apex_mode O1 --amp_dtype bfloat16": "O1-bfloat16",
    }  # fmt: skip
    for flags, name in names.items():
        assert precision_name(parse([*REQUIRED, *flags.split()])[0]) == name


def test_float16_on_a_cpu_is_told_what_would_be_faster() -> None:
    def told(flags: str) -> str:
        return advice(parse([*REQUIRED, *flags.split()])[0])

    assert "--amp_dtype bfloat16" in told("--use_amp True --gpu -1")
    assert "--use_amp False" in told("--use_amp True --gpu -1")
    assert "--amp_dtype bfloat16" in told("--use_amp True --gpu 0")
    assert "--amp_dtype" not in told("--use_amp True --amp_dtype bfloat16 --gpu -1")
    assert told("") == "precision: float32"


NLIST, DIM, BATCH = 16, 8, 32


def make_setup(rng: np.random.Generator, loss_scale: float, interval: int = 2000, nlist: int = NLIST) -> Setup:
    start, radius = unit_rows(rng, nlist, DIM), np.full(nlist, 0.1, np.float32)
    rates, mean = np.full(100, 1e-2), np.zeros(DIM, np.float32)
    setup = Setup((DIM, 12, nlist), "IP", start, radius, mean, np.float32(1), 1e-6, rates, 0.1, loss_scale)
    return setup._replace(growth_interval=interval)


def make_chunk(rng: np.random.Generator, spoiled: tuple[bool, ...]) -> Chunk:
    """One step per entry; where True, one row is NaN."""
    x, x_pair = (unit_rows(rng, len(spoiled) * BATCH, DIM).reshape(-1, BATCH, DIM) for _ in range(2))
    x[list(spoiled), 5] = np.nan
    return Chunk(x, x_pair, np.ones(x.shape[:2], dtype=bool))


def begin(backend: str, rng: np.random.Generator, precision: str, loss_scale: float) -> tuple[Any, Any]:
    """A backend and its first state."""
    found = load_backend(backend, make_setup(rng, loss_scale), -1, precision)
    return found, found.init_state(starting_weights((DIM, 12, NLIST), 1), np.full(NLIST, 1 / NLIST))


@each_backend
def test_scale_survives_disk_and_keeps_its_bounds(backend: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """A scale of 2 skips twice, is written, read, and skips on: it stays 1."""
    found, state = begin(backend, rng, "O2-float16", 2.0)
    state, _ = found.train_chunk(state, make_chunk(rng, (False, True, True, False)), GOAL)
    before = found.state_dict(state)
    assert (before["scale/value"], before["scale/n_skipped"], before["step"]) == (1, 2, 2)
    save_state(tmp_path / "state.safetensors", before, {"epoch": 1})
    loaded = load_file(tmp_path / "state.safetensors")
    assert {name: (v.dtype, v.shape) for name, v in loaded.items()} == {
        name: (v.dtype, v.shape) for name, v in before.items()
    }
    other = load_backend(backend, found.setup, -1, "O2-float16")  # a new process would have one
    resumed = other.from_state_dict(loaded)
    later = make_chunk(rng, (True, False, True, False))
    ends = [each.state_dict(each.train_chunk(s, later, GOAL)[0]) for each, s in ((found, state), (other, resumed))]
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, err_msg=name)
    assert ends[1]["scale/value"] == 1
    assert ends[1]["scale/n_skipped"] == 4


def test_scale_is_the_same_after_flattening_and_through_jit() -> None:
    """What a published JAX loss scale is not: its minimum is no leaf, and is lost."""
    policy = ivfast_jax.precision.make_policy("O2-float16")
    scale = ivfast_jax.precision.LossScale(jnp.float32(1), jnp.int32(1999), jnp.int32(7), jnp.int32(3))
    leaves, shape = jax.tree.flatten(scale)
    assert len(leaves) == 4
    for same in (jax.tree.unflatten(shape, leaves), jax.jit(lambda s: s)(scale), jax.tree.map(lambda v: v, scale)):
        assert same == scale
        assert [v.dtype for v in same] == [v.dtype for v in scale]
        for finite, expected in ((False, (1, 0, 8, 4)), (True, (2, 0, 7, 0))):
            after = jax.jit(lambda s, f: ivfast_jax.precision.next_scale(s, f, policy))(same, jnp.bool(finite))
            assert tuple(after) == expected
            assert [v.dtype for v in after] == [v.dtype for v in scale]


@each_backend
@pytest.mark.parametrize("precision", ["float32", "O2-float16"])
def test_skip_touches_nothing_but_the_scale_and_counts(precision: str, backend: str, rng: np.random.Generator) -> None:
    found, state = begin(backend, rng, precision, 64.0)
    state, metrics = found.train_chunk(state, make_chunk(rng, (False, False, False)), GOAL)
    before = found.state_dict(state)
    assert (int(metrics.n_skipped), int(metrics.n_in_a_row), int(metrics.n_pairs)) == (0, 0, 3 * BATCH)
    state, metrics = found.train_chunk(state, make_chunk(rng, (True, True, True)), GOAL)
    after = found.state_dict(state)
    assert (int(metrics.n_skipped), int(metrics.n_in_a_row), int(metrics.n_pairs)) == (3, 3, 0)
    assert float(metrics.loss_centers) == float(metrics.loss_net) == 0
    counts = {"scale/good_steps": 0, "scale/n_skipped": 3, "scale/n_in_a_row": 3}
    counts["scale/value"] = 1 if precision == "float32" else 8  # 64, three times half; float32 has no scale
    assert found.loss_scale(state) == counts["scale/value"]
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], counts.get(name, value), err_msg=name)
    _, metrics = found.train_chunk(state, make_chunk(rng, (True, False, True)), GOAL)
    assert (int(metrics.n_skipped), int(metrics.n_in_a_row), int(metrics.n_pairs)) == (2, 4, BATCH)


@each_backend
def test_state_with_absent_or_unknown_names_is_refused(backend: str, rng: np.random.Generator) -> None:
    found, state = begin(backend, rng, "O2-float16", 2.0)
    arrays = found.state_dict(state)
    for absent in ("scale/value", "scale/n_in_a_row", "step", "params/u", "second/layers_1.bias", "use/net"):
        with pytest.raises(KeyError):
            found.from_state_dict({name: value for name, value in arrays.items() if name != absent})
    for unknown in ("scale/least", "other/u", "params/v", "first/norms_1.scale", "use/kmeans"):
        with pytest.raises(KeyError):
            found.from_state_dict(arrays | {unknown: np.zeros((), np.float32)})


def test_a_run_gives_up_at_50() -> None:
    assert MOST_SKIPS == 50


@pytest.mark.parametrize(
    ("n_steps", "interval"),
    [(0, 50), (300, 50), (1000, 50), (2000, 100), (39_999, 1999), (40_000, 2000), (10**9, 2000)],
)
def test_scale_of_a_short_run_doubles_after_a_twentieth_of_it(n_steps: int, interval: int) -> None:
    assert growth_interval(n_steps) == interval


@each_backend
def test_scale_that_fell_in_a_short_run_grows_back(backend: str, rng: np.random.Generator) -> None:
    """Two steps are skipped; 10 good ones in a row double the scale, wherever chunks and resumed runs begin."""
    found = load_backend(backend, make_setup(rng, 64.0, interval=10), -1, "O2-float16")
    state = found.init_state(starting_weights((DIM, 12, NLIST), 1), np.full(NLIST, 1 / NLIST))
    seen = []
    for _ in range(4):
        state, _ = found.train_chunk(state, make_chunk(rng, (not seen, not seen, False, False, False, False)), GOAL)
        state = found.from_state_dict(found.state_dict(state))
        seen.append((found.loss_scale(state), int(found.state_dict(state)["scale/good_steps"])))
    assert seen == [(16, 4), (32, 0), (32, 6), (64, 2)]


@each_backend
def test_scale_of_a_checkpoint_that_waited_for_2000_steps_grows_too(backend: str, rng: np.random.Generator) -> None:
    found = load_backend(backend, make_setup(rng, 64.0, interval=10), -1, "O2-float16")
    state = found.init_state(starting_weights((DIM, 12, NLIST), 1), np.full(NLIST, 1 / NLIST))
    state = found.from_state_dict(found.state_dict(state) | {"scale/good_steps": np.array(700, np.int32)})
    state, _ = found.train_chunk(state, make_chunk(rng, (False,)), GOAL)
    assert (found.loss_scale(state), int(found.state_dict(state)["scale/good_steps"])) == (128, 0)


@each_backend
@pytest.mark.parametrize(("batch", "nlist"), [(66_000, 4), (8, 66_000)])
def test_sums_over_more_than_float16_can_count_are_float32_s(
    batch: int, nlist: int, backend: str, rng: np.random.Generator
) -> None:
    """float16 ends at 65,504: a batch, or the buckets of a row, are more."""
    setup = make_setup(rng, 1024.0, nlist=nlist)
    x, x_pair = (unit_rows(rng, batch, DIM)[None] for _ in range(2))
    chunk, use = Chunk(x, x_pair, np.ones((1, batch), dtype=bool)), np.full(nlist, 1 / nlist)
    weights = starting_weights((DIM, 12, nlist), 1)
    ends = {}
    for precision in ("float32", "O2-float16"):
        found = load_backend(backend, setup, -1, precision)
        state, metrics = found.train_chunk(found.init_state(weights, use), chunk, GOAL)
        assert (int(metrics.n_skipped), int(metrics.n_pairs)) == (0, batch)
        losses = np.array([float(metrics.loss_centers), float(metrics.loss_net)]) / batch
        ends[precision] = np.concatenate([losses, *found.use(state).values()])
    np.testing.assert_allclose(ends["O2-float16"], ends["float32"], rtol=0.02, atol=1e-5)


class Ranking(NamedTuple):
    """Vectors, k-means' centers, and their logits in float64."""

    metric: str
    x: np.ndarray  # (n, 256) float32
    centers: np.ndarray  # (1024, 256) float32
    z: np.ndarray  # (n, 1024) float64


@pytest.fixture(scope="module", params=["IP", "L2"])
def ranking(request: pytest.FixtureRequest) -> Ranking:
    """Faces; under L2 centered and divided by their root mean square, as training does."""
    faces = make_faces(1, n_identities=4000, n_query=1)  # 39 vectors a bucket, as FAISS asks for
    learn, x = faces.learn, faces.base[:6000]
    if request.param == "L2":
        mean = learn.mean(axis=0)
        unit = np.sqrt(np.square(learn - mean).mean())
        learn, x = (learn - mean) / unit, (x - mean) / unit
    kmeans = faiss.Kmeans(256, 1024, niter=5, seed=1, spherical=request.param == "IP", max_points_per_centroid=64)
    kmeans.train(learn)
    centers = np.asarray(kmeans.centroids)
    return Ranking(request.param, x, centers, K * center_logits(x.astype(np.float64), centers, request.param, FLOOR))


@pytest.mark.xdist_group("ranking")  # a clustering that they share
@each_backend
@pytest.mark.parametrize(
    ("dtype", "moved", "error"),
    [
        ("float16", 0.001, 0.006),  # largest seen: 0.0002; 0.003
        ("bfloat16", 0.005, 0.05),  # 0.0042; 0.024
    ],
)
def test_half_products_keep_the_ranking_of_buckets_at_k_40(
    dtype: str, moved: float, error: float, backend: str, ranking: Ranking
) -> None:
    """moved: share of vectors with another best bucket; error: of the 4 best logits, 99th percentile."""
    for mode in (f"O1-{dtype}", f"O2-{dtype}"):
        z = half_logits(backend, ranking.x, ranking.centers, ranking.metric, mode)
        assert z.dtype == np.float32
        off = np.abs(z - ranking.z)
        near = np.take_along_axis(off, np.argsort(-ranking.z, axis=1)[:, :4], axis=1)
        assert np.percentile(near, 50) <= error / 3
        assert np.percentile(near, 99) <= error
        assert off.max() <= 4 * error  # of 6 million logits
        assert (z.argmax(axis=1) != ranking.z.argmax(axis=1)).mean() <= moved


@pytest.mark.whole_run
def test_short_run_from_the_largest_scale_finds_what_a_float32_run_finds(tmp_path: Path) -> None:
    """300 steps of O2-float16 from 2^24, of which nine or ten are skipped at first."""
    data = make_data(tmp_path / "data", n_identities=260, n_query=200)

    def scanned(name: str, *more: str) -> dict[tuple[str, ...], float]:
        words = run_flags(data, tmp_path / name, "--batch_size", "85", "--epochs", "12", "--backend", "torch", *more)
        assert main(words) == 0
        results = json.loads((tmp_path / name / "evaluation.json").read_text())["results"]
        return {(r["router"], r["rule"], str(r["percent"]), r["probing"]): r["scanned_at"]["0.90"] for r in results}

    plain, other_seed = scanned("plain"), scanned("seed", "--seed", "2")
    half = scanned("half", "--use_amp", "True", "--scale", str(2**24))
    lines = [json.loads(line) for line in (tmp_path / "half" / "metrics.jsonl").read_text().splitlines()]
    scales = [line["loss_scale"] for line in lines if "loss_scale" in line]
    assert len(scales) == 12
    assert min(scales) >= 2**10  # it fell to where gradients are finite, and stays near there
    differ = {way: abs(plain[way] - other_seed[way]) for way in plain}
    assert max(abs(half[way] - plain[way]) for way in plain) <= max(differ.values())
