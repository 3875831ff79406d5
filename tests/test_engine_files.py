"""Files that examples write for engines which no test can run: VectorChord and cuVS, against what these document."""

import csv
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from examples import cuvs_arrays, vectorchord_build
from ivfast.runtime.errors import UserError
from ivfast.store.trained import load
from tests import by_hand
from tests.conftest import unit_rows
from tests.test_storing import write_model

OPERATORS = {"IP": ("vector_ip_ops", "<#>"), "L2": ("vector_l2_ops", "<->")}


@pytest.fixture(params=["IP", "L2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_model(tmp_path, request.param)


def test_vectorchord_gets_a_table_of_centers_and_an_index_that_names_it(folder: Path, tmp_path: Path) -> None:
    """By the documented grammar: id, parent and vector, of the options only build.external.table."""
    model = load(folder)
    names = ["--table=shop.items", "--column=embedding", "--centers=public.ivf_centers"]
    vectorchord_build.main([f"--save_path={folder}", *names, f"--out={tmp_path / 'vc'}"])
    sql = (tmp_path / "vc" / "build.sql").read_text()
    create = re.search(r"^CREATE TABLE (\S+) \((.*)\);$", sql, flags=re.MULTILINE)
    assert create is not None
    assert create[1] == "public.ivf_centers"
    columns = f"id integer NOT NULL UNIQUE, parent integer, vector vector({model.dim})"
    assert create[2] == columns
    index = re.search(
        r"^CREATE INDEX ON (\S+) USING vchordrq \((\S+) (\S+)\) WITH \(options = \$\$(.*)\$\$\);$",
        sql,
        flags=re.M | re.S,
    )
    assert index is not None
    assert index.groups()[:3] == ("shop.items", "embedding", OPERATORS[model.metric][0])
    assert tomllib.loads(index[4]) == {"build": {"external": {"table": "public.ivf_centers"}}}
    assert f"ORDER BY embedding {OPERATORS[model.metric][1]} " in sql
    with (tmp_path / "vc" / "centers.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows] == [[str(i), ""] for i in range(model.nlist)]
    assert all(re.fullmatch(r"\[[^\[\]]+\]", row[2]) for row in rows)
    read = np.array([row[2][1:-1].split(",") for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(read, model.centers)


@pytest.mark.parametrize("name", ["a b", "1a", "a.b.c", "a;b", "", "ä", "a'"])
def test_vectorchord_takes_no_other_names(name: str) -> None:
    for names in ((name, "b", "c"), ("a", name, "c"), ("a", "b", name)):
        with pytest.raises(UserError, match="expected letters"):
            vectorchord_build.make_sql(*names, 8, "IP")


def test_cuvs_gets_the_shapes_that_it_documents(rng: np.random.Generator) -> None:
    centers, base = unit_rows(rng, 12, 20), unit_rows(rng, 600, 20)
    centers *= rng.uniform(0.7, 1.4, (12, 1)).astype(np.float32)  # a norm of 1 is its own square
    nearest = by_hand.distances(base, centers).argmin(axis=1)
    arrays = cuvs_arrays.make_arrays(centers, base, nearest, pq_dim=5)
    assert {array.dtype.name for array in arrays} == {"float32"}
    assert all(array.flags.c_contiguous for array in arrays)
    assert [array.shape for array in arrays] == [(5, 4, 256), (12, 24), (12, 20), (20, 20)]
    # its coarse search is one product with (query, -1/2, 0, ...), times -2
    query = unit_rows(rng, 9, 20)
    extended = np.hstack([query, np.full((9, 1), -0.5), np.zeros((9, 3))])
    np.testing.assert_allclose(
        -2 * extended @ arrays.centers.T + 1, by_hand.distances(query, centers), atol=1e-5
    )  # fmt: skip
    # what is stored of a vector is its center and, in each subspace, the nearest word of the codebook
    lacking = (base @ arrays.rotation_matrix.T - arrays.centers_rot[nearest]).reshape(600, 5, 4)
    gaps = np.square(lacking[:, :, :, None] - arrays.pq_centers[None]).sum(axis=2).min(axis=2).sum(axis=1)
    assert gaps.mean() < 0.1 * np.square(lacking).sum(axis=(1, 2)).mean()


def test_cuvs_refuses_a_pq_dim_that_needs_a_rotation(rng: np.random.Generator) -> None:
    centers, base = unit_rows(rng, 4, 20), unit_rows(rng, 30, 20)
    for pq_dim in (3, 0, -5, 40):
        with pytest.raises(UserError, match="--pq_dim"):
            cuvs_arrays.make_arrays(centers, base, np.zeros(30, np.int64), pq_dim)


def test_cuvs_arrays_are_written_under_the_names_of_the_arguments(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = write_model(tmp_path, "IP")
    model = load(folder)
    np.save(tmp_path / "base.npy", unit_rows(rng, 400, model.dim))
    cuvs_arrays.main(
        [f"--save_path={folder}", f"--base={tmp_path / 'base.npy'}", "--pq_dim=3", f"--out={tmp_path / 'c'}"]
    )
    shapes = {path.stem: np.load(path).shape for path in (tmp_path / "c").iterdir()}
    expected = {"pq_centers": (3, 2, 256), "centers": (12, 8), "centers_rot": (12, 6), "rotation_matrix": (6, 6)}
    assert shapes == expected
