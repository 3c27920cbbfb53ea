"""`KMeansDRE` against its formula, scikit-learn's contract for estimators, and `PCA`."""

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.utils import estimator_checks

from edgefd.filters.kmeans_dre import KMeansDRE
from edgefd.filters.pca import PCA

RNG = np.random.default_rng(0)
PRIVATE = RNG.normal(0, 1, (300, 4)).astype(np.float32)
HELDOUT = RNG.normal(0, 1, (100, 4)).astype(np.float32)
FAR = RNG.normal(6, 1, (150, 4)).astype(np.float32)
PROXY = np.concatenate([RNG.normal(0, 1, (50, 4)).astype(np.float32), FAR])


def test_the_score_is_the_log_ratio_of_distances_to_centroids() -> None:
    dre = KMeansDRE(3).fit(PRIVATE, reference=PROXY)
    assert dre.reference_ is not None
    assert dre.reference_.density is not None
    halves = [half.keywords["centroids"] for half in dre.reference_.density.halves]  # type: ignore[attr-defined]

    def distance(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        return np.sqrt(((x[:, None] - centroids) ** 2).sum(2)).min(1)

    x = HELDOUT[:7]  # not in the reference set: the geometric mean of the distances to both halves
    d_q = np.sqrt(distance(x, halves[0]) * distance(x, halves[1]))
    np.testing.assert_allclose(dre.score_samples(x), np.log(d_q / distance(x, dre.centroids_)), atol=1e-3)
    x = PROXY[:7]  # each of these rows is scored by the half that it is not in
    d_q = np.exp(dre.score_samples(x)) * distance(x, dre.centroids_)
    other = [distance(x, centroids) for centroids in halves]
    assert (np.isclose(d_q, other[0], rtol=1e-3) | np.isclose(d_q, other[1], rtol=1e-3)).all()
    x = PRIVATE[:7]
    plain = KMeansDRE(3, reference="none").fit(PRIVATE)
    d = np.sqrt(((x[:, None] - plain.centroids_) ** 2).sum(2)).min(1)
    np.testing.assert_allclose(plain.score_samples(x), -np.log(d), atol=1e-3)


@pytest.mark.parametrize("reference", ["proxy", "none"])
@pytest.mark.parametrize("features", ["pixels", "pca"])
def test_private_samples_score_above_distant_samples(reference: str, features: str) -> None:
    dre = KMeansDRE(5, reference, features=features, n_components=3).fit(PRIVATE, reference=PROXY)  # type: ignore[arg-type]
    assert np.median(dre.score_samples(HELDOUT)) > dre.score_samples(FAR).max()


def test_a_sample_at_a_centroid_has_a_finite_score() -> None:
    dre = KMeansDRE(10, reference="none").fit(PRIVATE[:5])
    assert np.isfinite(dre.score_samples(PRIVATE[:5])).all()


@pytest.mark.parametrize("reference", ["proxy", "none"])
@pytest.mark.parametrize("offset", [-300.0, 1e3, 1e4])
def test_scores_do_not_depend_on_the_origin(reference: str, offset: float) -> None:
    private, proxy = (np.round(x * 64) / 64 for x in (PRIVATE, PROXY))  # so that adding the offset rounds nothing
    moved = KMeansDRE(5, reference).fit(private + np.float32(offset), reference=proxy + np.float32(offset))  # type: ignore[arg-type]
    expected = KMeansDRE(5, reference).fit(private, reference=proxy)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        moved.score_samples(proxy + np.float32(offset)), expected.score_samples(proxy), atol=0.02
    )


@pytest.mark.parametrize("rows", [3, 9, 30, 50])
def test_rows_of_a_small_proxy_set_can_be_accepted(rows: int) -> None:
    dre = KMeansDRE(50).fit(PRIVATE, reference=np.concatenate([PROXY[:rows], FAR[:rows]]))
    score = dre.score_samples(np.concatenate([PROXY[:rows], FAR[:rows]]))
    assert np.median(score[:rows]) >= np.quantile(dre.score_samples(HELDOUT), 0.05)
    assert np.median(score[:rows]) > score[rows:].max()


def test_each_half_of_the_reference_set_has_at_most_one_centroid_per_ten_rows_of_the_set() -> None:
    for k, centroids in ((5, 5), (20, 20), (21, 20), (50, 20)):
        reference = KMeansDRE(k).fit_reference(PROXY).density
        assert reference is not None
        assert [len(half.keywords["centroids"]) for half in reference.halves] == [centroids] * 2  # type: ignore[attr-defined]


def test_proxy_rows_of_the_client_are_accepted_as_often_as_heldout_rows() -> None:
    """The proxy set must not explain its own rows: a row near a centroid of the proxy set must still be accepted."""
    rng = np.random.default_rng(1)
    own, heldout, private = (rng.normal(0, 1, (n, 60)).astype(np.float32) for n in (60, 200, 300))
    proxy = np.concatenate([own, *(rng.normal(c, 1, (60, 60)).astype(np.float32) for c in (-2, 2, 4))])
    dre = KMeansDRE(24).fit(private, reference=proxy)
    threshold = np.quantile(dre.score_samples(heldout), 0.1)
    assert (dre.score_samples(own) >= threshold).mean() > 0.7  # without cross-fitting: 0.4


@pytest.mark.parametrize(("kind", "features"), [("proxy", "pixels"), ("proxy", "pca"), ("none", "pca")])
def test_clients_that_share_a_fitted_reference_score_as_alone(kind: str, features: str) -> None:
    dre = KMeansDRE(5, kind, features=features, n_components=3)  # type: ignore[arg-type]
    alone, shared = clone_of(dre).fit(PRIVATE, reference=PROXY), clone_of(dre)
    reference = dre.fit_reference(PROXY)
    for x in (PROXY, HELDOUT, PROXY[:9]):
        shared.fit(PRIVATE, reference=reference)
        assert np.array_equal(shared.score_samples(x), alone.score_samples(x))
    assert shared.reference_ is reference


def clone_of(dre: KMeansDRE) -> KMeansDRE:
    return KMeansDRE(**dre.get_params())


def test_a_fitted_estimator_can_be_pickled() -> None:
    dre = KMeansDRE(3).fit(PRIVATE, reference=PROXY)
    assert np.array_equal(pickle.loads(pickle.dumps(dre)).score_samples(PROXY), dre.score_samples(PROXY))


def test_pca_agrees_with_scikit_learn() -> None:
    from sklearn.decomposition import PCA as Oracle

    x = PRIVATE * np.array([5, 3, 1, 0.2], np.float32)
    ours, oracle = PCA(2).fit(x), Oracle(2).fit(x)
    np.testing.assert_allclose(np.abs(ours.transform(x)), np.abs(oracle.transform(x)), atol=1e-3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be a whole number of at least 1"),
        ({"n_clusters": 2.5}, "n_clusters must be a whole number of at least 1, not 2.5"),
        ({"reference": "both"}, "reference must be proxy or none"),
        ({"features": "edges"}, "features must be pixels or pca"),
    ],
)
def test_bad_parameters_are_refused_at_fit(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KMeansDRE(**parameters).fit(PRIVATE, reference=PROXY)


def test_bad_data_is_refused() -> None:
    with pytest.raises(ValueError, match="need the reference set"):
        KMeansDRE().fit(PRIVATE)
    with pytest.raises(ValueError, match="NaN"):
        KMeansDRE(reference="none").fit([[np.nan, 1.0]])
    with pytest.raises(ValueError, match="has 3 features"):
        KMeansDRE().fit(PRIVATE, reference=PROXY[:, :3])


class AsScikitLearn(KMeansDRE, BaseEstimator):
    """KMeansDRE with scikit-learn's base class, so that its own checks can run on it."""

    def __init__(self, n_clusters: int = 10, max_iter: int = 100, random_state: int = 0) -> None:
        super().__init__(n_clusters, "none", max_iter=max_iter, random_state=random_state)

    def get_params(self, deep: bool = True) -> dict:
        return BaseEstimator.get_params(self, deep)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_complex_data,
        estimator_checks.check_dict_unchanged,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_dont_overwrite_parameters,
        estimator_checks.check_dtype_object,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimators_dtypes,
        estimator_checks.check_estimators_empty_data_messages,
        estimator_checks.check_estimators_fit_returns_self,
        estimator_checks.check_estimators_nan_inf,
        estimator_checks.check_estimators_overwrite_params,
        estimator_checks.check_estimators_pickle,
        estimator_checks.check_estimators_unfitted,
        estimator_checks.check_f_contiguous_array_estimator,
        estimator_checks.check_fit1d,
        estimator_checks.check_fit2d_1feature,
        estimator_checks.check_fit2d_1sample,
        estimator_checks.check_fit2d_predict1d,
        estimator_checks.check_fit_check_is_fitted,
        estimator_checks.check_fit_idempotent,
        estimator_checks.check_fit_score_takes_y,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_methods_sample_order_invariance,
        estimator_checks.check_methods_subset_invariance,
        estimator_checks.check_n_features_in,
        estimator_checks.check_n_features_in_after_fitting,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_pipeline_consistency,
        estimator_checks.check_readonly_memmap_input,
        estimator_checks.check_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_a_check_of_scikit_learn_passes(check) -> None:
    check("AsScikitLearn", AsScikitLearn())


def test_parameters_can_be_read_set_and_cloned() -> None:
    dre = KMeansDRE(7, features="pca")
    copy = clone(dre, safe=False)
    assert copy.get_params() == dre.get_params()
    assert dre.set_params(n_clusters=3).n_clusters == 3
    with pytest.raises(ValueError, match="no parameter 'clusters'"):
        dre.set_params(clusters=3)
