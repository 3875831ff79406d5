"""--dry_run: what a run will take grows with its sizes, names the run's own stages, and leaves nothing but a log."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ivfast.commands import train_centers
from ivfast.network.backend import weight_shapes
from ivfast.runtime.command_line import parse
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import silent
from ivfast.train.admit import open_training
from ivfast.train.disk import bytes_by_stage, bytes_needed
from ivfast.train.plan import Cost, Rates, Sizes, in_all, plan, seconds_of_stages
from ivfast.train.rates import measure_rates
from run_dcnet import main
from tests.runs import flags, make_data

RATES = Rates(product=1e11, step_seconds=0.1, first_seconds=1.0, read=1e9)
DEFAULT_WIDTHS = (256, 512, 1024, 2048, 8192, 16384)


def sizes(n: int = 100_000, param_list: tuple[int, ...] = (256, 4096), epochs: int = 20) -> Sizes:
    return Sizes(n, n, 2000, param_list, epochs, 2048)


def costs(case: Sizes) -> list[Cost]:
    return plan(case, RATES, {"report": 1000})


@pytest.mark.parametrize("steps", [(20_000, 50_000, 100_000, 200_000), (200_001, 10**6, 10**7)])
def test_no_stage_gets_cheaper_with_more_vectors(steps: tuple[int, ...]) -> None:
    """Exact and approximate search each: from one to the other it does get cheaper."""
    for fewer, more in pairwise(steps):
        for left, right in zip(costs(sizes(fewer)), costs(sizes(more)), strict=True):
            assert left.seconds <= right.seconds, left.stage
            assert left.gigabytes <= right.gigabytes, left.stage
        assert in_all(costs(sizes(fewer))).seconds < in_all(costs(sizes(more))).seconds


@pytest.mark.parametrize("steps", [(64, 256, 1024, 2047), (2048, 4096, 16384)])
def test_no_stage_gets_cheaper_with_more_buckets(steps: tuple[int, ...]) -> None:
    """From few to many it does get cheaper, since then not all of them are looked at."""
    for fewer, more in pairwise(steps):
        for left, right in zip(
            costs(sizes(param_list=(256, fewer))), costs(sizes(param_list=(256, more))), strict=True
        ):
            assert left.seconds <= right.seconds, left.stage
            assert left.gigabytes <= right.gigabytes, left.stage


def test_kmeans_and_training_take_what_their_operations_say() -> None:
    found = seconds_of_stages(sizes(100_000, (256, 4096), epochs=3), RATES)
    assert found["k-means"] == pytest.approx(21 * 2 * 100_000 * 256 * 4096 / 1e11)
    assert found["training"] == pytest.approx(3 * -(-95_000 // 2048) * 0.1 + 1.0)


def test_a_deep_path_costs_judging_and_an_evaluation_of_its_own() -> None:
    flat, deep = (seconds_of_stages(sizes(param_list=widths), RATES) for widths in ((256, 16384), DEFAULT_WIDTHS))
    of_net = {"vectors of base as queries, net", "assigning base, net", "searching, net"}
    assert deep.keys() - flat.keys() == of_net
    assert deep["judging"] > 2 * flat["judging"]


def test_a_log_costs_its_answers_and_a_judgement_of_it(tmp_path: Path) -> None:
    plain = sizes(60_000, (256, 256))
    logged = plain._replace(n_logged=2000)
    without, beside = (seconds_of_stages(one, RATES) for one in (plain, logged))
    assert beside.keys() - without.keys() == {"answers of logged queries", "is the log worth it"}
    assert without.keys() - beside.keys() == {f"vectors of base as queries, {one}" for one in ("kmeans", "centers")}
    # 60,000 ask for their nearest among 60,000, half of them drawn beside three more, in learn and in base
    asked = 2 * (60_000 + 0.5 * 58_000) * 60_000
    assert beside["answers of logged queries"] == pytest.approx(0.7 * 2 * asked * 256 / 1e11)
    gigabytes = {cost.stage: cost.gigabytes for cost in costs(sizes(10**6, (512, 4096))._replace(n_logged=2000))}
    # 14 KB a query were held in a run of 5,000 of 512 entries
    assert gigabytes["answers of logged queries"] > gigabytes["measuring buckets"] + 1.3
    config = replace(parse(flags(tmp_path, tmp_path))[0], ftopk=30)
    plain, logged = (bytes_by_stage(replace(config, query_log=log), 4000, 3000) for log in (None, "log"))
    assert logged.keys() - plain.keys() == {"answers of logged queries"}
    # 4,000 drawn and at most 20,000 logged queries of 24 entries with 30 nearest each; the logged ones in the model too
    assert logged["answers of logged queries"] == 4 * (24_000 * (24 + 30) + 20_000 * 24)
    assert set(logged) <= set(beside)


def test_more_ways_to_store_cost_more() -> None:
    usual, more = (seconds_of_stages(sizes()._replace(more_waits=one), RATES)["fitting facts"] for one in (False, True))
    assert 1.2 * usual < more < 1.4 * usual


def test_memory_of_training_holds_weights_and_moments() -> None:
    weights = sum(math.prod(shape) for shape in weight_shapes(DEFAULT_WIDTHS).values() if len(shape) == 2)
    by_stage = {cost.stage: cost for cost in costs(sizes(param_list=DEFAULT_WIDTHS))}
    assert by_stage["training"].gigabytes > 16 * weights / 1e9


def test_the_total_adds_seconds_and_disk_and_takes_the_most_memory() -> None:
    assert in_all([Cost("a", 1.0, 3.0, 5), Cost("b", 2.0, 1.0, 6)])[1:] == (3.0, 3.0, 11)


def test_bytes_on_disk_are_those_that_are_asked_for_before_a_run(tmp_path: Path) -> None:
    config = parse(flags(tmp_path, tmp_path))[0]
    by_stage = bytes_by_stage(config, 4000, 3000)
    assert sum(by_stage.values()) == bytes_needed(config, 4000, 3000)
    assert set(by_stage) <= {cost.stage for cost in costs(sizes())}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_dry_run_shows_a_table_and_leaves_its_log_alone(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = make_data(tmp_path / "data", n_identities=60, n_query=40), tmp_path / "out"
    assert main(flags(data, out, "--backend", backend, "--dry_run", "True")) == 0
    assert [path.name for path in out.iterdir()] == ["train.log"]
    assert "dry run: about" in (out / "train.log").read_text()
    shown = capsys.readouterr().err
    for stage in ("neighbours of learn", "assigning base, net", "in all"):
        assert stage in shown
    assert "warning: learn has 18.8 vectors a bucket, 39 or more are recommended" in shown


def test_a_plan_names_the_stages_of_the_run_and_is_not_absurd(tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", n_identities=60, n_query=40), tmp_path / "out"
    command = flags(data, out, "--param_list", "24", "32")
    config = parse(command)[0]
    learn = open_training(config).learn
    found = plan(Sizes(600, 560, 40, (24, 32), 4, 50), measure_rates(config, learn), {})
    assert 1 < in_all(found).seconds < 60
    assert 0.1 < in_all(found).gigabytes < 2
    assert main(command) == 0
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    ran = {line["stage"] for line in lines if "stage" in line}
    assert ran - {cost.stage for cost in found} == {"settings of routers"}  # as short as reading a file
    assert {cost.stage for cost in found} - ran == {"imports and all else"}


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_data(tmp_path / "data", n_identities=60, n_query=40), tmp_path / "out"
    assert main(flags(data, out, "--dry_run", "True", "--learn_name", "absent")) == 2
    assert main(flags(data, out, "--dry_run", "True", "--eval", "True", "--ai_center", "x.npy")) == 2
    assert "leave it out with --eval True" in capsys.readouterr().err
    with pytest.raises(UserError, match="trains nothing"):
        train_centers(replace(parse(flags(data, out))[0], dry_run=True), silent())
