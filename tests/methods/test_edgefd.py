"""Settings of the filter of EdgeFD: each reaches the estimator or the acceptance weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.filters.kmeans_dre import KMeansDRE
from edgefd.methods.edgefd import METHOD, Config, of_own_classes
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


def images(n: int, place: int, dark: float = 1.0) -> np.ndarray:
    """Return images of noise with a bright column; `dark` scales their contrast."""
    x = RNG.normal(0, 0.3, (n, 1, 6, 6))
    x[:, :, :, place] += 2
    return (x * dark).astype(np.float32)


def test_contrast_features_accept_darker_images_of_the_client() -> None:
    data = ClientData(0, images(80, 1), np.zeros(80, int), images(40, 1), np.zeros(40, int), np.empty(0, int))
    x = np.concatenate([images(30, 1, 0.3), images(30, 4, 0.3)])
    pixels, contrast = (
        client_filter(METHOD, Config(features=f, reference="none"), data, ProxySet(x, np.full(60, -1)), TERMS)  # type: ignore[arg-type]
        for f in ("pixels", "contrast")
    )
    assert (contrast[:30] > 0).mean() > 0.7
    assert (contrast[30:] > 0).mean() < 0.1
    assert (pixels[:30] > 0).mean() < 0.3


def test_the_share_threshold_accepts_the_expected_share_but_nothing_of_an_unrelated_proxy_set() -> None:
    x = np.concatenate([images(60, 1), images(60, 4)]) + RNG.normal(0, 0.5, (120, 1, 6, 6)).astype(np.float32)
    data = ClientData(0, images(80, 1), np.zeros(80, int), images(40, 1), np.zeros(40, int), np.empty(0, int))
    of = {"reference": "none", "features": "contrast"}
    noisy = client_filter(METHOD, Config(threshold="share", **of), data, ProxySet(x, np.full(120, -1)), TERMS)  # type: ignore[arg-type]
    assert (noisy > 0).sum() == 60  # one of two classes
    assert (noisy[:60] > 0).mean() > 0.9
    other = ProxySet(np.concatenate([images(40, place) for place in (3, 4, 5)]), np.full(120, -1))
    assert client_filter(METHOD, Config(threshold="share", **of), data, other, TERMS).sum() == 0  # type: ignore[arg-type]


@given(st.integers(1, 3), st.integers(0, 99))
def test_answers_of_own_classes_are_distributions_over_them(n_own: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, w = rng.dirichlet(np.full(4, 0.1), 5).astype(np.float32), (1 - rng.random(5)).astype(np.float32)
    own = np.arange(4) < n_own
    answers = of_own_classes(Knowledge(np.arange(5), p, w), own)
    np.testing.assert_allclose(answers.values.sum(1), 1, rtol=1e-5)
    assert (answers.values[:, ~own] == 0).all()
    assert (answers.weights <= w + 1e-6).all()
    np.testing.assert_allclose(answers.weights, np.maximum(w * p[:, own].sum(1), 1e-4), atol=5e-4)


def test_the_proxy_set_is_fitted_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, fit_reference = [], KMeansDRE.fit_reference

    def counted(self: KMeansDRE, reference: object) -> object:
        fitted.append(self.random_state)
        return fit_reference(self, reference)  # type: ignore[arg-type]

    monkeypatch.setattr(KMeansDRE, "fit_reference", counted)
    proxy, config = ProxySet(PROXY.x, PROXY.owner), Config(n_clusters=3)
    first = client_filter(METHOD, config, DATA, proxy, TERMS)
    assert np.array_equal(client_filter(METHOD, config, DATA, proxy, TERMS), first)
    assert len(fitted) == 1
    client_filter(METHOD, config, DATA, proxy, replace(TERMS, seed=5))
    assert len(set(fitted)) == 2  # of another federation
    assert not ({*fitted[1:]} & {fitted[0]})
    assert np.array_equal(client_filter(METHOD, config, DATA, replace(proxy, x=proxy.x), TERMS), first)
    assert len(fitted) == 3  # another proxy set does not inherit what was fitted
