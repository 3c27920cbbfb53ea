"""Weighted-FD: soft labels weighted by the true label."""

import numpy as np
import pytest

from edgefd.core.errors import RunError
from edgefd.methods.weighted_fd import METHOD, weighted
from tests.support.votes import report, server, votes


def test_votes_are_weighted_by_their_probability_of_the_true_label() -> None:
    uploads = [votes([0, 1], [[0.8, 0.2], [0.5, 0.5]]), votes([1], [[0.1, 0.9]])]
    teacher = weighted(uploads, np.array([0, 1]))
    first = -1 / np.log(0.8) * np.array([0.8, 0.2])
    second = -1 / np.log(0.5) * np.array([0.5, 0.5]) - 1 / np.log(0.9) * np.array([0.1, 0.9])
    expected = [np.exp(v) / np.exp(v).sum() for v in (first, second)]
    assert teacher.ids.tolist() == [0, 1]
    np.testing.assert_allclose(teacher.values, expected, rtol=1e-4)


def test_votes_of_probability_zero_and_one_give_finite_labels() -> None:
    teacher = weighted([votes([0], [[1, 0]]), votes([0], [[0, 1]])], np.array([0]))
    assert np.isfinite(teacher.values).all()
    assert teacher.values[0, 0] > 0.99


def test_a_server_without_labels_is_refused() -> None:
    with pytest.raises(RunError, match="the server has none"):
        METHOD.aggregate(server([report(0, [0], [[1, 0]])]))
    assert METHOD.proxy_labels
