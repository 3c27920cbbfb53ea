"""FedGEMS and COSMOS: what the server learns, and what it keeps from round to round."""

from dataclasses import replace

import numpy as np
import pytest

from edgefd.core.errors import RunError
from edgefd.methods import cosmos, fedgems
from tests.methods.test_server_models import Recorder
from tests.support.votes import Fixed, holder, report, server, votes

LABELS = np.array([0, 1, 1])
SERVER = [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]  # right for row 0 only


def test_the_server_learns_labels_where_it_is_right_and_clients_where_it_is_wrong() -> None:
    model = Recorder(logits=SERVER)
    reports = [report(0, [0, 1, 2], [[0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]), report(1, [0, 1], [[0.9, 0.1], [0.4, 0.6]])]
    ctx = server(reports, fedgems.Config(0.75, 1), learner=model, labels=LABELS)
    teacher = fedgems.METHOD.aggregate(ctx)
    (batch,) = model.batches
    targets = batch.targets[batch.x[:, 0].argsort()]
    entropies = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (0.2, 0.4)]
    first, second = (np.exp(1 / h) for h in entropies)
    z = (first * np.log(0.8 / 0.2) + second * np.log(0.6 / 0.4)) / (first + second)  # of class 1 minus class 0
    np.testing.assert_allclose(targets[0], [1, 0])
    np.testing.assert_allclose(targets[1, 1], 0.75 + 0.25 / (1 + np.exp(-z)), rtol=1e-5)
    np.testing.assert_allclose(targets[2], [0, 1])  # no client is right
    q = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(teacher.values[:, 0], [0.75 + 0.25 * q, 0.25 * q, 0.25 * q], rtol=1e-5)


def test_the_server_remembers_the_soft_label_with_which_it_was_right() -> None:
    ctx = server([report(0, [0], [[0.6, 0.4]])], fedgems.Config(0.5, 1), learner=Recorder(logits=SERVER), labels=LABELS)
    fedgems.METHOD.aggregate(ctx)
    wrong = Recorder(logits=[[0.0, 3.0]] * 3)
    fedgems.METHOD.aggregate(replace(ctx, learner=wrong))
    q = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(wrong.batches[0].targets, [[0.5 + 0.5 * q, 0.5 * (1 - q)]], rtol=1e-6)


def test_fedgems_needs_labels() -> None:
    with pytest.raises(RunError, match="needs labels of the proxy set"):
        fedgems.METHOD.aggregate(server([report(0, [0], [[1, 0]])], fedgems.Config(), learner=Recorder()))


FIRST, SECOND = [[0.9, 0.1], [0.8, 0.2], [0.9, 0.1]], [[0.1, 0.9], [0.3, 0.7], [0.2, 0.8]]
GROUPS = [report(0, [0, 1, 2], FIRST), report(1, [0, 1, 2], SECOND), report(4, [0, 1, 2], FIRST)]


def test_clients_with_similar_soft_labels_are_in_one_cluster_numbered_by_its_first_client() -> None:
    stack = np.stack([r.knowledge.values for r in GROUPS]).astype(float)
    assert cosmos.clusters(stack, 2).tolist() == [0, 1, 0]
    assert cosmos.clusters(stack[::-1], 2).tolist() == [0, 1, 0]
    assert cosmos.clusters(stack, 1).tolist() == [0, 0, 0]
    assert cosmos.clusters(stack[:1], 5).tolist() == [0]


class Counter(Fixed):
    """A learner whose only parameter counts its steps, and whose logits are (count, 0)."""

    def predict_logits(self, x: np.ndarray) -> np.ndarray:
        return np.tile(np.array([self.parameters[0], 0], np.float32), (len(x), 1))


def test_each_cluster_has_a_model_that_goes_on_from_round_to_round() -> None:
    model = Counter(parameters=[0.0])
    ctx = server(GROUPS, cosmos.Config(epochs=1), learner=model)
    first = cosmos.METHOD.aggregate(ctx)
    second = cosmos.METHOD.aggregate(replace(ctx, reports=GROUPS))
    assert first.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert model.parameters[0] == 0, "the model that new clusters begin with does not change"
    assert second.values[0, 0] > first.values[0, 0] > 0.5
    hard = cosmos.METHOD.aggregate(replace(ctx, config=cosmos.Config(labels="hard", epochs=1)))
    assert hard.values.tolist() == [[1, 0]] * 6


def test_a_client_learns_the_labels_of_the_nearest_cluster() -> None:
    teacher = votes([0, 1, 2, 3, 4, 5], FIRST + SECOND)
    near = np.log(np.array(SECOND)).tolist()
    batch = cosmos.METHOD.distillation_targets(holder(1, Fixed(logits=near), cosmos.Config()), teacher)
    np.testing.assert_allclose(batch.targets, SECOND, rtol=1e-6)
