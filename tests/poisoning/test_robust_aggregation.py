"""Robust aggregation rules: closed forms, and properties for any votes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty, weighted_mean
from edgefd.poisoning.robust_aggregation import (
    Aggregate,
    Aggregator,
    aggregate_of,
    distance,
    geometric_median,
    median,
    one_vote,
    trimmed_mean,
)
from tests.support.strategies import knowledge

RULES: dict[str, Aggregate] = {
    "mean": weighted_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "geometric_median": geometric_median,
    "distance": distance,
}
ROW_BY_ROW = ["median", "trimmed_mean", "geometric_median"]
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def vote(*rows: Sequence[float], weight: float = 1.0, ids: Sequence[int] | None = None) -> Knowledge:
    values = np.array(rows, np.float32)
    return Knowledge(np.arange(len(rows)) if ids is None else np.array(ids), values, np.full(len(rows), weight))


def rows_of(k: Knowledge) -> dict[int, np.ndarray]:
    return dict(zip(k.ids.tolist(), k.values, strict=True))


def test_the_median_of_three_votes_is_the_scaled_middle_one() -> None:
    votes = [vote([0.9, 0.1, 0.0]), vote([0.6, 0.3, 0.1]), vote([0.2, 0.2, 0.6])]
    np.testing.assert_allclose(median(votes).values, [np.array([0.6, 0.2, 0.1]) / 0.9], rtol=1e-6)


def test_the_median_of_two_votes_is_the_heavier_one_or_their_mean() -> None:
    a, b = [0.9, 0.1], [0.3, 0.7]
    np.testing.assert_allclose(median([vote(a), vote(b)]).values, [[0.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(median([vote(a, weight=0.6), vote(b, weight=0.5)]).values, [a], rtol=1e-6)


def test_the_median_has_no_row_without_a_majority() -> None:
    votes = [vote(row, [1, 0, 0]) for row in np.eye(3)]
    assert median(votes).ids.tolist() == [1]


def test_the_trimmed_mean_cuts_both_ends() -> None:
    votes = [vote([p, 1 - p]) for p in (0.0, 0.5, 0.6, 0.7, 1.0)]
    np.testing.assert_allclose(trimmed_mean(votes, 0.2).values, [[0.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(trimmed_mean(votes, 0.0).values, weighted_mean(votes).values, rtol=1e-6)
    # a cut of 0.1 takes half of each outer vote: (0.5 * 0 + 0.5 + 0.6 + 0.7 + 0.5 * 1) / 4
    np.testing.assert_allclose(trimmed_mean(votes, 0.1).values[0, 0], 2.3 / 4, rtol=1e-6)


def test_the_trimmed_mean_of_two_votes_is_their_mean_unless_one_is_cut_completely() -> None:
    a, b = [0.9, 0.1], [0.3, 0.7]
    np.testing.assert_allclose(trimmed_mean([vote(a), vote(b)]).values, [[0.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(trimmed_mean([vote(a), vote(b, weight=0.25)]).values, [a], rtol=1e-6)


def test_the_geometric_median_of_the_corners_of_a_triangle_is_its_centre() -> None:
    np.testing.assert_allclose(geometric_median([vote(row) for row in np.eye(3)]).values, [[1 / 3] * 3], atol=1e-6)


def test_the_geometric_median_of_points_on_a_line_is_their_median() -> None:
    votes = [vote([p, 1 - p]) for p in (0.1, 0.2, 0.9)]
    np.testing.assert_allclose(geometric_median(votes).values, [[0.2, 0.8]], atol=1e-3)


def test_distance_removes_attackers_that_are_outvoted_on_other_rows() -> None:
    """Row 3 has one honest voter and two attackers, which are outvoted on the other rows."""
    honest = [vote([1, 0], [1, 0], [1, 0]) for _ in range(5)] + [vote([1, 0], ids=[3])]
    attackers = [vote([0, 1], [0, 1], [0, 1], [0, 1]) for _ in range(2)]
    assert rows_of(weighted_mean(honest + attackers))[3][0] < 0.34
    assert rows_of(geometric_median(honest + attackers))[3][0] < 0.01
    assert rows_of(distance(honest + attackers))[3][0] > 0.9


def test_one_vote_reduces_the_weight_of_clients_with_many_rows() -> None:
    few, all_rows = vote([1, 0], ids=[0]), vote(*[[0, 1]] * 4)
    assert rows_of(weighted_mean(one_vote([few, all_rows])))[0][0] == pytest.approx(0.8)
    for upload in one_vote([few, all_rows, empty(2)]):
        assert upload.weights.sum() == pytest.approx(1.0 if len(upload) else 0.0)


def test_the_config_chooses_the_rule_and_its_settings() -> None:
    votes = [vote([p, 1 - p], [1, 0]) for p in (0.0, 0.5, 0.6, 0.7, 1.0)] + [vote([1, 0], ids=[0])]
    for name, rule in RULES.items():
        assert aggregate_of(Aggregator(name))(votes).equals(rule(votes))  # type: ignore[arg-type]
    assert aggregate_of(Aggregator("trimmed_mean", trim=0.4))(votes).equals(trimmed_mean(votes, 0.4))
    assert aggregate_of(Aggregator("median", one_vote=True))(votes).equals(median(one_vote(votes)))


@every_rule
@given(votes=st.lists(knowledge(), min_size=1, max_size=6), order=st.randoms())
def test_the_order_of_votes_changes_only_rounding(rule: Aggregate, votes: list[Knowledge], order: object) -> None:
    shuffled = list(votes)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = rule(votes), rule(shuffled)
    assert np.array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.values, b.values, atol=2e-4)


@every_rule
@given(vote=knowledge())
def test_the_aggregate_of_a_single_voter_is_its_vote(rule: Aggregate, vote: Knowledge) -> None:
    result = rule([vote, empty(vote.width)])
    assert np.array_equal(result.ids, vote.ids)
    np.testing.assert_allclose(result.values, vote.values, atol=1e-6)
    assert (result.weights == 1).all()


@every_rule
@given(votes=st.lists(knowledge(), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_the_aggregate_of_equal_votes_is_their_mean(rule: Aggregate, votes: list[Knowledge], seed: int) -> None:
    truth = np.random.default_rng(seed).dirichlet(np.ones(3), 12).astype(np.float32)
    agreed = [Knowledge(v.ids, truth[v.ids], v.weights) for v in votes]
    assert np.array_equal(rule(agreed).ids, weighted_mean(agreed).ids)
    np.testing.assert_allclose(rule(agreed).values, weighted_mean(agreed).values, atol=1e-5)


@pytest.mark.parametrize("name", ROW_BY_ROW)
@given(
    attackers=st.lists(knowledge(rows=4), min_size=1, max_size=2),
    scale=st.sampled_from([1.0, -1.0, 1e30]),
    seed=st.integers(0, 99),
)
def test_a_minority_changes_nothing_where_the_majority_agrees(
    name: str, attackers: list[Knowledge], scale: float, seed: int
) -> None:
    """Two attackers of any weight send any votes against nine honest clients of weight 1."""
    truth = np.random.default_rng(seed).dirichlet(np.ones(3), 4).astype(np.float32)
    poison = [Knowledge(k.ids, k.values * np.float32(scale), k.weights) for k in attackers]
    result = RULES[name]([vote(*truth) for _ in range(9)] + poison)
    np.testing.assert_allclose(result.values, truth, atol=2e-3)


@given(attackers=st.lists(knowledge(rows=4), min_size=1, max_size=2), seed=st.integers(0, 99))
def test_distance_bounds_the_effect_of_a_minority(attackers: list[Knowledge], seed: int) -> None:
    truth = np.random.default_rng(seed).dirichlet(np.ones(3), 4).astype(np.float32)
    result = distance([vote(*truth) for _ in range(9)] + attackers)
    np.testing.assert_allclose(result.values, truth, atol=0.02)


@every_rule
def test_votes_without_rows_are_accepted_and_no_votes_are_refused(rule: Aggregate) -> None:
    assert len(rule([empty(3), empty(3)])) == 0
    with pytest.raises(ValueError, match="no uploads"):
        rule([])
    with pytest.raises(ValueError, match="different widths"):
        rule([empty(3), empty(4)])
