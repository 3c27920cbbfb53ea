"""DP-SGD: its gradients against single backward passes, its accounting against Opacus', and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.defences import dp_sgd
from edgefd.defences.accounting import sgd_epsilon, sgd_multiplier
from edgefd.defences.dp_sgd import DpSgd, run_local_training
from edgefd.federation.plan import RoundPlan, Training
from edgefd.learners.batches import Batch, labelled
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner
from edgefd.runs.prepare import prepare
from tests.support.configs import PRIVATE


def test_accounting_agrees_with_opacus() -> None:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(1.1, 0.02, 800)]
    ours, theirs = sgd_epsilon(1.1, 1e-5, 0.02, 800), accountant.get_epsilon(1e-5)
    assert ours == pytest.approx(theirs, rel=0.02)
    assert ours >= theirs - 1e-9  # Opacus tries more orders, and each is a bound


def test_the_noise_is_what_the_budget_takes() -> None:
    noise = sgd_multiplier(4.0, 1e-5, 0.1, 100)
    assert 3.99 < sgd_epsilon(noise, 1e-5, 0.1, 100) <= 4.0
    assert noise < sgd_multiplier(4.0, 1e-5, 0.1, 400)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_gradient_is_the_mean_of_clipped_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    own = labelled(rng.normal(0, 1, (12, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 12), 10)
    monkeypatch.setattr(dp_sgd, "noise_multiplier", lambda *_: 0.0)
    found: list[list[torch.Tensor]] = []
    learner = TorchLearner(build_model(name, (1, 28, 28), 10, 0), "sgd")
    expected = _by_hand(learner.model, own, clip=0.5)
    monkeypatch.setattr(learner, "step", lambda gradients, _: found.append([g.clone() for g in gradients]))
    plan = RoundPlan(0, 0, np.arange(1), Training(rounds=1, local_steps=1, batch_size=12, private_rows_per_batch=0))
    run_local_training(learner, own, 1, plan, np.random.default_rng(0), DpSgd(clip=0.5))  # q = 1: all rows in the batch
    for ours, hand in zip(found[0], expected, strict=True):
        torch.testing.assert_close(ours, hand, atol=1e-5, rtol=1e-4)


def _by_hand(model: nn.Module, own: Batch, clip: float) -> list[torch.Tensor]:
    total = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(len(own)):
        x, target = (torch.from_numpy(a[i : i + 1]) for a in (own.x, own.targets))
        loss = nn.functional.cross_entropy(model(x), target)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        total = [t + g * min(1.0, clip / float(norm)) for t, g in zip(total, gradients, strict=True)]
    return [t / len(own) for t in total]


def test_noise_has_its_variance_also_on_an_empty_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = TorchLearner(build_model("mlp", (1, 28, 28), 10, 0), "sgd")
    own = labelled(np.zeros((200, 1, 28, 28), np.float32), np.zeros(200, np.int64), 10)
    monkeypatch.setattr(dp_sgd, "poisson", lambda own, *_: iter([own.rows(np.empty(0, np.int64))]))
    monkeypatch.setattr(dp_sgd, "noise_multiplier", lambda *_: 3.0)
    found: list[torch.Tensor] = []
    monkeypatch.setattr(learner, "step", lambda gradients, _: found.extend(g.clone() for g in gradients))
    plan = RoundPlan(0, 0, np.arange(1), Training(local_steps=1, batch_size=50, private_rows_per_batch=0))
    assert run_local_training(learner, own, 1, plan, np.random.default_rng(0), DpSgd(clip=2.0)) == 0.0
    values = torch.cat([g.reshape(-1) for g in found])
    assert float(values.std()) == pytest.approx(3.0 * 2.0 / 50, rel=0.05)
    assert all(p.grad is None for p in learner.model.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"proxy": {"source": "contributed"}}, "raw private samples leave the client"),
        ({"train": {"local_steps": 2}}, "train.private_rows_per_batch=0"),
        ({"train": {"private_rows_per_batch": 0}}, "train.local_steps above 0"),
        ({"method": {"name": "edgefd"}}, "which rows a client of method edgefd answers for"),
        ({"method": {"name": "fedprox"}}, "method fedprox sends none"),
        ({"method": {"name": "indlearn"}}, "clients send nothing"),
        ({"method": {"name": "comet"}}, "trains clients in a way of its own"),
        ({"run": {"workers": 0, "learner": "onnx"}}, "run.learner=torch"),
        ({"baselines": ["selective_fd"]}, "which rows a client of method selective_fd"),
        ({"defence": {"name": "noise"}, "proxy": {"source": "contributed"}}, "no epsilon can be claimed"),
        ({"defence": {"name": "pate"}, "method": {"name": "edgefd"}}, "no noise covers"),
    ],
)
def test_what_would_make_a_claim_false_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_config(PRIVATE | change)


def test_batch_normalisation_is_refused() -> None:
    config = parse_config(PRIVATE | {"model": {"name": "tests.support.own_models:Noisy"}})
    with pytest.raises(UserError, match=r"defence dp_sgd: model tests\.own_models:Noisy cannot be trained by it"):
        prepare(config)


def test_a_budget_that_takes_no_noise_is_refused() -> None:
    with pytest.raises(UserError, match=r"epsilon 1e\+06 is more than noise of 0.1 times"):
        sgd_multiplier(1e6, 1e-5, 0.01, 10)
