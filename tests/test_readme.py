"""What README tells a newcomer to do works as written."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivfast.data.synthetic import make_faces, save_set
from ivfast.front.command_line import main as ivfast_main
from run_dcnet import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def commands(page: str) -> list[list[str]]:
    """Lines that start with run_dcnet, as words."""
    return [found.replace("\\\n", " ").split()[1:] for found in re.findall(r"    (run_dcnet (?:.*\\\n)*.*)", page)]


def snippets(page: str) -> list[str]:
    """Blocks of Python."""
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.whole_run
def test_commands_and_snippets_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sizes are replaced."""
    faces = make_faces(2, n_identities=300, images=10, dim=16, n_query=100)
    save_set(tmp_path / "DATA", "mine", *faces)
    save_set(tmp_path / "DATA", "other", *faces)
    (tmp_path / "DATA" / "learn_mine.npy").rename(tmp_path / "DATA" / "learn.npy")
    monkeypatch.chdir(tmp_path)
    (train,), (again, evaluate) = commands(README), commands(GUIDE)
    assert again == train
    small = " ".join(train).replace("--nlist 1024", "--nlist 32").replace("--epochs auto", "--epochs 3")
    assert main(small.replace("256 512 1024 1024", "16 32 32").split()) == 0
    assert main(evaluate) == 0
    searching, in_memory, plain = snippets(README)
    cutting, storing, ranking, training = snippets(GUIDE)
    names: dict[str, Any] = {}
    np.save("base.npy", faces.base)
    np.save("query.npy", faces.query)
    fit = re.findall(r"^    ivfast (fit .*)", README, flags=re.MULTILINE)
    assert [ivfast_main([*line.split(), "--epochs", "3", "--nlist", "32"]) for line in fit] == [0]
    exec(searching, names)  # noqa: S102
    near = np.argsort(-faces.query @ faces.base.T, axis=1)[:, :10]
    found = (names["ids"][:, :, None] == near[:, None, :]).any(axis=1).mean()
    assert found == pytest.approx(0.95, abs=0.04)
    exec(in_memory.replace("fit(base)", "fit(base, nlist=32, epochs=1)"), names)  # noqa: S102
    n = len(faces.base)
    assert names["ids"].tolist() == list(range(n, n + len(faces.query)))
    exec(plain, names)  # noqa: S102
    assert (names["ids"][:, :, None] == near[:, None, :]).any(axis=1).mean() > 0.4
    exec(storing, names)  # noqa: S102
    rows, buckets = names["rows"], names["buckets"]
    assert len(rows) == n + round(0.8 * n)
    assert set(rows) == set(range(n))
    assert len(np.unique(rows * 32 + buckets)) == len(rows)  # no vector twice in a bucket
    assert (names["ids"][:, :, None] == faces.gt[:, None, :]).any(axis=1).mean() > 0.4
    exec(ranking, names)  # noqa: S102
    assert names["buckets"].shape == (len(faces.query), 8)
    assert (np.diff(names["chances"], axis=1) <= 0).all()
    small_config = training.replace("(256, 1024)", "(16, 32), epochs=2").replace("nlist=1024", "nlist=32")
    exec(small_config, names)  # noqa: S102
    assert names["model"].centers.shape == (32, 16)
    vectors = np.concatenate([faces.base, faces.query])
    np.save("vectors.npy", vectors.astype(np.float16))
    exec(cutting.replace("1000,", "50,").replace("DATA/mine", "DATA/cut"), names)  # noqa: S102
    query, base, gt = (np.load(f"DATA/cut/{name}.npy") for name in ("query", "base", "gt"))
    assert len(query) == 50
    assert len(base) == len(vectors) - 50
    np.testing.assert_array_equal(gt[:, 0], (query @ base.T).argmax(axis=1))


@pytest.mark.whole_run
def test_files_of_a_run_are_those_listed(tmp_path: Path) -> None:
    faces = make_faces(2, n_identities=100, images=10, dim=16, n_query=50)
    save_set(tmp_path, "mine", *faces)
    flags = "--nlist 8 --param_list 16 8 --epochs 2 --warmup 1 --percents 0 --gpu -1 --data_name mine"
    out = tmp_path / "out"
    assert (
        main(["--save_path", str(out), "--data_path", str(tmp_path), "--learn_name", "learn_mine", *flags.split()]) == 0
    )
    named = set(re.findall(r"`([a-z_]+\.(?:npy|safetensors|csv|json|html|png|log|jsonl))`", GUIDE)) - {"learn.npy"}
    assert {path.name for path in out.iterdir() if path.is_file() and path.name != ".ivfast.lock"} == named
    assert (out / "cache").is_dir()


def test_make_targets_are_those_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (demo|check|test|parity|lint|bench)\b", README + GUIDE)):
        assert re.search(rf"^{target}: ", makefile, flags=re.MULTILINE), target
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert ci[-2:] == ["make lint", "make test"]
