"""KMeans against scikit-learn, and its properties on any data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from edgefd.filters.kmeans import kmeans, lloyd, nearest

DIGITS = load_digits().data.astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_lloyd_reaches_scikit_learns_inertia_from_the_same_start(k: int) -> None:
    start = DIGITS[:k]
    centroids, inertia, _ = lloyd(DIGITS, start.copy(), max_iter=300)
    oracle = KMeans(k, init=start, n_init=1, max_iter=300).fit(DIGITS)
    assert inertia == pytest.approx(oracle.inertia_, rel=1e-5)
    np.testing.assert_allclose(centroids, oracle.cluster_centers_, atol=1e-2)


@pytest.mark.parametrize("k", [5, 10, 30])
def test_inertia_after_k_means_plus_plus_is_within_one_percent_of_scikit_learns_on_average(k: int) -> None:
    ours = np.mean([kmeans(DIGITS, k, np.random.default_rng(s))[1] for s in range(10)])
    oracle = np.mean([KMeans(k, n_init=1, random_state=s).fit(DIGITS).inertia_ for s in range(10)])
    assert ours == pytest.approx(oracle, rel=0.01)


def test_distances_far_from_the_origin_keep_their_digits() -> None:
    x = np.random.default_rng(0).normal(size=(300, 5))
    _, near = kmeans(x, 4, np.random.default_rng(1))
    _, far = kmeans(x + 1000, 4, np.random.default_rng(1))
    assert far == pytest.approx(near, rel=1e-2)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 5), st.integers(0, 3))
def test_labels_distances_and_inertia_are_those_of_the_nearest_centroids(n: int, k: int, d: int, distinct: int) -> None:
    x = np.random.default_rng(n * k).normal(size=(n, d)).astype(np.float32)
    if distinct:  # many duplicates
        x = x[np.arange(n) % min(distinct, n)]
    centroids, inertia = kmeans(x, k, np.random.default_rng(0))
    assert np.isfinite(centroids).all()
    labels, distances = nearest(x, centroids)
    brute = ((x[:, None] - centroids[None]) ** 2).sum(2)
    np.testing.assert_allclose(brute[np.arange(n), labels], brute.min(1), atol=1e-4)
    np.testing.assert_allclose(distances, brute.min(1), atol=1e-4)
    assert inertia == pytest.approx(float(brute.min(1).sum()), abs=1e-3)


def test_the_same_seed_gives_the_same_centroids() -> None:
    a, _ = kmeans(DIGITS, 10, np.random.default_rng(3))
    b, _ = kmeans(DIGITS, 10, np.random.default_rng(3))
    assert np.array_equal(a, b)


def test_an_empty_array_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        kmeans(np.empty((0, 3)), 2, np.random.default_rng(0))
