"""`Knowledge` and its weighted mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty, weighted_mean
from tests.support.strategies import knowledge


@pytest.mark.parametrize(
    ("ids", "values", "weights", "message"),
    [
        ([1, 1], [[0.0], [0.0]], [1.0, 1.0], "unique, ascending"),
        ([2, 1], [[0.0], [0.0]], [1.0, 1.0], "unique, ascending"),
        ([-1, 1], [[0.0], [0.0]], [1.0, 1.0], "not negative"),
        ([0], [[np.nan]], [1.0], "finite"),
        ([0], [[np.inf]], [1.0], "finite"),
        ([0], [[0.0]], [0.0], r"in \(0, 1\]"),
        ([0], [[0.0]], [1.5], r"in \(0, 1\]"),
        ([0], [[0.0]], [np.nan], r"in \(0, 1\]"),
        ([0], [[0.0], [1.0]], [1.0], "1 ids, 2 rows"),
        ([0], [0.0], [1.0], r"values \[n, d\]"),
    ],
)
def test_malformed_knowledge_is_refused(ids: list, values: list, weights: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Knowledge(np.array(ids), np.array(values, np.float32), np.array(weights, np.float32))


def test_the_arrays_of_knowledge_are_read_only() -> None:
    k = Knowledge(np.array([0]), np.ones((1, 2), np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        k.values[0, 0] = 5


@given(st.lists(knowledge(), min_size=1, max_size=5))
def test_the_weighted_mean_equals_its_formula(uploads: list[Knowledge]) -> None:
    result = weighted_mean(uploads)
    assert set(result.ids) == set().union(*(set(u.ids) for u in uploads))
    for row, i in enumerate(result.ids):
        sent = [(u.weights[u.ids == i][0], u.values[u.ids == i][0]) for u in uploads if i in u.ids]
        w = np.array([s[0] for s in sent], np.float64)
        z = np.array([s[1] for s in sent], np.float64)
        np.testing.assert_allclose(result.values[row], (w[:, None] * z).sum(0) / w.sum(), rtol=1e-6)
    np.testing.assert_allclose(result.values.sum(1), 1, atol=1e-5)
    assert (result.weights == 1).all()


@given(knowledge())
def test_the_mean_of_a_single_upload_is_that_upload(k: Knowledge) -> None:
    result = weighted_mean([k, empty(3)])
    assert np.array_equal(result.ids, k.ids)
    np.testing.assert_allclose(result.values, k.values, rtol=1e-6)


def test_the_mean_of_different_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="different widths"):
        weighted_mean([empty(2), empty(3)])


def test_the_mean_of_no_uploads_is_refused() -> None:
    with pytest.raises(ValueError, match="no uploads"):
        weighted_mean([])
