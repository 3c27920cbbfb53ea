"""Row weights of a teacher: formulas, and properties for any votes."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.poisoning.robust_aggregation import Aggregator, aggregate_of
from edgefd.poisoning.row_weight import RowWeight, with_row_weights
from tests.support.strategies import knowledge

RULES: tuple[RowWeight, ...] = get_args(RowWeight)


def sent(ids: list[int], weights: list[float]) -> Knowledge:
    return Knowledge(np.array(ids), np.full((len(ids), 2), 0.5, np.float32), np.array(weights, np.float32))


@given(st.lists(knowledge(), min_size=1, max_size=5), st.sampled_from(RULES))
def test_row_weights_change_no_label_and_are_valid(uploads: list[Knowledge], rule: RowWeight) -> None:
    plain = weighted_mean(uploads)
    teacher = aggregate_of(Aggregator(row_weight=rule))(uploads)
    assert np.array_equal(teacher.ids, plain.ids)
    assert np.array_equal(teacher.values, plain.values)
    assert ((teacher.weights >= 0.01 - 1e-7) & (teacher.weights <= 1)).all()
    if rule == "one":
        assert teacher.equals(plain)


@given(st.permutations(range(3)))
def test_the_mass_does_not_depend_on_the_order_of_the_clients(order: list[int]) -> None:
    uploads = [sent([0, 1], [0.5, 0.25]), sent([1, 2], [0.25, 0.125]), sent([3], [1.0])]
    teacher = weighted_mean(uploads)
    shuffled = with_row_weights(teacher, [uploads[i] for i in order], "mass")
    # masses 0.5, 0.5, 0.125 and 1: the median is 0.5
    np.testing.assert_allclose(shuffled.weights, [1, 1, 0.25, 1])


def test_a_faint_lone_answer_teaches_less_than_the_answers_of_owners() -> None:
    uploads = [sent([0, 1, 2], [1, 1, 1]), sent([3], [0.05])]
    assert with_row_weights(weighted_mean(uploads), uploads, "mass").weights.tolist() == pytest.approx([1, 1, 1, 0.05])


def test_equal_votes_of_all_clients_have_mass_one() -> None:
    uploads = [sent([0, 1], [1, 1])] * 3
    assert with_row_weights(weighted_mean(uploads), uploads, "mass").weights.tolist() == [1, 1]


def test_agreement_and_entropy_weigh_a_row_by_its_label() -> None:
    values = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4], np.float32)
    teacher = Knowledge(np.arange(3), values, np.ones(3, np.float32))
    np.testing.assert_allclose(with_row_weights(teacher, [teacher], "agreement").weights, [1, 0.5, 0.25])
    np.testing.assert_allclose(with_row_weights(teacher, [teacher], "entropy").weights, [1, 0.5, 0.01], atol=1e-6)


def test_rows_that_a_robust_rule_left_out_have_no_mass() -> None:
    uploads = [sent([0, 1], [1, 0.5]), sent([0], [1])]
    teacher = aggregate_of(Aggregator(min_voters=2, row_weight="mass"))(uploads)
    assert teacher.ids.tolist() == [0]
    assert teacher.weights.tolist() == [1]
