"""COMET: the centroids of votes, and the choice of a client."""

import numpy as np
import pytest

from edgefd.methods.comet import METHOD, Config, centroids
from tests.support.votes import Fixed, holder, report, server


def test_similar_votes_are_averaged_and_different_votes_are_not() -> None:
    reports = [
        report(0, [1], [[0.9, 0.1]]),
        report(1, [1], [[0.7, 0.3]]),
        report(2, [1], [[0.1, 0.9]]),
    ]
    teacher = METHOD.aggregate(server(reports, Config()))
    assert teacher.ids.tolist() == [1, 4]  # rows 1 of centroids 0 and 1
    np.testing.assert_allclose(sorted(teacher.values[:, 0]), [0.1, 0.8], atol=1e-6)


def test_a_client_takes_the_nearest_centroid() -> None:
    reports = [report(0, [0, 1], [[0.9, 0.1], [0.6, 0.4]]), report(1, [0, 1], [[0.2, 0.8], [0.1, 0.9]])]
    teacher = METHOD.aggregate(server(reports, Config()))
    batch = METHOD.distillation_targets(holder(0, Fixed(logits=[[2, 0], [-2, 0]]), Config()), teacher)
    assert batch.x.tolist() == [[0], [1]]
    np.testing.assert_allclose(batch.targets, [[0.9, 0.1], [0.1, 0.9]], atol=1e-6)
    assert batch.weights.tolist() == [1, 1]


def test_one_cluster_is_the_mean() -> None:
    votes = np.random.default_rng(0).dirichlet(np.ones(3), (5, 4))
    np.testing.assert_allclose(centroids(votes, 1, 10)[0], votes.mean(0), atol=1e-12)


def test_more_clusters_than_votes_give_the_votes() -> None:
    votes = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert {tuple(c[0]) for c in centroids(votes, 4, 5)} == {(1.0, 0.0), (0.0, 1.0)}


def test_there_are_at_most_as_many_teachers_as_votes() -> None:
    reports = [report(0, [0], [[0.9, 0.1]]), report(1, [0], [[0.2, 0.8]])]
    teacher = METHOD.aggregate(server(reports, Config(n_clusters=30_000)))
    assert teacher.ids.tolist() == [0, 3]


def test_centroids_are_updated_max_iter_times() -> None:
    votes = [0.03, 0.04, 0.44, 0.54, 0.61, 0.73, 0.93]
    reports = [report(i, [0], [[1 - p, p]]) for i, p in enumerate(votes)]
    for max_iter, expected in ((1, [0.51 / 3, 2.81 / 4]), (10, [0.07 / 2, 3.25 / 5])):
        teacher = METHOD.aggregate(server(reports, Config(max_iter=max_iter)))
        np.testing.assert_allclose(sorted(teacher.values[:, 1]), expected, atol=1e-6)


def test_uploads_of_different_rows_are_refused() -> None:
    reports = [report(0, [0], [[1, 0]]), report(1, [1], [[1, 0]])]
    with pytest.raises(ValueError, match="same rows"):
        METHOD.aggregate(server(reports, Config()))
