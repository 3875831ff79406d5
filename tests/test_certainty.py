"""The standard error of recall, beside that of a mean and the bootstrap."""

import numpy as np
import pytest

from ivfast.route.certainty import doubt, in_words, recall_error


def test_error_is_that_of_the_mean_of_the_queries_recalls() -> None:
    rng = np.random.default_rng(1)
    found = rng.binomial(10, [0.5, 0.9, 0.99], (40, 3))
    expected = (found / 10).std(axis=0, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(recall_error(found, np.full(40, 10)), expected, rtol=1e-12)


def test_queries_of_few_answers_weigh_less_and_those_of_none_nothing() -> None:
    """Beside 20,000 resamples of the queries."""
    rng = np.random.default_rng(2)
    right = rng.integers(0, 11, 300)
    found = rng.binomial(right, rng.beta(4, 1, 300))[:, None]
    drawn = rng.integers(300, size=(20_000, 300))
    recalls = found[:, 0][drawn].sum(axis=1) / right[drawn].sum(axis=1)
    assert recall_error(found, right)[0] == pytest.approx(recalls.std(), rel=0.03)
    none = np.r_[right, np.zeros(50, int)], np.r_[found, np.zeros((50, 1), int)]
    assert recall_error(none[1], none[0])[0] == pytest.approx(recall_error(found, right)[0], rel=0.002)


@pytest.mark.parametrize("right", [[10], [10, 0, 0]])
def test_of_one_query_it_is_unknown(right: list[int]) -> None:
    found = np.minimum(np.array(right)[:, None], [[3, 10]])
    error = recall_error(found, np.array(right))
    assert error.shape == (2,)
    assert np.isnan(error).all()
    assert in_words(error[0]) == "unknown"
    assert doubt(10, float(error[0]), 1) == (
        "recall@10 is that of 1 query: how sure it is cannot be told; use more queries"
    )


def test_only_a_recall_that_is_not_sure_is_told() -> None:
    assert doubt(10, 0.01, 500) is None
    assert doubt(10, 0.0, 10) is None
    assert "how sure it is cannot be told" in (doubt(10, 0.0, 3) or "")
    said = doubt(7, 0.02, 50)
    assert said is not None
    assert said.startswith("recall@7 is that of 50 queries: its standard error is up to 0.020")
    assert "about 200 queries" in said
