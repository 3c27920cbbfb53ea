"""`DualHead`: each head learns from its own rows, and predictions combine both heads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgefd.config.load import parse_config
from edgefd.config.schema import Model
from edgefd.core.errors import UserError
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.dual_head import DualHead, dual_head_targets, mixture
from edgefd.learners.probabilities import softmax64
from edgefd.learners.torch_learner import TorchLearner
from edgefd.runs.export_bundle import export_config
from tests.support.small_runs import config, teachers

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
T = np.random.default_rng(1).dirichlet(np.ones(4), 6).astype(np.float32)


def model() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 8)


def batch() -> Batch:
    return Batch(X, T, np.ones(6, np.float32))


@pytest.mark.parametrize("n_private", [0, 2, 6])
def test_a_step_minimises_the_loss_of_each_row_on_the_head_of_that_row(n_private: int) -> None:
    learner, reference = DualHead(TorchLearner(model(), "sgd")), model()
    loss = learner.train([batch()], 0.1) if n_private == 6 else learner.distil([batch()], 0.1, n_private)
    z = reference(torch.from_numpy(X))
    n = 6 - n_private
    log_probs = torch.cat([z[:n, 4:], z[n:, :4]]).log_softmax(1)
    expected = -(torch.from_numpy(T) * log_probs).sum(1).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= 0.1 * parameter.grad
    assert learner.state()["model/weight"] == pytest.approx(reference.weight.detach().numpy(), abs=1e-6)
    assert learner.state()["model/bias"] == pytest.approx(reference.bias.detach().numpy(), abs=1e-6)


def test_private_rows_do_not_change_the_taught_head() -> None:
    learner = DualHead(TorchLearner(model(), "sgd"))
    learner.train([batch()], 0.5)
    change = np.abs(learner.state()["model/weight"] - model().weight.detach().numpy())
    assert change[4:].max() < 1e-6 < 1e-2 < change[:4].max()


def test_a_prediction_is_the_mean_of_the_private_head_and_the_sharpened_taught_head() -> None:
    z = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    expected = 0.5 * softmax64(z[:, :4]) + 0.5 * softmax64(2 * z[:, 4:].astype(np.float64))
    assert mixture(z) == pytest.approx(expected)
    learner = DualHead(TorchLearner(model(), "sgd"))
    with torch.no_grad():
        expected = mixture(model()(torch.from_numpy(X)).numpy())
    assert softmax64(learner.predict_logits(X)) == pytest.approx(expected, abs=1e-5)


def test_targets_of_both_heads_sum_to_one() -> None:
    z = np.random.default_rng(3).standard_normal((6, 8)).astype(np.float32)
    targets, _ = dual_head_targets(z, one_hot(np.arange(6) % 4, 4), 3)
    assert targets.sum(1) == pytest.approx(1, abs=1e-6)


def test_a_run_with_two_heads_has_the_same_bits_in_workers_and_agrees_with_onnx_learners() -> None:
    heads = {"model": {"name": "mlp", "heads": 2}, "train": {"rounds": 3, "adjusted_steps": 0}}
    serial, forked, onnx = (teachers(config(*run, **heads)) for run in ((0, "torch"), (2, "torch"), (0, "onnx")))
    assert all(a.equals(b) for a, b in zip(serial, forked, strict=True))
    assert all(np.abs(a.values - b.values).max() < 0.05 for a, b in zip(serial, onnx, strict=True))


def test_two_heads_are_refused_on_devices_and_with_other_losses_or_methods() -> None:
    sections = {"model": {"name": "mlp", "heads": 2}, "train": {"adjusted_steps": 0}}
    with pytest.raises(UserError, match=r"model\.heads=2 runs in simulations"):
        export_config(parse_config(sections), None, Path("never"))
    for more, message in (
        ({"method": {"name": "feded"}}, "method feded has another kind of teacher, or a model at the server"),
        ({"method": {"name": "fedavg"}}, "method fedavg has another kind of teacher"),
        ({"distillation": {"loss": "pld"}}, "has its own loss"),
        ({"run": {"record_knowledge": True}}, "an audit supports models of one head only"),
        ({"train": {}}, "set train.adjusted_steps=0"),
        ({"model": {"name": "mlp", "heads": 3}}, "Input should be 1 or 2"),
    ):
        with pytest.raises(UserError, match=message):
            parse_config({**sections, **more})
    assert parse_config({**sections, "baselines": ["indlearn"]}).for_method("indlearn").model == (Model("mlp"),)
