"""FedProto: prototypes, training towards them, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.learners.batches import AnchoredBatch, labelled
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner
from edgefd.methods import check_devices_can
from edgefd.methods.fedproto import METHOD, Config, anchored
from tests.support.small_runs import config, rounds, teachers
from tests.support.votes import TERMS, Fixed, holder, server

RNG = np.random.default_rng(0)


def test_embeddings_are_the_inputs_of_the_last_linear_layer() -> None:
    model = build_model("mlp", (1, 4, 4), 3, 0)
    x = RNG.normal(0, 1, (300, 1, 4, 4)).astype(np.float32)
    learner = TorchLearner(model)
    embeddings = learner.embed(x)
    with torch.no_grad():
        np.testing.assert_allclose(
            model.fc3(torch.from_numpy(embeddings)).numpy(), learner.predict_logits(x), atol=1e-5
        )


def test_a_model_without_a_linear_layer_has_no_embeddings() -> None:
    with pytest.raises(RunError, match="has no linear layer"):
        TorchLearner(nn.Sequential(nn.Flatten(), nn.Conv1d(1, 1, 1))).embed(np.zeros((1, 1, 4), np.float32))


def test_a_step_follows_the_gradient_of_loss_and_pull() -> None:
    """The change of the parameters by SGD is compared with autograd of the formula."""
    x, y = RNG.normal(0, 1, (5, 4)).astype(np.float32), np.array([0, 1, 2, 0, 1])
    anchors, pulled = RNG.normal(0, 1, (5, 3)).astype(np.float32), np.array([1, 0, 1, 1, 1], np.float32)
    rows = labelled(x, y, 3)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    before = [p.detach().clone().requires_grad_() for p in model.parameters()]
    w1, b1, w2, b2 = before
    f = torch.tanh(torch.from_numpy(x) @ w1.T + b1)
    gap = (f - torch.from_numpy(anchors)) * torch.from_numpy(pulled)[:, None]
    loss = nn.functional.cross_entropy(f @ w2.T + b2, torch.from_numpy(y)) + 0.7 * gap.square().sum() / 15
    gradients = torch.autograd.grad(loss, before)
    returned = TorchLearner(model, "sgd").train(
        [AnchoredBatch(rows.x, rows.targets, rows.weights, anchors, pulled, 0.7)], 0.1
    )
    assert returned == pytest.approx(float(loss.detach()), rel=1e-6)
    for p, start, g in zip(model.parameters(), before, gradients, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), (start - 0.1 * g).detach().numpy(), atol=1e-6)


def test_rows_are_pulled_to_the_prototype_of_their_class_if_there_is_one() -> None:
    prototypes = Knowledge(np.array([0, 2]), np.array([[1, 2], [3, 4]], np.float32), np.ones(2, np.float32))
    (batch,) = anchored([labelled(np.zeros((3, 1), np.float32), np.array([2, 1, 0]), 3)], prototypes, 0.5)
    assert batch.anchors.tolist() == [[3, 4], [0, 0], [1, 2]]
    assert batch.pulled.tolist() == [1, 0, 1]


def test_prototypes_reduce_the_distance_of_the_embeddings_of_clients() -> None:
    def spread(strength: float) -> float:
        """Return the mean distance of the prototypes of two rounds: they settle if clients are pulled to them."""
        c = config(method={"name": "fedproto", "strength": strength}, train={"rounds": 4}, model={"name": "mlp"})
        last = teachers(c)[-1].values
        return float(np.abs(last).mean())

    assert spread(100.0) < 0.8 * spread(0.0), "a strong pull towards the means keeps embeddings small"


def test_a_model_whose_embeddings_are_the_samples_is_refused() -> None:
    with pytest.raises(UserError, match="prototypes means of raw samples: use a model with a hidden layer"):
        rounds(config(method={"name": "fedproto"}, model={"name": "linear"}))


def test_an_exported_graph_and_devices_are_refused_in_one_line() -> None:
    for sections in ({"run": {"learner": "onnx"}}, {"model": {"name": "mlp", "learner": "onnx"}}):
        with pytest.raises(UserError, match=r"^method fedproto needs embeddings, .*: use learner=torch$"):
            parse_config({"method": {"name": "fedproto"}, **sections})
    with pytest.raises(UserError, match="exchanges prototypes, but devices exchange only predictions"):
        check_devices_can(METHOD, Config())


def test_models_of_different_embeddings_cannot_be_averaged() -> None:
    with pytest.raises(RunError, match="uploads of different widths"):
        rounds(config(method={"name": "fedproto"}, model=[{"name": "mlp"}, {"name": "cnn"}]))


def test_a_client_trains_and_returns_no_row() -> None:
    learner = Fixed(parameters=[0, 0])
    client = holder(0, learner, Config())
    teacher = Knowledge(np.array([0]), np.array([[1.0, 2.0]], np.float32), np.ones(1, np.float32))
    training = replace(TERMS.training, batch_size=2, private_rows_per_batch=0, distill_epochs=2)
    batch = METHOD.distillation_targets(replace(client, terms=replace(TERMS, training=training)), teacher)
    assert len(batch) == 0
    assert learner.steps == 4  # 2 passes over 3 proxy rows, 2 in each batch
    assert server([], None).state == {}
