"""Centroid attack: who reads the stored state of a device compares a record with the centroids of the client's filter.

A centroid is the mean of the training records of a cluster, so it lies nearer to them than to records that the filter
was not fitted on. The non-members are the client's held-out records, which set the threshold of the filter but no
centroid.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.auditing.attacks.filter_canaries import shuffled_records
from edgefd.auditing.attacks.membership import Control, Scores
from edgefd.auditing.recording.candidates import Candidates, fresh_records
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData
from edgefd.filters.kmeans import nearest
from edgefd.filters.kmeans_dre import KMeansDRE
from edgefd.methods.edgefd import filter_rows, fit_estimator
from edgefd.rounds.client import filter_context, is_listener
from edgefd.runs.terms import terms_of

ATTACK = "centroid_distance"
_SHARE = 0.1  # ratio of the records of the positive control to private records, as for the filter's canaries


def stored_filter(recording: Recording, data: ClientData) -> KMeansDRE | None:
    """Return the filter of a client as the client fitted it; None if the client stores no centroids."""
    config, terms = recording.config, terms_of(recording.config, recording.federation)
    if config.method_name != "edgefd" or config.method_config.estimator != "kmeans":
        return None
    if is_listener(config.method, data, terms):
        return None
    fitted = fit_estimator(filter_context(config.method_config, data, recording.federation.proxy, terms))
    assert isinstance(fitted, KMeansDRE)
    return fitted


def projected(recording: Recording, fitted: KMeansDRE, x: Float32) -> Float32:
    """Return samples [n, ...] in the space of the centroids of a filter, float32 [n, d]."""
    return fitted._project(filter_rows(recording.config.method_config, x))


def to_centroids(recording: Recording, fitted: KMeansDRE, x: Float32) -> Float32:
    """Return the distance of each sample of x [n, ...] to the nearest centroid of a filter, float32 [n]."""
    rows, centroids = projected(recording, fitted, x), fitted.centroids_
    if fitted.centre_ is not None:  # distances by matrix product lose digits far from zero
        rows, centroids = rows - fitted.centre_, centroids - fitted.centre_
    return np.sqrt(np.maximum(nearest(rows, centroids)[1], 0))


def centroid_signals(recording: Recording, candidates: Candidates) -> Arrays:
    """Return the distances of candidates to stored centroids; empty unless two clients store centroids.

    Returns:
        `row` int64 [m]: the candidates whose client stores centroids; `own` float32 [m]: their distances to the nearest
        of these centroids; `next` float32 [m]: to the nearest centroid of the next such client, whose filter was fitted
        on none of them. The positive control: `noise` float32 [j], `noise_member` bool [j] and `noise_client` int64
        [j], of records with shuffled values, half of which the filter was fitted on.
    """
    fitted = [(data, stored_filter(recording, data)) for data in recording.federation.clients]
    stored = [(data, dre) for data, dre in fitted if dre is not None]
    if len(stored) < 2:
        return {}
    canaries = fresh_records(recording.federation, recording.config.seed, _SHARE)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "own", "next")}
    noise: dict[str, list[np.ndarray]] = {name: [] for name in ("noise", "noise_member", "noise_client")}
    for i, (data, dre) in enumerate(stored):
        rows = np.flatnonzero(candidates.client == data.client)
        parts["row"].append(rows)
        for name, used in (("own", dre), ("next", stored[(i + 1) % len(stored)][1])):
            parts[name].append(to_centroids(recording, used, candidates.x[rows]))
        if len(fresh := canaries[data.client]):
            for name, values in _noise_distances(recording, data, fresh).items():
                noise[name].append(values)
    return {name: np.concatenate(values) for name, values in (parts | noise).items()}


def _noise_distances(recording: Recording, data: ClientData, fresh: Float32) -> Arrays:
    """Return the distances of shuffled records to the centroids of a filter that was fitted on half of them too."""
    rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.CENTROID_CONTROLS, data.client)
    x = shuffled_records(fresh, rng)
    half = len(x) // 2
    with_noise = replace(
        data, x=np.concatenate([data.x, x[:half]]), y=np.concatenate([data.y, np.full(half, data.y[0])])
    )
    dre = stored_filter(recording, with_noise)
    assert dre is not None  # more records than the client has, which stores centroids
    return {
        "noise": to_centroids(recording, dre, x),
        "noise_member": np.arange(len(x)) < half,
        "noise_client": np.full(len(x), data.client),
    }


def nearness(distance: Float32, client: Int64) -> Float64:
    """Return minus the distance in standard deviations from the mean of the client's records, float64 [n].

    The clusters of clients differ in width, so the distances of two clients cannot be compared as they are. Mean and
    deviation are those of all scored records of the client, members or not: the adversary has them.
    """
    values = np.zeros(len(distance))
    for c in np.unique(client):
        rows = client == c
        d = distance[rows].astype(np.float64)
        values[rows] = (d.mean() - d) / max(float(d.std()), 1e-12)
    return values


def centroid_scores(signals: Arrays, candidates: Candidates) -> Scores:
    """Score the candidates by their distances to the stored centroids of their client."""
    rows = signals["row"]
    client = candidates.client[rows]
    return Scores(ATTACK, "holder", nearness(signals["own"], client), client, candidates.member[rows])


def centroid_controls(signals: Arrays, candidates: Candidates) -> tuple[Control, Control]:
    """Return both controls: the centroids of the next client, and those that were fitted on shuffled records."""
    rows = signals["row"]
    null = nearness(signals["next"], candidates.client[rows])
    positive = nearness(signals["noise"], signals["noise_client"])
    return {ATTACK: (null, candidates.member[rows])}, {ATTACK: (positive, signals["noise_member"])}
