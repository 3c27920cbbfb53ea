"""Settings of the filter of EdgeFD: each reaches the estimator or the acceptance weights."""

from typing import Any

import numpy as np
import pytest

from edgefd.federation.clients import ClientData, ProxySet
from edgefd.methods.edgefd import METHOD, Config
from edgefd.rounds.client import client_filter
from tests.support.votes import TERMS

RNG = np.random.default_rng(3)
X = (RNG.normal(0, 1, (160, 6)) * np.array([3, 2, 1, 1, 1, 1]) + RNG.integers(0, 2, (160, 1)) * 3).astype(np.float32)
DATA = ClientData(0, X[:60], np.zeros(60, int), X[60:90], np.zeros(30, int), np.array([0, 1, 2]))
PROXY = ProxySet(X[90:], np.full(70, -1))


def acceptance(**settings: Any) -> np.ndarray:
    return client_filter(METHOD, Config(**settings), DATA, PROXY, TERMS)


ESTIMATORS = ["kmeans", "knn", "kde", "mahalanobis", "isolation_forest", "kulsif"]
CHANGES: list[dict[str, Any]] = [
    {"reference": "none"},
    {"features": "pca", "n_components": 1},
    {"quantile": 0.5},
    {"weighting": "hard"},
    {"beta": 1.0},
]


# KuLSIF estimates a ratio, so it has no variant without a reference.
@pytest.mark.parametrize(
    ("estimator", "changed"),
    [(e, c) for e in ESTIMATORS for c in CHANGES if not (e == "kulsif" and "reference" in c)],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_the_setting_reaches_the_filter_and_changes_the_weights(estimator: str, changed: dict[str, Any]) -> None:
    common = {"estimator": estimator} | ({"n_clusters": 5} if estimator == "kmeans" else {})
    before = acceptance(**common)
    np.testing.assert_array_equal(before, acceptance(**common))
    assert np.abs(acceptance(**common, **changed) - before).max() > 1e-3


@pytest.mark.parametrize("estimator", ["kmeans", "knn", "kulsif"])
def test_n_components_reaches_the_estimator(estimator: str) -> None:
    one, three = (acceptance(estimator=estimator, features="pca", n_components=n) for n in (1, 3))
    assert np.abs(one - three).max() > 1e-3


def test_n_clusters_reaches_the_estimator() -> None:
    assert np.abs(acceptance(n_clusters=2) - acceptance(n_clusters=6)).max() > 1e-3


def test_contributed_rows_have_weight_one_unless_accept_contributed_is_off() -> None:
    assert (acceptance()[:3] == 1).all()
    assert np.abs(acceptance(accept_contributed=False)[:3] - 1).max() > 1e-3
