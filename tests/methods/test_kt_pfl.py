"""KT-pFL: the coefficients, and the teacher of each client."""

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.methods.kt_pfl import METHOD, Config, coefficients
from tests.support.votes import Fixed, holder, report, server

REPORTS = [
    report(0, [0, 2], [[0.9, 0.1], [0.8, 0.2]]),
    report(1, [0, 2], [[0.8, 0.2], [0.9, 0.1]]),
    report(3, [0, 2], [[0.1, 0.9], [0.0, 1.0]]),
]


def test_without_steps_all_clients_receive_the_mean() -> None:
    teacher = METHOD.aggregate(server(REPORTS, Config(steps=0)))
    assert teacher.ids.tolist() == [0, 2, 3, 5, 9, 11]
    np.testing.assert_allclose(teacher.values[::2], np.full((3, 2), [0.6, 0.4]), atol=1e-6)


def test_a_step_follows_the_gradient_of_the_loss() -> None:
    """The gradient is compared with a numerical derivative of the loss."""
    votes = np.random.default_rng(0).dirichlet(np.ones(3), (4, 5))
    k, rho, step, h = 4, 0.7, 0.3, 1e-6

    def loss(c: np.ndarray) -> float:
        fit = sum(((votes[i] - np.tensordot(c[i], votes, 1)) ** 2).mean() for i in range(k))
        return float(fit + rho * ((c - 1 / k) ** 2).mean(1).sum())

    start = np.full((k, k), 1 / k)
    slope = np.zeros((k, k))
    for i, j in np.ndindex(k, k):
        up = start.copy()
        up[i, j] += h
        slope[i, j] = (loss(up) - loss(start)) / h
    moved = 5 * (start - step * slope)
    expected = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
    np.testing.assert_allclose(coefficients(votes, Config(rho, step, 1, 5.0)), expected, atol=1e-5)


@pytest.mark.parametrize("step", [1e5, 1e200])
def test_diverging_coefficients_are_reported(step: float) -> None:
    votes = np.random.default_rng(0).dirichlet(np.ones(3), (4, 5))
    with pytest.raises(UserError, match=r"method\.step=1\S+ is too large"):
        coefficients(votes, Config(step=step))


def test_clients_with_similar_votes_have_large_coefficients_for_each_other() -> None:
    c = coefficients(np.stack([r.knowledge.values for r in REPORTS]).astype(float), Config())
    np.testing.assert_allclose(c.sum(1), 1, rtol=1e-6)
    assert c[0, 1] > c[0, 2]
    assert c[2, 2] > c[2, 0]


def test_a_client_receives_only_its_own_teacher() -> None:
    teacher = METHOD.aggregate(server(REPORTS, Config()))
    batch = METHOD.distillation_targets(holder(3, Fixed(), Config()), teacher)
    assert batch.x.tolist() == [[0], [2]]
    np.testing.assert_array_equal(batch.targets, teacher.values[-2:])
    assert len(METHOD.distillation_targets(holder(2, Fixed(), Config()), teacher)) == 0
