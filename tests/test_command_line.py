"""The documented command line is a promise: flags, defaults, choices, examples."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from ivfast.data.synthetic import make_faces, save_set
from ivfast.runtime.command_line import make_parser, parse
from ivfast.runtime.config import AUTO, Config
from ivfast.runtime.errors import UserError
from run_dcnet import main

REQUIRED = ["--save_path", "s", "--data_path", "d", "--data_name", "n", "--percents", "0"]

DOCUMENTED = {  # the vendor's documentation
    "learn_name": None, "warmup": 3, "epochs": 20, "metric": "IP", "batch_size": 2048,
    "valid_batch_size": 10000, "start_epoch": 0, "lr": 0.0005, "use_amp": False, "apex_mode": "O2",
    "scale": 1024, "ftopk": 10, "param_list": (256, 512, 1024, 2048, 8192, 16384), "use_drop": False,
    "drop_prop": 0.05, "nlist": 16384, "niter": 128, "nprobes": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32),
    "gpu": 0, "seed": 1, "log_interval": 500, "eval": False, "ai_center": None,
}  # fmt: skip
ADDED = {
    "backend": "jax",
    "amp_dtype": "float16",
    "resume": False,
    "normalize": False,
    "drop_bad_rows": False,
    "dry_run": False,
    "checkpoint_minutes": 30.0,
    "start": None,
    "ties": False,
    "coordinator": None,
    "num_processes": None,
    "process_id": None,
    "query_log": None,
    "recall": 0.9,
}
CHOICES = {
    "metric": ("IP", "L2"), "apex_mode": ("O1", "O2"), "amp_dtype": ("float16", "bfloat16"),
    "backend": ("jax", "torch"),
}  # fmt: skip

TRAIN_EXAMPLE = """--save_path ./save_path/ --data_path /data1/AscendFaissTestData/ --data_name "webfaceLPS"
 --learn_name learn10m --warmup 3 --epochs 20 --lr 1e-4 --param_list 256 512 1024 2048 8192 16384
 --use_drop True --drop_prop 0.05 --percents 0.0 0.8 1.0 1.25 1.50 --use_amp True --gpu 3"""
EVAL_EXAMPLE = """--save_path ./save_path/ --data_path /data1/AscendFaissTestData/ --data_name "webfaceST"
 --learn_name learn10m --eval True --ai_center ./save_path/ivfast.npy --gpu 3 --percents 0.0 0.8 1.0 1.25 1.50"""


def test_flags_and_defaults_are_those_documented() -> None:
    config, given = parse(REQUIRED)
    assert given == {"save_path", "data_path", "data_name", "percents"}
    for name, default in (DOCUMENTED | ADDED).items():
        assert getattr(config, name) == default, name
    flags = {option for action in make_parser()._actions for option in action.option_strings}
    names = {*DOCUMENTED, *ADDED, "save_path", "data_path", "data_name", "percents"}
    assert flags == {f"--{name}" for name in names} | {"--help", "-h", "--version"}


def test_what_is_given_twice_is_meant_once() -> None:
    config, _ = parse([*REQUIRED, "--percents", "0.8", "0", "0.8", "--nprobes", "4", "1", "4"])
    assert config.percents == (0.8, 0.0)
    assert config.nprobes == (4, 1)


def test_epochs_are_a_number_or_left_to_the_sizes() -> None:
    required = ["--save_path", "o", "--data_path", "d", "--data_name", "n", "--percents", "0"]
    assert parse([*required, "--epochs", "7"])[0].epochs == 7
    assert parse([*required, "--epochs", "auto"])[0].epochs == AUTO
    with pytest.raises(UserError, match="expected a whole number or auto"):
        parse([*required, "--epochs", "many"])


def test_choices_are_those_documented() -> None:
    for action in make_parser()._actions:
        if action.choices is not None:
            assert tuple(action.choices) == CHOICES[action.dest], action.dest


def test_documented_examples_parse_as_written() -> None:
    config, _ = parse(shlex.split(TRAIN_EXAMPLE))
    assert config == Config(
        Path("save_path"), Path("/data1/AscendFaissTestData"), "webfaceLPS", (0.0, 0.8, 1.0, 1.25, 1.5),
        learn_name="learn10m", lr=1e-4, use_drop=True, use_amp=True, gpu=3,
    )  # fmt: skip
    config, _ = parse(shlex.split(EVAL_EXAMPLE))
    assert config.eval
    assert config.ai_center == Path("save_path/ivfast.npy")


def test_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and gpu are replaced, nothing else."""
    faces = make_faces(3, n_identities=60, images=10, dim=16, n_query=40)
    for name in ("webfaceLPS", "webfaceST"):
        save_set(tmp_path / "data", name, *faces)
    (tmp_path / "data" / "learn_webfaceST.npy").rename(tmp_path / "data" / "learn10m.npy")
    monkeypatch.chdir(tmp_path)

    def small(example: str) -> list[str]:
        for old, new in (
            ("/data1/AscendFaissTestData/", str(tmp_path / "data")),
            ("256 512 1024 2048 8192 16384", "16 32 16 --nlist 16"),
            ("--gpu 3", "--gpu -1"),
            ("--epochs 20", "--epochs 4"),
        ):
            example = example.replace(old, new)
        return shlex.split(example)

    assert main(small(TRAIN_EXAMPLE)) == 0
    assert np.load("save_path/ivfast.npy").shape == (16, 16)
    assert main(small(EVAL_EXAMPLE)) == 0
    assert Path("save_path/evaluation.json").is_file()
    assert Path("save_path/evaluation.webfaceLPS.json").is_file()  # the training's own was kept


def test_help_groups_flags_and_repeats_recommendations() -> None:
    text = " ".join(make_parser().format_help().split())
    groups = ("data:", "training:", "network and k-means:", "mixed precision:", "evaluation:", "run:")
    told = ("(default 2048)", "0.8 1.0 1.25 1.50 are recommended", "True is recommended", "must be specified")
    for part in groups + told:
        assert part in text, part


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--nprobe 3", "did you mean --nprobes?"),
        ("--use_drop yes", "expected True or False"),
        ("--metric cosine", "invalid choice"),
        ("--lr -1", "--lr"),
        ("--drop_prop 1", "--drop_prop"),
        ("--data_name ../x", "without '..'"),
        ("--learn_name /abs", "without '..'"),
        ("--eval True", "--ai_center"),
        ("--learn_name l --nlist 8", "--param_list ends in 16384"),
        ("--learn_name l --epochs 3", "--warmup 3 must be less"),
        ("--ai_center x", "--eval True"),
        ("", "--learn_name"),
        ("--learn_name l --start_epoch 21", "above --epochs"),
        ("--learn_name l --start_epoch 2 --resume True", "leave --start_epoch out"),
        ("--learn_name l --checkpoint_minutes 0", "--checkpoint_minutes"),
    ],
)
def test_wrong_flags_end_with_one_line_and_exit_2(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*REQUIRED, *words.split()]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert told in lines[0]


def test_required_flags_are_named_when_absent() -> None:
    with pytest.raises(UserError, match="--percents"):
        parse(["--save_path", "s", "--data_path", "d", "--data_name", "n"])
