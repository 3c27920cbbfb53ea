"""The losses: each against its closed form, its slope against differences, and the step against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge
from edgefd.learners.batches import Batch
from edgefd.learners.distillation_loss import (
    Distillation,
    Loss,
    Taid,
    divergence,
    kl_with_temperature,
    loss_of,
    per_row_temperature,
    pld,
    softmax,
    with_labels,
)
from edgefd.learners.torch_learner import TorchLearner


def some(n: int = 5, c: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, c)).astype(np.float32)
    return logits, rng.dirichlet(np.ones(c), n).astype(np.float32)


def knowledge(values: np.ndarray) -> Knowledge:
    return Knowledge(np.arange(len(values)), values, np.ones(len(values), np.float32))


LOSSES = {
    "kl at 2": lambda z, p: kl_with_temperature(z, p, 2.0),
    "kl at 0.5": lambda z, p: kl_with_temperature(z, p, 0.5),
    "pld": pld,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_targets_hold_the_slope_of_the_loss(name: str) -> None:
    loss: Loss = LOSSES[name]
    z, p = some()
    wide = z.astype(np.float64)
    slope = softmax(z) - loss(z, p)[0]
    assert slope.sum(1) == pytest.approx(0, abs=1e-6)
    for j in range(z.shape[1]):
        up, down = (wide + e * np.eye(4)[j] for e in (1e-5, -1e-5))
        assert slope[:, j] == pytest.approx((loss(up, p)[1] - loss(down, p)[1]) / 2e-5, abs=1e-5)


def test_at_temperature_one_the_targets_are_the_teacher() -> None:
    z, p = some()
    targets, losses = kl_with_temperature(z, p, 1.0)
    assert targets == pytest.approx(p, abs=1e-5)
    assert losses == pytest.approx(divergence(p, softmax(z)), abs=1e-5)


def test_pld_of_two_classes_is_weighted_cross_entropy() -> None:
    z, p = some(c=2)
    y = p.argmax(1)
    q = softmax(z)[np.arange(len(z)), y]
    assert pld(z, p)[1] == pytest.approx(-p.max(1) * np.log(q), abs=1e-6)
    assert pld(z, p)[0] == pytest.approx(softmax(z) - p.max(1)[:, None] * (softmax(z) - np.eye(2)[y]), abs=1e-6)


def test_pld_of_a_sure_teacher_is_cross_entropy() -> None:
    z, _ = some()
    y = np.array([2, 0, 1, 3, 3])
    hard = np.eye(4, dtype=np.float32)[y]
    targets, losses = pld(z, hard)
    assert targets == pytest.approx(hard, abs=1e-6)
    assert losses == pytest.approx(-np.log(softmax(z)[np.arange(5), y]), abs=1e-6)


def test_pld_is_the_weighted_likelihood_of_the_teachers_ranking() -> None:
    z, p = np.array([[0.5, -1.0, 2.0]], np.float32), np.array([[0.2, 0.5, 0.3]], np.float32)
    e = np.exp(z[0].astype(np.float64))
    places = 0.5 * np.log(e[1] / e.sum()) + 0.3 * np.log(e[2] / (e[2] + e[0]))
    assert pld(z, p)[1] == pytest.approx(-places, abs=1e-6)


@given(st.integers(2, 40), st.floats(1, 300), st.integers(0, 99))
def test_pld_stays_finite(c: int, scale: float, seed: int) -> None:
    z, p = some(3, c, seed)
    targets, losses = pld(z * np.float32(scale), np.round(p, 1))
    assert np.isfinite(targets).all()
    assert (losses >= -1e-9).all()


def test_taid_goes_from_the_client_to_the_teacher() -> None:
    z, p = some()
    assert Taid(1.0, 0.0, 0.0)(z, p)[0] == pytest.approx(p, abs=1e-5)
    assert Taid(0.0, 0.0, 0.0)(z, p)[0] == pytest.approx(softmax(z), abs=1e-6)
    between, losses = Taid(0.4, 0.0, 0.0)(z, p)
    assert between == pytest.approx(softmax(0.6 * z + 0.4 * np.log(p)), abs=1e-5)
    assert losses == pytest.approx(divergence(between, softmax(z)), abs=1e-6)


def test_taid_rises_as_published() -> None:
    z, p = some()
    taid = Taid(0.4, 0.0, 0.001)
    first = taid(z, p)[1].mean()
    share = 0.4 + 5e-4 * 0.5 * 0.6  # no fall of the loss is known yet: sigmoid(0)
    assert taid.share == pytest.approx(share)
    share = max(share, 0.4 + 0.6 * 0.001)
    second = taid(z, p)[1].mean()
    momentum = 0.01 * (first - second) / first
    assert taid.share == pytest.approx(share + 5e-4 / (1 + np.exp(-momentum)) * (1 - share))


def test_taid_is_at_the_teacher_when_the_run_ends() -> None:
    z, p = some()
    loss = loss_of(Distillation("taid"), 3, 3, 4)
    for _ in range(5):
        loss(z, p)
    assert isinstance(loss, Taid)
    assert loss.share == 1


def test_labels_are_mixed_in_where_the_client_has_them() -> None:
    _, p = some()
    k = knowledge(p)
    mixed = with_labels(k, np.array([1, 4, 9]), np.array([2, 0, 3]), 0.25)
    assert mixed.values[[0, 2, 3]] == pytest.approx(p[[0, 2, 3]])
    assert mixed.values[[1, 4]] == pytest.approx(0.75 * p[[1, 4]] + 0.25 * np.eye(4)[[2, 0]])
    assert with_labels(k, np.array([1]), np.array([2]), 1.0).values[1].tolist() == [0, 0, 1, 0]


def test_rows_are_softened_as_far_as_they_are_claimed() -> None:
    _, p = some()
    acceptance = np.array([0, 0.5, 1, 1, 1], np.float32)
    soft = per_row_temperature(knowledge(p), acceptance, 3.0).values
    assert soft[0] == pytest.approx(p[0], abs=1e-6)
    assert soft[1] == pytest.approx(softmax(np.log(p[1:2]) / 2)[0], abs=1e-6)
    assert soft[2] == pytest.approx(softmax(np.log(p[2:3]) / 3)[0], abs=1e-6)
    hard = per_row_temperature(knowledge(np.eye(4, dtype=np.float32)), acceptance, 3.0).values
    assert hard == pytest.approx(np.eye(4))


def ranked(z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """PLD in torch."""
    order = p.argsort(1, descending=True)
    s, w = z.gather(1, order), p.gather(1, order)
    return (w * (s.flip(1).logcumsumexp(1).flip(1) - s)).sum(1).mean()


def test_a_step_by_targets_is_a_step_of_the_loss() -> None:
    x, p = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32), some(6)[1]
    model = torch.nn.Linear(3, 4)
    other = torch.nn.Linear(3, 4)
    other.load_state_dict(model.state_dict())
    learner = TorchLearner(model, "sgd")
    targets = pld(learner.predict_logits(x), p)[0].astype(np.float32)
    learner.train([Batch(x, targets, np.ones(6, np.float32))], 0.1)
    ranked(other(torch.from_numpy(x)), torch.from_numpy(p)).backward()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter -= 0.1 * parameter.grad
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert found.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)
