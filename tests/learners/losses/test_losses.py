"""The losses of distillation against closed forms, numerical gradients and a training step in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge
from edgefd.learners.batches import Batch
from edgefd.learners.losses import loss_of
from edgefd.learners.losses._loss import Schedule, StepLoss
from edgefd.learners.losses.kl import Kl, kl_with_temperature
from edgefd.learners.losses.l1 import l1_up_to_shift
from edgefd.learners.losses.mixed import Mixed, with_labels
from edgefd.learners.losses.pld import pld
from edgefd.learners.losses.swing import Swing, per_row_temperature
from edgefd.learners.losses.taid import Interpolation, Taid
from edgefd.learners.probabilities import divergence, softmax64
from edgefd.learners.torch_learner import TorchLearner


def random_rows(n: int = 5, c: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, c)).astype(np.float32)
    return logits, rng.dirichlet(np.ones(c), n).astype(np.float32)


def knowledge(values: np.ndarray) -> Knowledge:
    return Knowledge(np.arange(len(values)), values, np.ones(len(values), np.float32))


SETTINGS = {"kl": {}, "l1": {}, "pld": {}, "taid": {}, "mixed": {}, "swing": {"temperature": 2.0}}
LOSSES = {
    "kl at 2": lambda z, p: kl_with_temperature(z, p, 2.0),
    "kl at 0.5": lambda z, p: kl_with_temperature(z, p, 0.5),
    "l1": l1_up_to_shift,
    "pld": pld,
}


@pytest.mark.parametrize("name", LOSSES)
def test_softmax_minus_targets_is_the_gradient_of_the_loss(name: str) -> None:
    loss: StepLoss = LOSSES[name]
    z, p = random_rows()
    wide = z.astype(np.float64)
    gradient = softmax64(z) - loss(z, p)[0]
    assert gradient.sum(1) == pytest.approx(0, abs=1e-6)
    for j in range(z.shape[1]):
        up, down = (wide + e * np.eye(4)[j] for e in (1e-5, -1e-5))
        assert gradient[:, j] == pytest.approx((loss(up, p)[1] - loss(down, p)[1]) / 2e-5, abs=1e-5)


def test_targets_of_kl_at_temperature_one_are_the_teachers_soft_labels() -> None:
    z, p = random_rows()
    targets, losses = kl_with_temperature(z, p, 1.0)
    assert targets == pytest.approx(p, abs=1e-5)
    assert losses == pytest.approx(divergence(p, softmax64(z)), abs=1e-5)


def kl_of_torch(logits: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(logits.log_softmax(1), p, reduction="batchmean")


def test_soft_cross_entropy_and_kl_at_temperature_one_have_the_same_gradient() -> None:
    """Their difference is the entropy of the teacher, which does not depend on the client's logits."""
    z, p = (torch.tensor(a, dtype=torch.float64) for a in random_rows())
    gradients = []
    for loss in (torch.nn.functional.cross_entropy, kl_of_torch):
        logits = z.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(logits, p), logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    of_learner = (torch.softmax(z, 1) - p) / len(z)
    torch.testing.assert_close(gradients[0], of_learner)


def test_l1_is_the_absolute_difference_of_logits_after_the_best_shift() -> None:
    z, p = random_rows(c=5)
    wide, logs = z.astype(np.float64), np.log(p.astype(np.float64))
    shifts = np.linspace(-9, 9, 3601)
    best = np.array([min(np.abs(row - log - s).mean() for s in shifts) for row, log in zip(wide, logs, strict=True)])
    assert l1_up_to_shift(z, p)[1] == pytest.approx(best, abs=3e-3)
    assert l1_up_to_shift(z + 7, p)[1] == pytest.approx(l1_up_to_shift(z, p)[1], abs=1e-5)


@given(st.integers(2, 9), st.integers(0, 99))
def test_the_gradient_of_l1_is_a_subgradient_that_sums_to_zero_even_with_ties(c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, p = rng.integers(0, 3, (4, c)).astype(np.float32), np.full((4, c), 1 / c, np.float32)
    gradient = softmax64(z) - l1_up_to_shift(z, p)[0]
    assert gradient.sum(1) == pytest.approx(0, abs=1e-9)
    assert np.abs(gradient).max() <= 1 / c + 1e-9


def test_a_client_that_agrees_with_the_teacher_learns_nothing_by_l1() -> None:
    _, p = random_rows()
    targets, losses = l1_up_to_shift(np.log(p) + np.float32(3), p)
    assert losses == pytest.approx(0, abs=1e-5)
    assert np.abs(targets - p).max() < 0.3  # at most 1 / C away: rounding decides the signs


def test_pld_of_two_classes_is_weighted_cross_entropy() -> None:
    z, p = random_rows(c=2)
    y = p.argmax(1)
    q = softmax64(z)[np.arange(len(z)), y]
    assert pld(z, p)[1] == pytest.approx(-p.max(1) * np.log(q), abs=1e-6)
    assert pld(z, p)[0] == pytest.approx(softmax64(z) - p.max(1)[:, None] * (softmax64(z) - np.eye(2)[y]), abs=1e-6)


def test_pld_of_a_one_hot_teacher_is_cross_entropy() -> None:
    z, _ = random_rows()
    y = np.array([2, 0, 1, 3, 3])
    hard = np.eye(4, dtype=np.float32)[y]
    targets, losses = pld(z, hard)
    assert targets == pytest.approx(hard, abs=1e-6)
    assert losses == pytest.approx(-np.log(softmax64(z)[np.arange(5), y]), abs=1e-6)


def test_pld_is_the_weighted_likelihood_of_the_teachers_ranking() -> None:
    z, p = np.array([[0.5, -1.0, 2.0]], np.float32), np.array([[0.2, 0.5, 0.3]], np.float32)
    e = np.exp(z[0].astype(np.float64))
    places = 0.5 * np.log(e[1] / e.sum()) + 0.3 * np.log(e[2] / (e[2] + e[0]))
    assert pld(z, p)[1] == pytest.approx(-places, abs=1e-6)


@given(st.integers(2, 40), st.floats(1, 300), st.integers(0, 99))
def test_targets_and_losses_of_pld_are_finite_for_large_logits(c: int, scale: float, seed: int) -> None:
    z, p = random_rows(3, c, seed)
    targets, losses = pld(z * np.float32(scale), np.round(p, 1))
    assert np.isfinite(targets).all()
    assert (losses >= -1e-9).all()


def test_targets_of_taid_move_from_the_client_to_the_teacher() -> None:
    z, p = random_rows()
    assert Interpolation(1.0, 0.0, 0.0)(z, p)[0] == pytest.approx(p, abs=1e-5)
    assert Interpolation(0.0, 0.0, 0.0)(z, p)[0] == pytest.approx(softmax64(z), abs=1e-6)
    between, losses = Interpolation(0.4, 0.0, 0.0)(z, p)
    assert between == pytest.approx(softmax64(0.6 * z + 0.4 * np.log(p)), abs=1e-5)
    assert losses == pytest.approx(divergence(between, softmax64(z)), abs=1e-6)


def test_the_share_of_taid_rises_as_in_the_published_code() -> None:
    z, p = random_rows()
    taid = Interpolation(0.4, 0.0, 0.001)
    first = taid(z, p)[1].mean()
    share = 0.4 + 5e-4 * 0.5 * 0.6  # the loss has no previous value yet: sigmoid(0)
    assert taid.share == pytest.approx(share)
    share = max(share, 0.4 + 0.6 * 0.001)
    second = taid(z, p)[1].mean()
    momentum = 0.01 * (first - second) / first
    assert taid.share == pytest.approx(share + 5e-4 / (1 + np.exp(-momentum)) * (1 - share))


def test_the_share_of_taid_is_one_at_the_end_of_the_run() -> None:
    z, p = random_rows()
    first, last = (Taid().step_loss(Schedule(round, 3, 4)) for round in (1, 3))
    for _ in range(5):
        first(z, p)
        last(z, p)
    assert isinstance(first, Interpolation)
    assert isinstance(last, Interpolation)
    assert 0.4 < first.share < 0.9
    assert last.share == 1


def test_labels_are_mixed_into_the_rows_that_the_client_contributed() -> None:
    _, p = random_rows()
    k = knowledge(p)
    mixed = with_labels(k, np.array([1, 4, 9]), np.array([2, 0, 3]), 0.25)
    assert mixed.values[[0, 2, 3]] == pytest.approx(p[[0, 2, 3]])
    assert mixed.values[[1, 4]] == pytest.approx(0.75 * p[[1, 4]] + 0.25 * np.eye(4)[[2, 0]])
    assert with_labels(k, np.array([1]), np.array([2]), 1.0).values[1].tolist() == [0, 0, 1, 0]
    prepared = Mixed(label_share=0.25).prepare(k, np.ones(5, np.float32), np.array([1, 4, 9]), np.array([2, 0, 3]))
    assert prepared.equals(mixed)
    assert Mixed().prepare(k, np.ones(5, np.float32), np.empty(0, np.int64), None) is k


def test_rows_with_a_higher_acceptance_weight_are_softened_more() -> None:
    _, p = random_rows()
    acceptance = np.array([0, 0.5, 1, 1, 1], np.float32)
    soft = per_row_temperature(knowledge(p), acceptance, 3.0).values
    assert soft[0] == pytest.approx(p[0], abs=1e-6)
    assert soft[1] == pytest.approx(softmax64(np.log(p[1:2]) / 2)[0], abs=1e-6)
    assert soft[2] == pytest.approx(softmax64(np.log(p[2:3]) / 3)[0], abs=1e-6)
    zeros = per_row_temperature(knowledge(np.zeros((2, 4), np.float32)), acceptance, 3.0).values
    assert (zeros == 0.25).all()  # a coarse codec makes zeros of many small values
    hard = per_row_temperature(knowledge(np.eye(4, dtype=np.float32)), acceptance, 3.0).values
    assert hard == pytest.approx(np.eye(4))
    contributed = np.empty(0, np.int64)
    prepared = Swing(temperature=3.0).prepare(knowledge(p), acceptance, contributed, None)
    assert prepared.values == pytest.approx(soft)


def test_only_losses_whose_targets_depend_on_logits_are_computed_at_each_step() -> None:
    stepwise = {name: loss_of({"loss": name, **more}).stepwise for name, more in SETTINGS.items()}
    assert stepwise == {"kl": False, "l1": True, "pld": True, "taid": True, "mixed": False, "swing": False}
    assert Kl(temperature=2).stepwise


def pld_in_torch(z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Return the mean PLD loss, computed with torch operators."""
    order = p.argsort(1, descending=True)
    s, w = z.gather(1, order), p.gather(1, order)
    return (w * (s.flip(1).logcumsumexp(1).flip(1) - s)).sum(1).mean()


def test_a_training_step_with_pld_targets_is_a_gradient_step_of_pld() -> None:
    x, p = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32), random_rows(6)[1]
    model = torch.nn.Linear(3, 4)
    other = torch.nn.Linear(3, 4)
    other.load_state_dict(model.state_dict())
    learner = TorchLearner(model, "sgd")
    targets = pld(learner.predict_logits(x), p)[0].astype(np.float32)
    learner.train([Batch(x, targets, np.ones(6, np.float32))], 0.1)
    pld_in_torch(other(torch.from_numpy(x)), torch.from_numpy(p)).backward()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter -= 0.1 * parameter.grad
    for parameter, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert parameter.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)
