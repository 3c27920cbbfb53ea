"""SCARLET: sharpening, and the cache of labels."""

import numpy as np

from edgefd.methods.scarlet import METHOD, Config, due, sharpened
from tests.support.votes import Fixed, holder, report, server, votes


def test_enhanced_era_is_a_normalised_power() -> None:
    p = np.array([[0.5, 0.3, 0.2]], np.float32)
    np.testing.assert_allclose(sharpened(p, 3.0), [[0.125 / 0.16, 0.027 / 0.16, 0.008 / 0.16]], rtol=1e-5)
    np.testing.assert_allclose(sharpened(p, 1.0), p, rtol=1e-6)


def test_a_power_that_underflows_leaves_the_largest_classes() -> None:
    p = np.array([[0.3, 0.3, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]], np.float32)
    np.testing.assert_allclose(sharpened(p, 5000.0), [[0.5, 0.5, 0, 0], [0, 0, 0, 1]], atol=1e-6)


def test_a_row_of_zeros_as_a_coarse_codec_makes_it_is_uniform() -> None:
    p = np.array([[0, 0, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    assert sharpened(p, 2.0).tolist() == [[0.25] * 4, [0.5, 0.5, 0, 0]]


def test_every_row_is_queried_once_in_a_lifetime_and_in_the_first_two_rounds() -> None:
    times_due = sum(due(np.arange(10), r, 4).astype(int) for r in range(2, 6))
    assert times_due.tolist() == [1] * 10
    assert due(np.arange(10), 0, 4).all()
    assert due(np.arange(10), 1, 4).all()


def test_only_rows_that_are_due_are_sent() -> None:
    sent = METHOD.upload(holder(0, Fixed(logits=[[0, 0], [1, 0], [2, 0]]), Config(lifetime=3), round=4))
    assert sent.ids.tolist() == [2]
    np.testing.assert_allclose(sent.values[0, 0], 1 / (1 + np.exp(-2)), rtol=1e-6)


def test_rows_that_were_not_sent_keep_the_label_of_the_last_teacher() -> None:
    old = votes([0, 1, 2], [[1, 0], [0, 1], [0.5, 0.5]])
    teacher = METHOD.aggregate(server([report(0, [1], [[0.75, 0.25]])], Config(beta=2.0), 4, old))
    assert teacher.ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(teacher.values, [[1, 0], [0.9, 0.1], [0.5, 0.5]], rtol=1e-6)


def test_a_round_without_rows_keeps_the_last_teacher() -> None:
    old = votes([0, 1], [[1, 0], [0, 1]])
    teacher = METHOD.aggregate(server([report(0, [], np.empty((0, 2)))], Config(), 4, old))
    assert teacher.equals(old)
