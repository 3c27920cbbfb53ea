"""Two heads: each learns its own rows and leaves the other alone; both together predict."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgefd.config.load import parse_config
from edgefd.config.schema import Model
from edgefd.core.errors import UserError
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.distillation_loss import softmax
from edgefd.learners.dual_head import DualHead, dual_head_targets, mixture
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
def test_a_step_is_one_of_both_losses_each_on_its_head(n_private: int) -> None:
    two, other = DualHead(TorchLearner(model(), "sgd")), model()
    loss = two.train([batch()], 0.1) if n_private == 6 else two.distil([batch()], 0.1, n_private)
    z = other(torch.from_numpy(X))
    n = 6 - n_private
    said = torch.cat([z[:n, 4:], z[n:, :4]]).log_softmax(1)
    expected = -(torch.from_numpy(T) * said).sum(1).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter -= 0.1 * parameter.grad
    assert two.state()["model/weight"] == pytest.approx(other.weight.detach().numpy(), abs=1e-6)
    assert two.state()["model/bias"] == pytest.approx(other.bias.detach().numpy(), abs=1e-6)


def test_private_rows_leave_the_taught_head_as_it_was() -> None:
    two = DualHead(TorchLearner(model(), "sgd"))
    two.train([batch()], 0.5)
    moved = np.abs(two.state()["model/weight"] - model().weight.detach().numpy())
    assert moved[4:].max() < 1e-6 < 1e-2 < moved[:4].max()


def test_a_prediction_is_half_of_each_the_taught_one_sharpened() -> None:
    z = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    expected = 0.5 * softmax(z[:, :4]) + 0.5 * softmax(2 * z[:, 4:].astype(np.float64))
    assert mixture(z) == pytest.approx(expected)
    two = DualHead(TorchLearner(model(), "sgd"))
    with torch.no_grad():
        expected = mixture(model()(torch.from_numpy(X)).numpy())
    assert softmax(two.predict_logits(X)) == pytest.approx(expected, abs=1e-5)


def test_targets_sum_to_one_so_that_the_step_is_exact() -> None:
    z = np.random.default_rng(3).standard_normal((6, 8)).astype(np.float32)
    targets, _ = dual_head_targets(z, one_hot(np.arange(6) % 4, 4), 3)
    assert targets.sum(1) == pytest.approx(1, abs=1e-6)


def test_a_run_has_the_same_bits_in_workers_and_goes_in_a_devices_learner() -> None:
    heads = {"model": {"name": "mlp", "heads": 2}}
    here, there, device = (teachers(config(*how, **heads)) for how in ((0, "torch"), (2, "torch"), (0, "onnx")))
    assert all(a.equals(b) for a, b in zip(here, there, strict=True))
    assert all(np.abs(a.values - b.values).max() < 0.05 for a, b in zip(here, device, strict=True))


def test_it_is_refused_where_it_cannot_be() -> None:
    two = {"model": {"name": "mlp", "heads": 2}}
    with pytest.raises(UserError, match=r"model\.heads=2 runs in simulations"):
        export_config(parse_config(two), None, Path("never"))
    for more, says in (
        ({"method": {"name": "feded"}}, "which method feded does not send"),
        ({"method": {"name": "fedavg"}}, "which method fedavg does not send"),
        ({"distillation": {"loss": "pld"}}, "has its own loss"),
        ({"run": {"record_knowledge": True}}, "an audit supports models of one head only"),
        ({"model": {"name": "mlp", "heads": 3}}, "Input should be 1 or 2"),
    ):
        with pytest.raises(UserError, match=says):
            parse_config({**two, **more})
    assert parse_config({**two, "baselines": ["indlearn"]}).for_method("indlearn").model == (Model("mlp"),)
