"""FKD: mean logits of classes, and the teacher without the client's own part."""

from dataclasses import replace

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Report
from edgefd.methods.fkd import METHOD, Config, class_means, without
from tests.support.votes import Fixed, holder, server, votes


def test_class_means_are_the_mean_logits_of_each_class() -> None:
    k = class_means(np.array([[1, 0], [3, 0], [0, 5]], np.float32), np.array([2, 2, 0]))
    assert k.ids.tolist() == [0, 2]
    assert k.values.tolist() == [[0, 5], [2, 0]]


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    rng = np.random.default_rng(0)
    holds = [[0, 1], [0, 2], [0, 1, 2]]
    uploads = [
        Knowledge(np.array(c), rng.normal(0, 3, (len(c), 3)).astype(np.float32), np.ones(len(c), np.float32))
        for c in holds
    ]
    teacher = METHOD.aggregate(server([Report(c, 0, k) for c, k in enumerate(uploads)], Config()))
    others = without(teacher, uploads[0])
    np.testing.assert_allclose(others.values[0], (uploads[1].values[0] + uploads[2].values[0]) / 2, atol=1e-5)
    np.testing.assert_allclose(others.values[1], uploads[2].values[1], atol=1e-5)
    np.testing.assert_allclose(others.values[2], (uploads[1].values[1] + uploads[2].values[2]) / 2, atol=1e-5)


def test_a_class_that_no_other_client_holds_is_not_in_the_teacher() -> None:
    alone = Knowledge(np.array([1]), np.ones((1, 3), np.float32), np.ones(1, np.float32))
    assert len(without(METHOD.aggregate(server([Report(0, 0, alone)], Config())), alone)) == 0


def test_targets_mix_labels_with_the_mean_of_the_other_clients() -> None:
    client = holder(0, Fixed(logits=[[4.0, 0.0]]), Config(strength=3.0), n=2)
    client = replace(client, data=replace(client.data, y=np.array([0, 1])))
    other = [0.0, 0.0]  # mean logits of class 0 of the only other client; nobody else holds class 1
    reports = [Report(0, 0, METHOD.upload(client)), Report(1, 0, votes([0], [other]))]
    batch = METHOD.distillation_targets(client, METHOD.aggregate(server(reports, client.config)))
    assert sorted(batch.targets[:, 1].tolist())[-1] == 1
    for target, weight in zip(batch.targets, batch.weights, strict=True):
        label_alone = target.tolist() == [0, 1]
        assert label_alone or target.tolist() == pytest.approx([(1 + 3 / 2) / 4, 3 / 2 / 4])
        assert weight == (1 if label_alone else 4)
