"""KT-pFL: the coefficients, and the teacher of each client."""

from dataclasses import replace

import numpy as np

from edgefd.federation.context import ServerContext
from edgefd.methods.kt_pfl import METHOD, Config, step
from tests.support.votes import Fixed, holder, report, server

REPORTS = [
    report(0, [0, 2], [[0.9, 0.1], [0.8, 0.2]]),
    report(1, [0, 2], [[0.8, 0.2], [0.9, 0.1]]),
    report(3, [0, 2], [[0.1, 0.9], [0.0, 1.0]]),
]


def rounds(ctx: ServerContext, n: int) -> np.ndarray:
    """Aggregate the same reports n times, and return the coefficients."""
    for _ in range(n):
        METHOD.aggregate(ctx)
    return ctx.state["coefficients"]


def test_a_sharpness_of_0_gives_all_clients_the_mean() -> None:
    teacher = METHOD.aggregate(server(REPORTS, Config(sharpness=0)))
    assert teacher.ids.tolist() == [0, 2, 3, 5, 9, 11]
    np.testing.assert_allclose(teacher.values[::2], np.full((3, 2), [0.6, 0.4]), atol=1e-6)


def test_a_step_follows_the_gradient_of_the_loss() -> None:
    """The direction of the step is compared with a numerical derivative of the loss."""
    votes = np.random.default_rng(0).dirichlet(np.ones(3), (4, 5))
    k, rho, h = 4, 0.7, 1e-6

    def loss(c: np.ndarray) -> float:
        fit = sum(((votes[i] - np.tensordot(c[i], votes, 1)) ** 2).mean() for i in range(k))
        return float(fit + rho * ((c - 1 / k) ** 2).mean(1).sum())

    start = np.random.default_rng(1).dirichlet(np.ones(k), k)
    slope = np.zeros((k, k))
    for i, j in np.ndindex(k, k):
        up, down = start.copy(), start.copy()
        up[i, j] += h
        down[i, j] -= h
        slope[i, j] = (loss(up) - loss(down)) / (2 * h)
    change = np.log(step(start, votes, Config(rho, 5.0))) / 5 - start  # the softmax is undone, up to a constant
    change -= change.mean(1, keepdims=True)
    slope -= slope.mean(1, keepdims=True)
    sizes = -(change * slope).sum(1) / (slope**2).sum(1)
    np.testing.assert_allclose(change, -sizes[:, None] * slope, atol=1e-6)
    powers = np.log(sizes) / np.log(5)
    np.testing.assert_allclose(powers, powers.round(), atol=1e-4)


def test_the_mean_change_of_the_coefficients_of_each_client_is_from_1_to_5_percent() -> None:
    rng = np.random.default_rng(0)
    for scale in (1.0, 0.1, 0.03):
        votes = np.full((4, 5, 3), 1 / 3) * (1 - scale) + scale * rng.dirichlet(np.ones(3), (4, 5))
        change = np.log(step(np.full((4, 4), 0.25), votes, Config(0.0, 1.0)))
        spread = change.max(1) - change.min(1)
        assert (spread > 0.0001).all()
        assert (spread < 0.4).all()


def test_coefficients_are_kept_and_personalisation_develops() -> None:
    ctx = server(REPORTS, Config())
    first, later = rounds(ctx, 1).copy(), rounds(ctx, 9)
    np.testing.assert_allclose(later.sum(1), 1, rtol=1e-6)
    assert (first[:2, 2] > later[:2, 2]).all(), "the client that disagrees loses weight from round to round"
    assert later[2, 2] > first[2, 2] > 1 / 3


def test_the_coefficients_of_an_absent_client_stay_and_a_new_client_begins_with_the_mean() -> None:
    ctx = server(REPORTS[:2], Config())
    METHOD.aggregate(ctx)
    assert ctx.state["clients"].tolist() == [0, 1]
    before = ctx.state["coefficients"].copy()
    late = replace(ctx, reports=[REPORTS[2], report(7, [0, 2], [[0.1, 0.9], [0.0, 1.0]])])
    METHOD.aggregate(late)
    assert late.state["clients"].tolist() == [0, 1, 3, 7]
    c = late.state["coefficients"]
    np.testing.assert_allclose(c[:2, :2], before / 2)
    np.testing.assert_allclose(c[:2, 2:], 0.25)
    np.testing.assert_allclose(c.sum(1), 1, rtol=1e-9)


def test_a_client_receives_only_its_own_teacher() -> None:
    teacher = METHOD.aggregate(server(REPORTS, Config()))
    batch = METHOD.distillation_targets(holder(3, Fixed(), Config()), teacher)
    assert batch.x.tolist() == [[0], [2]]
    np.testing.assert_array_equal(batch.targets, teacher.values[-2:])
    assert len(METHOD.distillation_targets(holder(2, Fixed(), Config()), teacher)) == 0
