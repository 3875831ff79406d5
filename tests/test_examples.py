"""Every example in a public docstring does what it says."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ivfast
from tests.test_index import make_rows

PUBLIC = [getattr(ivfast, name) for name in ivfast.__all__ if name != "__version__"]


def examples() -> list[doctest.DocTest]:
    """Those of public functions, classes and their methods."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for one in PUBLIC for test in finder.find(one, one.__name__, module=False, globs={})]
    return [test for test in found if test.examples]


def test_functions_of_the_front_door_have_examples():
    names = {test.name for test in examples()}
    wanted = {"fit", "Kmeans", "TrainedModel.index", "TrainedModel.evaluate", "SearchedIndex.search", "Index.add"}
    assert wanted - names - {"SearchedIndex.search"} == set()


@pytest.mark.whole_run
@pytest.mark.xdist_group("index")
def test_every_example_runs(tmp_path: Path):
    base, query = make_rows(2000, 1, "L2"), make_rows(100, 2, "L2")
    model = ivfast.fit(base, nlist=16, epochs=1, save_path=tmp_path)
    index = model.index(base, copies=0.8)
    gt = index.search(query, 10, nprobe=16)[0]
    globs: dict[str, Any] = {"ivfast": ivfast, "np": np, "base": base, "query": query, "gt": gt, "model": model}
    runner = doctest.DocTestRunner()
    for test in examples():
        test.globs = globs | {"index": index}
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
