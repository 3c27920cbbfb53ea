"""The rows that a client learns: closed forms, and that they are rows of the teacher, as many as the budget says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge
from edgefd.selection.settings import CLIENT_RULES, Selection, n_rows
from edgefd.selection.subset import best, class_divergence, gains, llkd, rad, subset_rows, weighted_sample


def labels(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def teacher(values: np.ndarray) -> Knowledge:
    return Knowledge(3 * np.arange(len(values)) + 1, values, np.full(len(values), 0.5, np.float32))


def chosen(
    name: str, said: np.ndarray, own: np.ndarray, budget: float, reference: np.ndarray | None = None
) -> list[int]:
    def asked() -> np.ndarray:
        assert reference is not None
        return reference

    found = subset_rows(Selection(name, budget), teacher(said), own, np.random.default_rng(0), asked)
    return ((found.ids - 1) // 3).tolist()


def test_gain_is_one_less_the_margin() -> None:
    assert gains(labels([0.7, 0.2, 0.1], [1, 0, 0], [0.4, 0.4, 0.2])) == pytest.approx([0.5, 1e-6, 1.0])


def value(q: np.ndarray, gain: np.ndarray, wrong: int) -> float:
    """What is sure to be gained: the worst over all sets of `wrong` rows that are lost."""
    worth = q * gain
    return min(worth.sum() - sum(worth[list(lost)]) for lost in itertools.combinations(range(len(q)), wrong))


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_rad_is_the_best_answer_to_the_worst_that_can_happen(wrong: int) -> None:
    rng = np.random.default_rng(wrong)
    for _ in range(20):
        gain = rng.uniform(0.05, 1, 6)
        q = rad(gain, 1, wrong)
        assert q.sum() == pytest.approx(1)
        for other in rng.dirichlet(np.full(6, 0.5), 50):
            assert value(other, gain, wrong) <= value(q, gain, wrong) + 1e-9


def test_rad_with_no_wrong_row_takes_the_least_sure() -> None:
    own = labels([0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.8, 0.2])
    q = rad(gains(own), 2, 0)
    assert np.flatnonzero(q).tolist() == [1, 2]
    assert weighted_sample(q, 2, np.random.default_rng(0)).tolist() == [1, 2]


def test_rad_draws_in_proportion() -> None:
    q, rng = np.array([0.0, 0.5, 0.375, 0.125]), np.random.default_rng(0)
    count = sum(np.bincount(weighted_sample(q, 1, rng), minlength=4) for _ in range(4000)) / 4000
    assert count == pytest.approx(q, abs=0.03)


def test_llkd_wants_a_sure_teacher_and_an_unsure_client_of_a_class() -> None:
    said = labels([0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8])
    own = labels([0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.3, 0.7])
    # class 0: means 0.8 and 0.3667: only row 0 passes both; class 1: one row, which is its own mean
    assert llkd(said, own) == pytest.approx([1.0, 0.0, 0.0, 0.8 * 0.3 / 0.45])
    assert chosen("llkd", said, own, 1.0) == [0, 3]
    assert chosen("llkd", said, own, 0.25) == [0]
    found = subset_rows(Selection("llkd"), teacher(said), own, np.random.default_rng(0), lambda: own)
    assert found.weights == pytest.approx([0.5, 0.5 * 0.24 / 0.45])


def test_adaspec_takes_what_the_reference_has_learned_and_the_client_has_not() -> None:
    said = labels([1, 0], [1, 0], [1, 0])
    own = labels([0.5, 0.5], [0.1, 0.9], [0.9, 0.1])
    reference = labels([0.9, 0.1], [0.1, 0.9], [0.9, 0.1])  # row 1 is far from the teacher, but nobody learns it
    assert chosen("adaspec", said, own, 0.34, reference) == [0]


def test_kd3_takes_what_both_together_are_surest_of() -> None:
    said, own = labels([0.9, 0.1], [0.9, 0.1], [0.6, 0.4]), labels([0.1, 0.9], [0.8, 0.2], [0.9, 0.1])
    assert chosen("kd3", said, own, 2) == [1, 2]  # 0.5, 0.85, 0.75


def test_lags_are_mean_divergences_by_the_teachers_class() -> None:
    k = teacher(labels([1, 0, 0], [1, 0, 0], [0, 0, 1]))
    found = class_divergence(k, labels([0.5, 0.5, 0], [0.25, 0.75, 0], [0, 0, 1]))
    assert set(found) == {"class_kl/0", "class_kl/2"}
    assert found["class_kl/0"] == pytest.approx(1.5 * np.log(2), abs=1e-4)
    assert found["class_kl/2"] == pytest.approx(0, abs=1e-4)


@given(
    st.sampled_from(CLIENT_RULES),
    st.integers(1, 30),
    st.sampled_from([0.01, 0.25, 0.99, 2, 7, 100]),
    st.integers(0, 99),
)
def test_rows_are_the_teachers_each_once_within_the_budget(name: str, n: int, budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, own, better = rng.dirichlet(np.full(4, 0.3), (3, n)).astype(np.float32)
    k = teacher(said)
    found, again = (
        subset_rows(Selection(name, budget), k, own, np.random.default_rng(seed), lambda: better) for _ in range(2)
    )
    assert found.equals(again)
    assert np.isin(found.ids, k.ids).all()
    assert np.array_equal(found.values, said[(found.ids - 1) // 3])
    assert (found.weights <= 0.5).all()
    if name == "llkd":  # whose thresholds may leave fewer, or none
        assert len(found) <= n_rows(budget, n)
    else:
        assert len(found) == n_rows(budget, n)


def test_of_equal_scores_the_first_come_first() -> None:
    assert best(np.zeros(5), 2).tolist() == [0, 1]
