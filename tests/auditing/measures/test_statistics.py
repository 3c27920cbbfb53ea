"""Statistics against closed forms and against another implementation.

The oracle's numbers are those of `jax_privacy.auditing.CanaryScoreAuditor` (jax-privacy 2.0.0, jax 0.10.2, numpy 2.4.6,
scipy 1.17.1), with `Explicit(1.5)` as threshold, significance 0.05 and delta 1e-5. The package brings JAX, 650 MB, so
it is not among the test dependencies. `epsilon_from_gdp` is no oracle: it takes an absolute value where the sign counts
and gives 13.5 where 250 + 250 records cannot show more than 4.2.
"""

import numpy as np
import pytest

from edgefd.auditing.measures import statistics as s

ORACLE = {
    "weak": {"auc": 0.7141791666666666, "cp": 0.766598170457669, "one": 1.247406729149721, "fdp": 1.9729035496395775},
    "strong": {"auc": 0.988112, "cp": 2.3840609134271196, "one": 2.4659189610833967, "fdp": 4.5160674680777895},
    "ties": {
        "auc": 0.880361111111111,
        "cp": 1.420206369289265,
        "one": 1.4050361980708126,
        "fdp": 2.454083755079756,
    },
}
CASES = {"weak": (400, 300, 0.8, 0), "strong": (250, 250, 3.0, 1), "ties": (120, 150, 1.5, 2)}


def scores(name: str) -> tuple[np.ndarray, np.ndarray]:
    n, m, shift, seed = CASES[name]
    r = np.random.default_rng(seed)
    a, b = r.normal(shift, 1, n), r.normal(0, 1, m)
    return (a.round(1), b.round(1)) if name == "ties" else (a, b)


def hull_area(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Return the area under the convex hull of the curve, as the oracle does: it randomises between thresholds."""
    from scipy.spatial import ConvexHull

    points = np.c_[np.r_[fpr, 1], np.r_[tpr, 0]]
    return float(ConvexHull(points).volume)  # the volume of a plane figure is its area


@pytest.mark.parametrize("name", ORACLE)
def test_bounds_and_area_agree_with_the_oracle(name: str) -> None:
    a, b = scores(name)
    g = s.guesses(a, b, 1.5)
    assert hull_area(*s.roc(a, b)) == pytest.approx(ORACLE[name]["auc"], abs=1e-12)
    assert s.epsilon_clopper_pearson(g, 1e-5, 0.05) == pytest.approx(ORACLE[name]["cp"], abs=1e-9)
    assert s.epsilon_one_run(g, 1e-5, 0.05) == pytest.approx(ORACLE[name]["one"], abs=1e-6)
    assert s.epsilon_one_run_fdp(g, 1e-5, 0.05) == pytest.approx(ORACLE[name]["fdp"], abs=2e-6)


def test_area_and_curve_agree_with_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    a, b = scores("ties")
    y, all_scores = np.r_[np.ones(len(a)), np.zeros(len(b))], np.concatenate([a, b])
    assert s.auc(a, b).value == pytest.approx(roc_auc_score(y, all_scores), abs=1e-12)
    fpr, tpr = s.roc(a, b)
    expected = roc_curve(y, all_scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0], atol=1e-12)
    np.testing.assert_allclose(tpr, expected[1], atol=1e-12)
    assert s.advantage(a, b) == pytest.approx(max(expected[1] - expected[0]), abs=1e-12)


def test_the_interval_of_the_auc_covers_the_truth_at_its_nominal_rate() -> None:
    from scipy.stats import norm

    truth, covered = float(norm.cdf(0.7 / np.sqrt(2))), 0
    for seed in range(300):
        r = np.random.default_rng(seed)
        result = s.auc(r.normal(0.7, 1, 80), r.normal(0, 1, 60))
        covered += result.low <= truth <= result.high
    assert 276 <= covered <= 295  # 285 expected


def test_the_interval_of_a_mean_covers_it_at_its_nominal_rate() -> None:
    r = np.random.default_rng(4)
    intervals = [s.mean_interval(r.normal(1, 2, 8)) for _ in range(1000)]
    assert 925 < sum(i.low <= 1 <= i.high for i in intervals) < 975


@pytest.mark.parametrize("n", [5, 40, 500])
def test_perfect_separation_has_an_interval(n: int) -> None:
    result = s.auc(np.arange(float(n)) + 1000, np.arange(float(n)))
    assert (result.value, result.high) == (1, 1)
    assert 1 - 5 / n <= result.low <= 0.025 ** (1 / n) + 0.01  # near the bound of n successes in n trials
    turned = s.auc(np.arange(float(n)), np.arange(float(n)) + 1000)
    assert (turned.value, turned.low) == (0, 0)
    assert turned.high == pytest.approx(1 - result.low)


def test_the_interval_of_rare_equal_and_almost_certain_scores_covers_the_truth() -> None:
    """Plain DeLong covers in 45 % and 11 % of these cases."""
    rare = certain = 0
    for seed in range(200):
        r = np.random.default_rng(seed)
        low = s.auc((r.random(40) < 0.015).astype(float), np.zeros(40))
        rare += low.low <= 0.5075 <= low.high
        high = s.auc(r.normal(5, 1, 40), r.normal(0, 1, 40))
        certain += high.low <= 0.9998 <= high.high
    assert min(rare, certain) >= 190


def test_pairs_have_a_shorter_interval_that_covers_the_truth() -> None:
    from scipy.stats import norm

    covered, shorter, truth = 0, 0, float(norm.cdf(0.2))
    for seed in range(200):
        r = np.random.default_rng(seed)
        common = r.normal(0, 1, 100)
        a, b = common + r.normal(0.4, 1, 100), common + r.normal(0, 1, 100)
        pairs, independent = s.auc(a, b, paired=True), s.auc(a, b)
        assert pairs.value == independent.value
        covered += pairs.low <= truth <= pairs.high
        shorter += pairs.high - pairs.low < 0.85 * (independent.high - independent.low)
    assert 180 <= covered <= 199
    assert shorter >= 180
    with pytest.raises(ValueError, match="not pairs"):
        s.auc(a, b[1:], paired=True)


def test_bounds_of_a_probability_are_exact() -> None:
    from scipy.stats import binom

    p = s.upper_bound(3, 40, 0.05)
    assert binom.cdf(3, 40, p) == pytest.approx(0.05)
    assert s.lower_bound(37, 40, 0.05) == pytest.approx(1 - p)
    assert s.upper_bound(40, 40, 0.05) == 1
    assert s.clopper_pearson(0, 1000)[1] == pytest.approx(0.00368, abs=1e-5)


def test_bounds_are_near_zero_without_a_leak_and_never_above_a_perfect_attack() -> None:
    r = np.random.default_rng(3)
    a, b = r.normal(0, 1, 500), r.normal(0, 1, 500)
    for bound in (s.epsilon_clopper_pearson, s.epsilon_one_run, s.epsilon_one_run_fdp):
        assert s.epsilon_split(bound, a, b, 1e-5, np.random.default_rng(0)) < 0.3
    perfect = s.epsilon_split(s.epsilon_one_run, a + 50, b, 0.0, np.random.default_rng(0))
    assert perfect == pytest.approx(s.largest_epsilon(250, 250), abs=0.1)
    assert s.epsilon_one_run(s.Guesses(0, 10, 0, 10), 1e-5, 0.05) == 0


def test_the_one_run_bound_of_randomised_response_stays_below_its_epsilon() -> None:
    """2,000 coins, each reported truly with probability e / (1 + e): epsilon is 1, and 95 of 100 bounds are below."""
    above = 0
    for seed in range(200):
        r = np.random.default_rng(seed)
        right = int(r.binomial(2000, np.e / (1 + np.e)))
        above += s.epsilon_one_run(s.Guesses(right, 1000, 2000 - right, 1000), 0.0, 0.05) > 1
    assert above <= 17  # 10 expected


@pytest.mark.parametrize(("right", "wrong"), [(60, 40), (90, 10), (500, 3), (40, 0)])
def test_the_one_run_bound_without_delta_is_that_of_the_share_of_correct_guesses(right: int, wrong: int) -> None:
    """delta = 0: eps with P(Bin(r, e^eps / (1 + e^eps)) >= v) = 0.05, the log odds of the lower bound of v / r."""
    p = s.lower_bound(right, right + wrong, 0.05)
    expected = max(0.0, np.log(p / (1 - p)))
    result = s.epsilon_one_run(s.Guesses(right, 2 * right, wrong, 2 * wrong + 5), 0.0, 0.05)
    assert result == pytest.approx(expected, abs=1e-6)
