"""DS-FL: entropy reduction aggregation."""

import numpy as np
import pytest

from edgefd.federation.report import Report
from edgefd.methods.dsfl import METHOD, Config
from tests.support.votes import report, server


def vote(*row: float) -> Report:
    return report(0, [4], [list(row)])


def test_era_is_a_softmax_of_the_mean_over_the_temperature() -> None:
    teacher = METHOD.aggregate(server([vote(0.9, 0.1), vote(0.5, 0.5)], Config(temperature=0.2)))  # mean 0.7, 0.3
    assert teacher.ids.tolist() == [4]
    assert teacher.values[0, 0] == pytest.approx(1 / (1 + np.exp(-0.4 / 0.2)), rel=1e-5)


def test_the_largest_probability_after_era_is_bounded() -> None:
    teacher = METHOD.aggregate(server([vote(1, 0, 0)], Config(temperature=0.5)))
    assert teacher.values.max() == pytest.approx(np.exp(2) / (np.exp(2) + 2), rel=1e-5)


def test_with_aggregation_mean_the_teacher_is_the_plain_mean() -> None:
    teacher = METHOD.aggregate(server([vote(0.9, 0.1), vote(0.5, 0.5)], Config(aggregation="mean")))
    np.testing.assert_allclose(teacher.values, [[0.7, 0.3]], rtol=1e-6)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        Config(temperature=0)
