"""Rows that a client distils: closed forms, and that they are rows of the teacher within the budget."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty
from edgefd.selection import Candidates, selection_of, selection_rules
from edgefd.selection._rule import n_rows
from edgefd.selection._subset import best
from edgefd.selection.ddk import Ddk, class_divergence
from edgefd.selection.llkd import Llkd, llkd
from edgefd.selection.rad import gains, rad, weighted_sample

CLIENT_RULES = sorted(name for name, rule in selection_rules().items() if rule.subsets)


def labels(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def teacher(values: np.ndarray) -> Knowledge:
    return Knowledge(3 * np.arange(len(values)) + 1, values, np.full(len(values), 0.5, np.float32))


def chosen(
    name: str, teacher_probs: np.ndarray, client_probs: np.ndarray, budget: float, reference: np.ndarray | None = None
) -> list[int]:
    def reference_probs() -> np.ndarray:
        assert reference is not None
        return reference

    rule = selection_of({"name": name, "budget": budget})
    subset = rule.subset(
        Candidates(teacher(teacher_probs), lambda: client_probs, reference_probs, np.random.default_rng(0))
    )
    return ((subset.ids - 1) // 3).tolist()


def test_the_gain_is_one_minus_the_margin() -> None:
    assert gains(labels([0.7, 0.2, 0.1], [1, 0, 0], [0.4, 0.4, 0.2])) == pytest.approx([0.5, 1e-6, 1.0])


def guaranteed_gain(q: np.ndarray, gain: np.ndarray, n_wrong: int) -> float:
    """Return the least gain over all sets of `n_wrong` rows that are lost."""
    gains_of_rows = q * gain
    sets = itertools.combinations(range(len(q)), n_wrong)
    return min(gains_of_rows.sum() - sum(gains_of_rows[list(lost)]) for lost in sets)


@pytest.mark.parametrize("n_wrong", [0, 1, 2])
def test_rad_maximises_the_gain_in_the_worst_case(n_wrong: int) -> None:
    rng = np.random.default_rng(n_wrong)
    for _ in range(20):
        gain = rng.uniform(0.05, 1, 6)
        q = rad(gain, 1, n_wrong)
        assert q.sum() == pytest.approx(1)
        for other in rng.dirichlet(np.full(6, 0.5), 50):
            assert guaranteed_gain(other, gain, n_wrong) <= guaranteed_gain(q, gain, n_wrong) + 1e-9


def test_rad_without_wrong_rows_takes_the_least_confident_rows() -> None:
    client_probs = labels([0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.8, 0.2])
    q = rad(gains(client_probs), 2, 0)
    assert np.flatnonzero(q).tolist() == [1, 2]
    assert weighted_sample(q, 2, np.random.default_rng(0)).tolist() == [1, 2]


def test_weighted_samples_are_drawn_in_proportion_to_q() -> None:
    q, rng = np.array([0.0, 0.5, 0.375, 0.125]), np.random.default_rng(0)
    count = sum(np.bincount(weighted_sample(q, 1, rng), minlength=4) for _ in range(4000)) / 4000
    assert count == pytest.approx(q, abs=0.03)


def test_llkd_takes_rows_with_a_confident_teacher_and_an_unconfident_client_within_a_class() -> None:
    teacher_probs = labels([0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8])
    client_probs = labels([0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.3, 0.7])
    # class 0: means 0.8 and 0.3667: only row 0 passes both; class 1: one row, which is its own mean
    assert llkd(teacher_probs, client_probs) == pytest.approx([1.0, 0.0, 0.0, 0.8 * 0.3 / 0.45])
    assert chosen("llkd", teacher_probs, client_probs, 1.0) == [0, 3]
    assert chosen("llkd", teacher_probs, client_probs, 0.25) == [0]
    rng = np.random.default_rng(0)
    subset = Llkd().subset(Candidates(teacher(teacher_probs), lambda: client_probs, lambda: client_probs, rng))
    assert subset.weights == pytest.approx([0.5, 0.5 * 0.24 / 0.45])


def test_adaspec_takes_rows_that_the_reference_has_learned_and_the_client_has_not() -> None:
    teacher_probs = labels([1, 0], [1, 0], [1, 0])
    client_probs = labels([0.5, 0.5], [0.1, 0.9], [0.9, 0.1])
    reference = labels([0.9, 0.1], [0.1, 0.9], [0.9, 0.1])  # row 1 is far from the teacher, but is not learned
    assert chosen("adaspec", teacher_probs, client_probs, 0.34, reference) == [0]


def test_kd3_takes_rows_with_the_highest_mean_confidence_of_teacher_and_client() -> None:
    teacher_probs = labels([0.9, 0.1], [0.9, 0.1], [0.6, 0.4])
    client_probs = labels([0.1, 0.9], [0.8, 0.2], [0.9, 0.1])
    assert chosen("kd3", teacher_probs, client_probs, 2) == [1, 2]  # 0.5, 0.85, 0.75


def test_class_divergences_are_means_by_the_class_of_the_teacher() -> None:
    k = teacher(labels([1, 0, 0], [1, 0, 0], [0, 0, 1]))
    client_probs = labels([0.5, 0.5, 0], [0.25, 0.75, 0], [0, 0, 1])
    metrics = class_divergence(k, client_probs)
    assert Ddk(budget=2).client_metrics(k, lambda: client_probs) == metrics
    assert Ddk(budget=2).client_metrics(empty(3), lambda: pytest.fail("nothing to predict")) == {}
    assert set(metrics) == {"class_kl/0", "class_kl/2"}
    assert metrics["class_kl/0"] == pytest.approx(1.5 * np.log(2), abs=1e-4)
    assert metrics["class_kl/2"] == pytest.approx(0, abs=1e-4)


@given(
    st.sampled_from(CLIENT_RULES),
    st.integers(1, 30),
    st.sampled_from([0.01, 0.25, 0.99, 2, 7, 100]),
    st.integers(0, 99),
)
def test_distilled_rows_are_distinct_rows_of_the_teacher_within_the_budget(
    name: str, n: int, budget: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    teacher_probs, client_probs, reference = rng.dirichlet(np.full(4, 0.3), (3, n)).astype(np.float32)
    k = teacher(teacher_probs)
    rule = selection_of({"name": name, "budget": budget})
    subset, again = (
        rule.subset(Candidates(k, lambda: client_probs, lambda: reference, np.random.default_rng(seed)))
        for _ in range(2)
    )
    assert subset.equals(again)
    assert np.isin(subset.ids, k.ids).all()
    assert np.array_equal(subset.values, teacher_probs[(subset.ids - 1) // 3])
    assert (subset.weights <= 0.5).all()
    if name == "llkd":  # its thresholds may leave fewer rows, or none
        assert len(subset) <= n_rows(budget, n)
    else:
        assert len(subset) == n_rows(budget, n)


def test_among_equal_scores_the_first_rows_are_taken() -> None:
    assert best(np.zeros(5), 2).tolist() == [0, 1]


def test_the_rules_of_the_client_are_those_that_choose_a_subset() -> None:
    assert CLIENT_RULES == ["adaspec", "kd3", "llkd", "rad"]
    k = teacher(labels([1, 0], [0, 1]))
    for name in sorted(set(selection_rules()) - set(CLIENT_RULES)):
        rule = selection_of({"name": name} | ({} if name in ("all", "alternating") else {"budget": 1 / 2}))
        subset = rule.subset(Candidates(k, lambda: k.values, lambda: k.values, np.random.default_rng(0)))
        assert subset is k
