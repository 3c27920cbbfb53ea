"""Properties of all density estimators of the filter, and the formulas of the single ones."""

from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.filters.acceptance import Scorer
from edgefd.filters.density_ratio import DensityRatio
from edgefd.filters.kmeans_dre import KMeansDRE
from edgefd.filters.log_density import LOG_DENSITIES
from edgefd.methods import check_devices_can, get_method
from edgefd.methods.edgefd import METHOD, Config
from edgefd.rounds.client import client_filter
from tests.support.votes import TERMS

RNG = np.random.default_rng(0)
PRIVATE = RNG.normal(0, 1, (120, 6)).astype(np.float32)
HELDOUT = RNG.normal(0, 1, (60, 6)).astype(np.float32)
FAR = RNG.normal(5, 1, (90, 6)).astype(np.float32)
PROXY = np.concatenate([RNG.normal(0, 1, (30, 6)).astype(np.float32), FAR])
ESTIMATORS = get_args(get_type_hints(Config)["estimator"])


def fitted(name: str, private: np.ndarray = PRIVATE, proxy: np.ndarray = PROXY, **kwargs: str) -> Scorer:
    if name == "kmeans":
        return KMeansDRE(5, **kwargs).fit(private, reference=proxy)  # type: ignore[arg-type]
    return DensityRatio(name, **kwargs).fit(private, reference=proxy)  # type: ignore[arg-type]


def options(name: str) -> list[dict[str, str]]:
    references = ["proxy"] if name == "kulsif" else ["proxy", "none"]
    return [{"reference": r, "features": f} for r in references for f in ("pixels", "pca")]


VARIANTS = [(name, kwargs) for name in ESTIMATORS for kwargs in options(name)]


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_scores_are_finite_and_separate_private_from_distant_samples(name: str, kwargs: dict[str, str]) -> None:
    scorer = fitted(name, **kwargs)
    near, heldout, far = (scorer.score_samples(x) for x in (PROXY[:30], HELDOUT, FAR))
    for score in (near, heldout, far):
        assert np.isfinite(score).all()
    assert (heldout[:, None] > far).mean() > 0.9  # the area under the ROC curve
    assert (near > np.quantile(heldout, 0.05)).mean() > 0.7  # also for rows that are in the reference set itself


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_is_repeatable_and_the_score_of_a_row_does_not_depend_on_other_scored_rows(name: str) -> None:
    scorer = fitted(name)
    score = scorer.score_samples(PROXY)
    assert np.array_equal(score, fitted(name).score_samples(PROXY))
    np.testing.assert_allclose(scorer.score_samples(PROXY[7:9]), score[7:9], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scores_do_not_depend_on_the_shape_of_samples(name: str) -> None:
    flat = fitted(name).score_samples(HELDOUT)
    shaped = fitted(name, PRIVATE.reshape(-1, 2, 3), PROXY.reshape(-1, 2, 3))
    np.testing.assert_array_equal(shaped.score_samples(HELDOUT.reshape(-1, 2, 3)), flat)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_client_with_few_rows_has_finite_scores(name: str, rows: int) -> None:
    assert np.isfinite(fitted(name, PRIVATE[:rows], PROXY[28:32]).score_samples(PROXY)).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_private_rows_give_finite_scores(name: str) -> None:
    same = np.repeat(PRIVATE[:1], 20, 0)
    assert np.isfinite(fitted(name, same, np.concatenate([same, FAR])).score_samples(PROXY)).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_bad_samples_are_refused(name: str) -> None:
    bad = np.where(np.arange(6) == 3, np.nan, PRIVATE)
    for private, proxy in ((bad, PROXY), (PRIVATE, bad), (PRIVATE[:, :5], PROXY)):
        with pytest.raises(ValueError, match=r"NaN|reference has 6 features, X has 5"):
            fitted(name, private, proxy)
    scorer = fitted(name)
    with pytest.raises(ValueError, match="NaN"):
        scorer.score_samples(bad)
    with pytest.raises(ValueError, match="X has 5 features"):
        scorer.score_samples(PRIVATE[:, :5])
    with pytest.raises(ValueError, match="not fitted yet"):
        (KMeansDRE() if name == "kmeans" else DensityRatio(name)).score_samples(PRIVATE)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"estimator": "kd"}, "estimator must be kde, knn"),
        ({"estimator": "kde", "reference": "both"}, "reference must be"),
        ({"estimator": "kde", "features": "edges"}, "features must be"),
        ({"estimator": "kde", "n_components": 0}, "n_components must be a whole number of at least 1"),
        ({"estimator": "kulsif", "reference": "none"}, "kulsif estimates a ratio"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DensityRatio(**parameters).fit(PRIVATE, reference=PROXY)


def test_a_ratio_needs_a_reference_of_two_rows() -> None:
    with pytest.raises(ValueError, match="need the reference set"):
        DensityRatio("knn").fit(PRIVATE)
    with pytest.raises(ValueError, match="two rows or more"):
        DensityRatio("knn").fit(PRIVATE, reference=PROXY[:1])


@pytest.mark.parametrize("name", LOG_DENSITIES)
def test_a_row_of_the_reference_set_does_not_influence_its_own_score(name: str) -> None:
    """A row of the reference set has scores like a row of the same distribution outside it."""
    private, proxy = PRIVATE[:60], np.concatenate([PRIVATE[60:], HELDOUT])
    scorer = fitted(name, private, proxy)
    inside, outside = scorer.score_samples(proxy[:60]), scorer.score_samples(RNG.normal(0, 1, (60, 6)))
    assert abs(np.median(inside) - np.median(outside)) < 0.5 * outside.std()


def test_kde_and_knn_agree_with_their_formulas() -> None:
    x = PRIVATE[:40]
    d2 = ((x[:, None] - x[None]) ** 2).sum(2)
    h = np.sqrt((d2 + 1e9 * np.eye(40)).min(1).mean() / 6)
    q2 = ((HELDOUT[:, None] - x[None]) ** 2).sum(2)
    p = np.exp(-q2 / (2 * h**2)).mean(1) / (2 * np.pi * h**2) ** 3
    np.testing.assert_allclose(LOG_DENSITIES["kde"](x, x, 0)(HELDOUT), np.log(p) / 6, rtol=1e-4)
    np.testing.assert_allclose(LOG_DENSITIES["knn"](x, x, 0)(HELDOUT), -np.log(np.sort(q2)[:, 4]) / 2, atol=1e-4)


def test_mahalanobis_agrees_with_scikit_learn() -> None:
    from sklearn.covariance import LedoitWolf

    oracle = LedoitWolf().fit(PRIVATE).mahalanobis(HELDOUT)
    np.testing.assert_allclose(LOG_DENSITIES["mahalanobis"](PRIVATE, PRIVATE, 0)(HELDOUT), -oracle / 12, rtol=1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_method_accepts_rows_with_every_estimator(name: str) -> None:
    data = ClientData(0, PRIVATE, np.zeros(120, np.int64), HELDOUT, np.zeros(60, np.int64), np.empty(0, np.int64))
    proxy = ProxySet(PROXY, np.full(len(PROXY), -1))
    acceptance = client_filter(METHOD, Config(estimator=name), data, proxy, TERMS)
    assert (acceptance[:30] > 0).mean() > 0.6
    assert (acceptance[30:] > 0).mean() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "kulsif", "reference": "none"}, "needs reference=proxy"),
        ({"estimator": "knn", "n_clusters": 7}, "n_clusters is for estimator=kmeans"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_estimators_that_need_scikit_learn_are_refused_on_devices() -> None:
    from edgefd.config.load import parse_config
    from edgefd.runs.prepare import prepare
    from edgefd.runs.terms import terms_of

    for name in ESTIMATORS:
        config = parse_config({"data": {"name": "digits"}, "method": {"estimator": name}, "model": {"name": "mlp"}})
        assert terms_of(config, prepare(config).federation).method_config["estimator"] == name
        if name in ("kmeans", "knn", "kulsif"):
            check_devices_can(config.method, config.method_config)
        else:
            with pytest.raises(UserError, match="needs scikit-learn, which devices do not have"):
                check_devices_can(config.method, config.method_config)


def test_the_error_without_scikit_learn_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.core.errors.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'edgefd\[sim\]'"):
        fitted("kde")
    assert replace(Config(), estimator="kde").estimator in ESTIMATORS
    assert get_method("edgefd").packages(Config()) == ()
