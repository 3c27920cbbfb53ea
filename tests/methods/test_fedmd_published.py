"""FedMD as published, and FCCL: methods whose clients learn logits by a loss of their own."""

from dataclasses import replace

import numpy as np
import pytest

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.learners.batches import softmax
from edgefd.methods import fccl, get_method
from edgefd.methods._own_training import centred, digest
from edgefd.methods.fedmd_published import METHOD, l1_gradient
from tests.support.small_runs import config, rounds, teachers
from tests.support.votes import Fixed, holder, report, server


def test_round_0_ends_with_the_labels_of_the_proxy_set_and_the_others_with_the_mean_of_logits() -> None:
    reports = [report(0, [0, 2], [[1, -1], [3, -3]]), report(1, [0, 2], [[0, 0], [-1, 1]])]
    labels = np.array([1, 0, 0])
    assert METHOD.aggregate(server(reports, labels=labels)).values.tolist() == [[0, 1], [1, 0]]
    assert METHOD.aggregate(server(reports, None, 1, labels=labels)).values.tolist() == [[0.5, -0.5], [1, -1]]
    with pytest.raises(RunError, match="needs labels of the proxy set"):
        METHOD.aggregate(server(reports))


def test_clients_distil_the_labels_in_round_1_only() -> None:
    labels = Knowledge(np.array([0, 1]), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    assert METHOD.distillation_targets(holder(0, Fixed([[0, 0]] * 3), round=1), labels).targets.tolist() == [
        [1, 0],
        [0, 1],
    ]
    assert len(METHOD.distillation_targets(holder(0, Fixed([[0, 0]] * 3), round=2), labels)) == 0


def test_logits_are_sent_centred_and_within_the_range_of_messages() -> None:
    sent = METHOD.upload(holder(0, Fixed(logits=[[3, 1], [1e6, 0], [0, 0]])))
    assert sent.values.tolist() == [[1, -1], [10_000, -10_000], [0, 0]]


def test_a_step_of_the_digest_goes_along_the_gradient_of_the_loss() -> None:
    """The logits are the parameters, so a step of plain gradient descent subtracts lr times the gradient."""

    class Table(Fixed):
        def train(self, batches: object, lr: float) -> float:
            for b in batches:  # type: ignore[attr-defined]
                q = softmax(self.predict_logits(b.x))
                self.logits[b.x[:, 0].astype(int)] -= lr * (q - b.targets) / len(b)
            return 0.0

    start = np.random.default_rng(0).normal(0, 1, (3, 2)).astype(np.float32)
    teacher = np.array([[2, -2], [-1, 1], [0.1, -0.1]], np.float32)
    client = replace(holder(0, Table(start.tolist()), round=2), next_round=2)  # it has missed no teacher
    digest(client, Knowledge(np.arange(3), teacher, np.ones(3, np.float32)), l1_gradient)
    slope = np.sign(centred(start) - teacher) / 6
    np.testing.assert_allclose(client.learner.logits, start - client.lr * slope, atol=1e-6)  # type: ignore[attr-defined]


def test_fccl_ignores_classes_without_variance_and_batches_of_one_row() -> None:
    z, teacher = np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 3.0]])
    loss, gradient = fccl.correlation_loss(z, teacher, 0.5)
    assert loss == pytest.approx(
        1 + (0.5 - 1) ** 2 + 2 * 0.5
    )  # c = [[0, 0], [0, 1/2]] with n = 2 and deviations by n - 1
    assert (gradient[:, 0] == 0).all()
    assert (fccl.correlation_loss(z[:1], teacher[:1], 0.5)[1] == 0).all()


def test_fccl_keeps_the_soft_labels_that_a_client_had_before_the_round() -> None:
    class Recorder(Fixed):
        def train(self, batches: object, lr: float) -> float:
            self.last = list(batches)  # type: ignore[call-overload]
            return 0.0

    learner = Recorder(logits=[[2, 0]])
    client = holder(0, learner, fccl.Config(past=3.0), round=1)
    client = replace(client, plan=RoundPlan(1, np.arange(3)))
    assert (
        len(fccl.METHOD.distillation_targets(client, Knowledge(np.empty(0, int), np.empty((0, 2)), np.empty(0)))) == 0
    )
    past = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(learner.last[-1].targets[:, 0], (1 + 3 * past) / 4, rtol=1e-6)


@pytest.mark.parametrize("name", ["fedmd_published", "fccl"])
def test_a_run_improves_from_round_to_round(name: str) -> None:
    accuracies = [r.accuracy_mean or 0 for r in rounds(config(method={"name": name}, train={"rounds": 4}))]
    assert accuracies[-1] > max(0.5, accuracies[0])


def test_teachers_of_logits_are_neither_probabilities_nor_shifted() -> None:
    last = teachers(config(method={"name": "fccl"}))[-1].values
    np.testing.assert_allclose(last.sum(1), 0, atol=0.05)
    assert np.abs(last).max() > 1
    assert get_method("fccl").values.name == "logits"
