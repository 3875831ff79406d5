"""What `import ivfast` offers: loaded where it is first used, documented, and the same as the command line."""

import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import ivfast
from ivfast.runtime.config import Config


def test_import_takes_under_half_a_second_and_loads_nothing_heavy() -> None:
    code = "import sys, ivfast; print(*sys.modules)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 0.5  # 0.05 s on an idle machine, the interpreter's start included
    assert {"numpy", "faiss", "jax", "torch", "rich"} & set(done.stdout.split()) == set()


FUNCTIONS = ["train_centers", "evaluate_centers", "load", "TrainedModel.rank", "TrainedModel.store"]


def test_no_public_name_is_that_of_a_room() -> None:
    """Importing a room sets it as an attribute of the package, over whatever was there."""
    rooms = {path.name for path in Path(ivfast.__file__).parent.iterdir() if path.is_dir()}
    assert rooms & set(ivfast.__all__) == set()


@pytest.mark.parametrize("name", [name for name in ivfast.__all__ if name != "__version__"])
def test_every_public_name_is_there_with_a_docstring(name: str) -> None:
    found = getattr(ivfast, name)
    assert found.__name__ == name
    assert not inspect.ismodule(found)  # a room of that name would hide it
    assert (inspect.getdoc(found) or "").strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_say_types_and_what_they_raise(name: str) -> None:
    found: Any = ivfast
    for part in name.split("."):
        found = getattr(found, part)
    signature = inspect.signature(found)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for n, p in signature.parameters.items() if n != "self")
    assert "raises: UserError" in (inspect.getdoc(found) or "") or name == "evaluate_centers"  # names the other


def test_names_that_are_not_there_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fit_predict'"):
        _ = ivfast.fit_predict


def test_a_config_takes_text_for_paths_lists_for_tuples_and_repeated_numbers() -> None:
    written: dict[str, Any] = {"save_path": "out", "data_path": "data", "percents": [0.0, 0.8, 0.0]}
    written |= {"param_list": [4, 8, 8], "nprobes": [2, 1, 2]}
    config = Config(data_name="set", **written)
    assert config == Config(
        save_path=Path("out"),
        data_path=Path("data"),
        data_name="set",
        percents=(0.0, 0.8),
        param_list=(4, 8, 8),
        nprobes=(2, 1),
    )
