"""The centroid attack: its scores on small numbers, and its signals and controls on a recorded run."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks.centroid_distance import (
    ATTACK,
    centroid_controls,
    centroid_scores,
    centroid_signals,
    nearness,
    stored_filter,
)
from edgefd.auditing.attacks.disclosure_signals import _centroid_distances
from edgefd.auditing.measures.statistics import auc
from edgefd.auditing.recording.candidates import choose
from edgefd.auditing.recording.read import open_recording
from edgefd.auditing.report.evidence import evidence
from edgefd.auditing.report.findings import controls
from edgefd.methods.edgefd import Config


def test_nearness_does_not_depend_on_the_width_of_a_clients_clusters() -> None:
    values = nearness(np.array([1, 2, 3, 100, 200, 300], np.float32), np.repeat([4, 7], 3))
    np.testing.assert_allclose(values, [1.5**0.5, 0, -(1.5**0.5)] * 2, atol=1e-6)


def test_stored_centroids_tell_members_and_both_controls_pass(recorded: Path) -> None:
    recording = open_recording(recorded)
    candidates, _ = choose(recording.federation, 0)
    signals = centroid_signals(recording, candidates)
    scores = centroid_scores(signals, candidates)
    assert (scores.attack, scores.adversary, scores.round) == (ATTACK, "holder", None)
    assert auc(scores.values[scores.member], scores.values[~scores.member]).low > 0.7
    areas, failed = controls(*centroid_controls(signals, candidates))
    assert not failed
    assert set(areas["null"]) == set(areas["positive"]) == {ATTACK}
    found = evidence([scores], np.random.default_rng(0))
    assert found is not None
    assert found["leak"]


def test_the_filter_is_fitted_as_the_client_fitted_it(recorded: Path) -> None:
    recording = open_recording(recorded)
    contrast = replace(recording.config, method_config=Config(features="contrast", n_clusters=3))
    data = recording.federation.clients[0]
    fitted = stored_filter(replace(recording, config=contrast), data)
    assert fitted is not None
    np.testing.assert_allclose(fitted.centroids_.mean(1), 0, atol=1e-5)  # each standardised image has mean 0
    signals = _centroid_distances(replace(recording, config=contrast))
    assert signals["centroids"].shape == (30, 4)
    listeners = replace(recording.config, train=replace(recording.config.train, min_samples=10_000))
    for config in (listeners, replace(recording.config, method_config=Config(estimator="knn"))):
        without = replace(recording, config=config)
        assert stored_filter(without, data) is None
        assert _centroid_distances(without) == {}
        assert centroid_signals(without, choose(recording.federation, 0)[0]) == {}
