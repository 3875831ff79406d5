"""The embedded data are what they claim to be, and the demo tells its story."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from ivfast import demo
from ivfast.data.synthetic import make_faces


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

    Console(width=120).print(demo.summary(tmp_path, 99))
    told = capsys.readouterr().out
    for part in ("synthetic", "real", "40.0 %", "3.0 %", "2.5 %", "not trained"):
        assert part in told
