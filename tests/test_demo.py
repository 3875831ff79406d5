"""The embedded data are what they claim to be, and the demo tells its story."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from ivfast import demo
from ivfast.data.intake import judge_gt
from ivfast.data.synthetic import make_faces, save_set, say_by_identity
from ivfast.data.vectors import open_evaluation_set
from ivfast.evaluate.page.words import of_data
from ivfast.evaluate.page.write import write_data_page
from ivfast.runtime.progress import silent
from tests.conftest import Notes


def test_faces_have_identities_and_none_is_shared() -> None:
    faces = make_faces(4, n_identities=400, n_query=100)
    assert faces.learn.shape == (4000, 256)
    assert faces.base.shape == (3900, 256)
    for rows in (faces.learn, faces.base, faces.query):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    same = np.einsum("qd,qid->qi", faces.query, faces.base[faces.gt])
    assert same.mean() == pytest.approx(0.65, abs=0.03)
    others = faces.query @ faces.base.T
    others[np.arange(100)[:, None], faces.gt] = np.nan
    assert np.nanmean(others) == pytest.approx(0, abs=0.02)
    assert np.nanstd(others) == pytest.approx(0.1, abs=0.03)
    assert (faces.query @ faces.learn.T).max() < same.mean()
    # each answer's own image is not in base, and gt is all of its identity that is
    assert faces.gt.shape == (100, 9)
    assert len(np.unique(faces.gt)) == 900


@pytest.mark.parametrize("nuisance", [0.55, 3.0])  # the nearest is mostly among the answers, or is not
def test_faces_of_the_demo_say_that_their_answers_go_by_identity(nuisance: float, tmp_path: Path) -> None:
    """No other set is believed: not one of which nothing is said, nor one whose gt was changed since."""
    faces = make_faces(4, n_identities=60, n_query=40, nuisance=nuisance)
    save_set(tmp_path, "faces", *faces)
    gt = tmp_path / "faces" / "gt.npy"

    def judged() -> str:
        notes = Notes()
        judge_gt(open_evaluation_set(tmp_path, "faces", None), "IP", notes)
        return notes.told[-1]

    def on_the_page() -> str:
        write_data_page(tmp_path, open_evaluation_set(tmp_path, "faces", None), silent())
        data = json.loads((tmp_path / "data.json").read_text())
        return next(kind for kind, text in of_data(data) if "another row is nearer than the first answer" in text)

    assert judged().startswith("warning: gt: its first answer is the exact nearest for")
    assert on_the_page() == "warn"
    say_by_identity(gt)
    assert judged().endswith("queries searched for; answers go by identity here, as they were made")
    assert not judged().startswith("warning")
    assert on_the_page() == "fine"
    np.save(gt, faces.gt[::-1])
    assert judged().startswith("warning")
    assert on_the_page() == "warn"


def test_patches_are_real_and_their_answers_exact() -> None:
    learn, base, query, gt = demo.make_patches()
    assert learn.shape == base.shape == (30_000, 64)
    assert 0 <= base.min() < base.max() <= 255
    index = faiss.IndexFlatL2(64)
    index.add(base)
    np.testing.assert_array_equal(index.search(query[:50], 10)[1], gt[:50])


def test_story_names_both_sets_and_marks_the_synthetic_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, shares in ((demo.NAME, (0.4, 0.03, 0.02)), (demo.PATCHES, (0.025, 0.017, None))):
        (tmp_path / name).mkdir()
        rules = (("kmeans", "ratio"), ("centers", "benefit"), ("net", "benefit"))
        results = [
            {"router": router, "rule": rule, "probing": "fixed", "scanned_at": {"0.90": found}}
            for (router, rule), found in zip(rules, shares, strict=True)
        ]
        (tmp_path / name / "evaluation.json").write_text(json.dumps({"results": results}))
    from rich.console import Console

    Console(width=80, soft_wrap=True).print(demo.summary(tmp_path, 99))
    told = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in told
    assert max(map(len, told.splitlines())) <= 80
    assert told.count("\n") == 8  # no cell goes on in a second line
    for part in ("synthetic", "real", "40.0 %", "3.0 %", "2.5 %", "not trained"):
        assert part in told
