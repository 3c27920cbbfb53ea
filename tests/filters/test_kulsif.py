"""KuLSIF against its formula, its memory check, and its errors."""

from collections.abc import Callable

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.filters.kulsif import KuLSIF, check_memory

RNG = np.random.default_rng(0)
PRIVATE, AUXILIARY, X = (RNG.normal(0, s, (n, 3)) for s, n in ((1, 30), (3, 20), (2, 10)))


def ratio_by_formula(inverse: bool, width: float) -> np.ndarray:
    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * width**2))

    n, m = len(AUXILIARY), len(PRIVATE)
    lam = n**-0.5
    left = k(AUXILIARY, AUXILIARY) / n + lam * np.eye(n)
    a = -(np.linalg.inv(left) if inverse else left) @ k(AUXILIARY, PRIVATE).sum(1) / (n * m * lam)
    return k(X, AUXILIARY) @ a + k(X, PRIVATE).sum(1) / (m * lam)


@pytest.mark.parametrize(("variant", "inverse"), [("correct", True), ("published", False)])
def test_the_ratio_agrees_with_the_formula(variant: str, inverse: bool) -> None:
    ours = KuLSIF(1.5, variant).fit(PRIVATE, reference=AUXILIARY).score_samples(X)
    np.testing.assert_allclose(ours, ratio_by_formula(inverse, 1.5), rtol=1e-4, atol=1e-5)


def test_the_correct_and_the_published_formula_differ_in_low_dimension() -> None:
    assert np.abs(ratio_by_formula(True, 1.5) - ratio_by_formula(False, 1.5)).max() > 0.01


def test_the_estimate_correlates_with_a_known_density_ratio() -> None:
    """The ratio of two normal distributions is known."""
    x = np.linspace(-3, 3, 61)[:, None]
    p, q = RNG.normal(0.5, 0.5, (500, 1)), RNG.normal(0, 1, (500, 1))
    truth = np.exp(-((x - 0.5) ** 2) / 0.5 + x**2 / 2)[:, 0]
    estimate = KuLSIF().fit(p, reference=q).score_samples(x)
    assert np.corrcoef(estimate, truth)[0, 1] > 0.9


def test_samples_far_from_zero_keep_their_scores() -> None:
    near = KuLSIF(1.5).fit(PRIVATE, reference=AUXILIARY).score_samples(X)
    far = KuLSIF(1.5).fit(PRIVATE + 1000, reference=AUXILIARY + 1000).score_samples(X + 1000)
    np.testing.assert_allclose(far, near, atol=2e-3)


def test_a_fit_that_needs_more_memory_than_is_free_is_refused_with_the_estimate() -> None:
    with pytest.raises(UserError, match=r"200000 auxiliary .* needs about 962\.\d GB, but only 8\.0 GB are free"):
        check_memory(200_000, 1000, 3, free=8 * 10**9)
    check_memory(1000, 1000, 3, free=8 * 10**9)
    with pytest.raises(UserError, match=r"about 16\.\d GB"):
        check_memory(1000, 1000, 10**6, free=8 * 10**9)


def test_a_fit_that_is_too_large_is_refused_before_any_allocation() -> None:
    row = np.zeros((1, 1), np.float32)
    huge = np.broadcast_to(row, (10**6, 1))  # no memory of its own; its kernel would take 24 TB
    with pytest.raises(UserError, match="KMeansDRE"):
        KuLSIF().fit(row, reference=huge)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KuLSIF(0).fit(PRIVATE, reference=AUXILIARY), "width"),
        (lambda: KuLSIF(variant="fast").fit(PRIVATE, reference=AUXILIARY), "variant"),
        (lambda: KuLSIF().fit(PRIVATE, reference=AUXILIARY[:, :2]), "2 features, X has 3"),
        (lambda: KuLSIF().score_samples(X), "fit first"),
        (lambda: KuLSIF().fit(PRIVATE, reference=AUXILIARY).score_samples(X[:, :2]), "expecting 3"),
        (lambda: KuLSIF().set_params(k=3), "no parameter 'k'"),
    ],
)
def test_invalid_parameters_and_samples_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
