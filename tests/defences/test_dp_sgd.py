"""DP-SGD: gradients against single backward passes, accounting against Opacus, and refused configs."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.core.seeding import noise_key
from edgefd.defences import dp_sgd
from edgefd.defences.accounting import sgd_epsilon, sgd_multiplier
from edgefd.defences.dp_sgd import DpSgd
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import ClientContext, client_context
from edgefd.federation.terms import FederationTerms
from edgefd.federation.training import Training
from edgefd.learners.batches import Batch, labelled
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner
from edgefd.runs.prepare import prepare
from tests.support.configs import PRIVATE


def test_accounting_agrees_with_opacus() -> None:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(1.1, 0.02, 800)]
    epsilon, oracle = sgd_epsilon(1.1, 1e-5, 0.02, 800), accountant.get_epsilon(1e-5)
    assert epsilon == pytest.approx(oracle, rel=0.02)
    assert epsilon >= oracle - 1e-9  # Opacus tries more orders, and each order gives a bound


def test_the_noise_multiplier_uses_the_whole_budget() -> None:
    noise = sgd_multiplier(4.0, 1e-5, 0.1, 100)
    assert 3.99 < sgd_epsilon(noise, 1e-5, 0.1, 100) <= 4.0
    assert noise < sgd_multiplier(4.0, 1e-5, 0.1, 400)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_gradient_of_dp_sgd_is_the_mean_of_clipped_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    private = labelled(rng.normal(0, 1, (12, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 12), 10)
    monkeypatch.setattr(dp_sgd, "noise_multiplier", lambda *_: 0.0)
    gradients_of_steps: list[list[torch.Tensor]] = []
    learner = TorchLearner(build_model(name, (1, 28, 28), 10, 0), "sgd")
    expected = _mean_of_clipped_gradients(learner.model, private, clip=0.5)
    monkeypatch.setattr(learner, "step", lambda gradients, _: gradients_of_steps.append([g.clone() for g in gradients]))
    training = Training(rounds=1, local_steps=1, batch_size=12, private_rows_per_batch=0)  # q = 1: all rows
    dp_sgd.local_step(client(learner, private, training), DpSgd(clip=0.5))
    for gradient, reference in zip(gradients_of_steps[0], expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"local_steps": 2}, [2, 2]),
        ({"local_epochs": 1}, [5, 5]),
        ({"local_steps": 1, "warmup_steps": 3}, [4, 1]),
    ],
    ids=str,
)
def test_the_noise_covers_every_step_that_the_settings_ask_for(
    settings: dict[str, int], steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    accounted: list[int] = []
    monkeypatch.setattr(dp_sgd, "sgd_multiplier", lambda *arguments: accounted.append(arguments[-1]) or 1.0)
    private = labelled(np.zeros((50, 1, 28, 28), np.float32), np.zeros(50, np.int64), 10)
    training = Training(rounds=2, local_batch_size=10, private_rows_per_batch=0, **settings)  # type: ignore[arg-type]
    made = []
    for round in range(2):
        learner = TorchLearner(build_model("linear", (1, 28, 28), 10, 0), "sgd")
        monkeypatch.setattr(learner, "step", lambda *_, round=round: made.append(round))
        ctx = client(learner, private, training)
        dp_sgd.local_step(dataclasses.replace(ctx, plan=dataclasses.replace(ctx.plan, round=round)), DpSgd())
    assert [made.count(round) for round in range(2)] == steps
    assert accounted == [sum(steps)] * 2


def client(learner: TorchLearner, private: Batch, training: Training) -> ClientContext:
    none = np.empty(0, np.int64)
    data = ClientData(0, private.x, private.targets.argmax(1), private.x[:0], none, none)
    proxy = ProxySet(private.x[:1], np.full(1, -1))
    terms = FederationTerms("", {}, "float32", 0, private.targets.shape[1], "", training=training)
    return client_context(data, learner, proxy, np.ones(1, np.float32), terms, None)


def _mean_of_clipped_gradients(model: nn.Module, private: Batch, clip: float) -> list[torch.Tensor]:
    total = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(len(private)):
        x, target = (torch.from_numpy(a[i : i + 1]) for a in (private.x, private.targets))
        loss = nn.functional.cross_entropy(model(x), target)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        total = [t + g * min(1.0, clip / float(norm)) for t, g in zip(total, gradients, strict=True)]
    return [t / len(private) for t in total]


def test_noise_on_an_empty_batch_has_its_full_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = TorchLearner(build_model("mlp", (1, 28, 28), 10, 0), "sgd")
    private = labelled(np.zeros((200, 1, 28, 28), np.float32), np.zeros(200, np.int64), 10)
    monkeypatch.setattr(dp_sgd, "poisson", lambda private, *_: iter([private.rows(np.empty(0, np.int64))]))
    monkeypatch.setattr(dp_sgd, "noise_multiplier", lambda *_: 3.0)
    noise: list[torch.Tensor] = []
    monkeypatch.setattr(learner, "step", lambda gradients, _: noise.extend(g.clone() for g in gradients))
    training = Training(local_steps=1, batch_size=50, private_rows_per_batch=0)
    assert dp_sgd.local_step(client(learner, private, training), DpSgd(clip=2.0)) == 0.0
    values = torch.cat([g.reshape(-1) for g in noise])
    assert float(values.std()) == pytest.approx(3.0 * 2.0 / 50, rel=0.05)
    assert all(p.grad is None for p in learner.model.parameters())


def test_only_the_key_of_the_client_determines_batches_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parties know the seed of the run, and could otherwise repeat both."""
    rng = np.random.default_rng(0)
    private = labelled(rng.normal(0, 1, (60, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 60), 10)

    def gradients(key: tuple[int, ...], seed: int, model: nn.Module, multiplier: float) -> np.ndarray:
        monkeypatch.setattr(dp_sgd, "noise_multiplier", lambda *_: multiplier)
        learner, sent = TorchLearner(model, "sgd"), list[np.ndarray]()
        monkeypatch.setattr(learner, "step", lambda gradients, _: sent.extend(g.numpy().ravel() for g in gradients))
        ctx = client(learner, private, Training(local_steps=1, batch_size=30, private_rows_per_batch=0))
        dp_sgd.local_step(dataclasses.replace(ctx, noise_key=key, rng=np.random.default_rng(seed)), DpSgd())
        return np.concatenate(sent)

    key, other, model = noise_key(1), noise_key(2), build_model("linear", (1, 28, 28), 10, 0)
    for multiplier in (0.0, 1.0):
        assert np.array_equal(gradients(key, 1, model, multiplier), gradients(key, 2, model, multiplier))
        assert not np.array_equal(gradients(key, 1, model, multiplier), gradients(other, 1, model, multiplier))
    monkeypatch.setattr(dp_sgd, "poisson", lambda private, *_: iter([private]))
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    assert np.array_equal(gradients(key, 1, dropping, 0.0), gradients(other, 1, dropping, 0.0))
    assert not np.array_equal(gradients(key, 1, dropping, 0.0), gradients(key, 2, dropping, 0.0))


def test_parameters_that_need_no_gradient_get_none() -> None:
    model = build_model("mlp", (1, 28, 28), 10, 0)
    model.fc1.requires_grad_(False)
    learner = TorchLearner(model, "sgd")
    before = learner.state()
    private = labelled(np.ones((20, 1, 28, 28), np.float32), np.zeros(20, np.int64), 10)
    training = Training(local_steps=2, batch_size=10, private_rows_per_batch=0)
    dp_sgd.local_step(client(learner, private, training), DpSgd())
    changed = {name for name, value in learner.state().items() if not np.array_equal(value, before[name])}
    assert {name for name in changed if name.startswith("model/")} == {
        f"model/fc{i}.{k}" for i in (2, 3) for k in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proxy": {"source": "contributed"}}, "raw private samples leave the client"),
        ({"train": {"local_steps": 2, "adjusted_steps": 0}}, "train.private_rows_per_batch=0"),
        ({"train": {"private_rows_per_batch": 0, "local_steps": 2}}, "train.adjusted_steps=0"),
        ({"train": {"private_rows_per_batch": 0, "adjusted_steps": 0}}, "train.local_steps above 0"),
        ({"method": {"name": "edgefd"}}, "accounting does not cover method edgefd. Which rows a client accepts"),
        ({"method": {"name": "fedprox"}}, "method fedprox sends none"),
        ({"method": {"name": "indlearn"}}, "clients of method indlearn send nothing"),
        ({"method": {"name": "comet"}}, "accounting does not cover method comet.* clients train in another way"),
        ({"run": {"workers": 0, "learner": "onnx"}}, "run.learner=torch"),
        ({"baselines": ["selective_fd"]}, "accounting does not cover method selective_fd"),
        ({"defence": {"name": "noise"}, "proxy": {"source": "contributed"}}, "no epsilon can be claimed"),
        (
            {"defence": {"name": "pate"}, "method": {"name": "edgefd"}},
            "defence pate: its accounting does not cover method edgefd",
        ),
    ],
)
def test_a_config_for_which_the_guarantee_does_not_hold_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(PRIVATE | change)


def test_a_model_with_batch_normalisation_is_refused() -> None:
    config = parse_config(PRIVATE | {"model": {"name": "tests.support.own_models:Noisy"}})
    with pytest.raises(UserError, match=r"defence dp_sgd cannot train model tests\.support\.own_models:Noisy"):
        prepare(config)


def test_a_budget_that_needs_almost_no_noise_is_refused() -> None:
    with pytest.raises(UserError, match=r"epsilon 1e\+06 needs almost no noise \(noise of 0.1 times"):
        sgd_multiplier(1e6, 1e-5, 0.01, 10)
