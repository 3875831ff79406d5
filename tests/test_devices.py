"""What --gpu may say, and what is made of it."""

import pytest

from ivfast.front.command_line import parse as parse_front
from ivfast.runtime.command_line import parse
from ivfast.runtime.config import check
from ivfast.runtime.devices import check_gpu, numbers_of, on_cpu
from ivfast.runtime.errors import UserError

REQUIRED = ["--save_path", "o", "--data_path", "d", "--data_name", "n", "--percents", "0", "--learn_name", "l"]


@pytest.mark.parametrize(
    ("words", "gpu"),
    [(["0"], 0), (["-1"], -1), (["3"], 3), (["0", "1", "3"], (0, 1, 3)), (["all"], "all")],
)
def test_numbers_and_all_are_read(words: list[str], gpu: object) -> None:
    assert parse([*REQUIRED, "--gpu", *words])[0].gpu == gpu
    assert parse_front(["fit", "--gpu", ",".join(words), "x.npy"]).gpu == gpu


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["0", "all"], "expected either all or numbers"),
        (["0", "-1"], "-1 is the CPU, which stands alone"),
        (["1", "2", "1"], "a number stands twice"),
        (["some"], "--gpu"),
        (["-2"], "expected -1 or more"),
    ],
)
def test_what_names_no_devices_is_refused(words: list[str], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        check(parse([*REQUIRED, "--gpu", *words])[0])


@pytest.mark.parametrize("gpu", [(), (0, 0), (0, -1), "cuda", -7])
def test_python_is_checked_alike(gpu: object) -> None:
    with pytest.raises(UserError, match="--gpu"):
        check_gpu(gpu)  # pyright: ignore[reportArgumentType]


def test_numbers_are_those_that_are_there() -> None:
    assert numbers_of("all", 3, "JAX") == (0, 1, 2)
    assert numbers_of((2, 0), 3, "JAX") == (2, 0)
    with pytest.raises(UserError, match="--gpu 3: JAX sees 3 GPUs; choose one of them, or --gpu -1"):
        numbers_of((0, 3), 3, "JAX")
    with pytest.raises(UserError, match="--gpu all: torch sees no GPUs; take --gpu -1, the CPU"):
        numbers_of("all", 0, "torch")
    assert [on_cpu(gpu) for gpu in (-1, 0, (0, 1), "all")] == [True, False, False, False]
