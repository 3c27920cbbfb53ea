"""The acceptance rule: threshold, weights, and rows that the client contributed."""

from typing import Literal

import numpy as np
import pytest

from edgefd.filters.acceptance import AcceptanceRule, acceptance_weights
from edgefd.filters.kmeans_dre import KMeansDRE

RNG = np.random.default_rng(0)
PRIVATE = RNG.normal(0, 1, (300, 4)).astype(np.float32)
HELDOUT = RNG.normal(0, 1, (100, 4)).astype(np.float32)
FAR = RNG.normal(6, 1, (150, 4)).astype(np.float32)
PROXY = np.concatenate([RNG.normal(0, 1, (50, 4)).astype(np.float32), FAR])


def rule_of(
    quantile: float, weighting: Literal["hard", "soft"] = "soft", *, accept_contributed: bool = True
) -> AcceptanceRule:
    return AcceptanceRule(quantile, weighting, 2.0, accept_contributed)


def acceptance(rule: AcceptanceRule, contributed: list[int] | None = None) -> np.ndarray:
    dre = KMeansDRE(5).fit(PRIVATE, reference=PROXY)
    return acceptance_weights(dre, HELDOUT, PROXY, np.array(contributed or [], np.int64), rule)


def test_hard_weights_are_zero_or_one_and_accept_the_quantile_of_heldout_rows() -> None:
    for quantile in (0.5, 0.9):
        rule = rule_of(quantile, "hard", accept_contributed=False)
        w = acceptance(rule)
        assert set(np.unique(w)) <= {0.0, 1.0}
        dre = KMeansDRE(5).fit(PRIVATE, reference=PROXY)
        heldout_weights = acceptance_weights(dre, HELDOUT, HELDOUT, np.empty(0, np.int64), rule)
        assert heldout_weights.mean() == pytest.approx(quantile, abs=0.02)
        assert w[50:].sum() == 0  # no distant row is accepted


def test_soft_weights_agree_with_the_formula() -> None:
    rule = rule_of(0.9, accept_contributed=False)
    w = acceptance(rule)
    dre = KMeansDRE(5).fit(PRIVATE, reference=PROXY)
    threshold = np.quantile(dre.score_samples(HELDOUT), 0.1)
    s = dre.score_samples(PROXY)
    expected = np.where(s >= threshold, np.exp(-2.0 * np.exp(-s) / np.exp(-threshold)), 0)
    np.testing.assert_allclose(w, expected, rtol=1e-5)
    assert w[w > 0].min() >= np.exp(-2.0) - 1e-6


def test_a_higher_quantile_accepts_every_row_that_a_lower_one_accepts() -> None:
    low, high = acceptance(rule_of(0.5, "hard")), acceptance(rule_of(0.95, "hard"))
    assert (high >= low).all()


def test_contributed_rows_are_accepted_with_any_score_if_the_rule_says_so() -> None:
    assert acceptance(rule_of(0.9), contributed=[199])[199] == 1
    assert acceptance(rule_of(0.9, accept_contributed=False), contributed=[199])[199] == 0


def test_a_least_share_lowers_the_threshold_and_never_raises_it() -> None:
    """FAR rows have no score of a held-out row; the client accepts the best of them if it expects to know some."""
    rule, nothing = rule_of(0.9, accept_contributed=False), np.empty(0, np.int64)
    dre = KMeansDRE(5, reference="none").fit(PRIVATE)
    assert acceptance_weights(dre, HELDOUT, FAR, nothing, rule).sum() == 0
    for share in (0.1, 0.5, 1.0):
        weights = acceptance_weights(dre, HELDOUT, FAR, nothing, rule, share)
        assert (weights > 0).mean() == pytest.approx(share, abs=0.01)
        assert dre.score_samples(FAR)[weights > 0].min() >= dre.score_samples(FAR)[weights == 0].max(initial=-np.inf)
        assert weights[weights > 0].min() >= np.exp(-2.0) - 1e-6
    near = acceptance_weights(dre, HELDOUT, HELDOUT, nothing, rule)
    assert np.array_equal(acceptance_weights(dre, HELDOUT, HELDOUT, nothing, rule, 0.3), near)
