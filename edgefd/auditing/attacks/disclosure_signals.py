"""Level 0 signals: what the reports of a recording contain, and distances between records, proxy set and centroids."""

from __future__ import annotations

import numpy as np

from edgefd.auditing.attacks.centroid_distance import projected, stored_filter
from edgefd.auditing.attacks.message_sizes import report_sizes
from edgefd.auditing.recording.read import Recording, reports, teacher_after
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float32, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.filters.kmeans import nearest, row_squares

_CONTROLS = 1000  # test rows that measure how near a fresh record is to the proxy set


def disclosure_signals(recording: Recording) -> Arrays:
    """Return masks, weights and soft labels as they were received, round by round, and distances.

    Returns:
        `weights` float32 [clients, P]: of each client's last report, 0 = no soft label; `votes` bool [R, clients, P]:
        the rows of each report; `labels` float32 [R, clients, C]: the mean soft label of each report (0 where there was
        none); `classes` int64 [P]: of each proxy row, -1 = unknown; `owner`; `sizes` of `report_sizes`. For a
        simulation, which has the private data, also `table` and the distances below.
    """
    federation, rounds = recording.federation, recording.rounds
    n_clients, size, n_classes = len(federation.clients), len(federation.proxy), federation.n_classes
    weights = np.zeros((n_clients, size), np.float32)
    votes = np.zeros((len(rounds), n_clients, size), np.bool_)
    labels = np.zeros((len(rounds), n_clients, n_classes), np.float32)
    for round in rounds:
        for report in reports(recording, round):
            sent = report.knowledge
            weights[report.client] = 0
            weights[report.client, sent.ids] = sent.weights
            votes[round, report.client, sent.ids] = True
            if len(sent):
                labels[round, report.client] = sent.values.mean(0)
    signals = {"weights": weights, "votes": votes, "labels": labels, "classes": _classes(recording)}
    signals |= {"owner": recording.owner, "sizes": report_sizes(recording)}
    if recording.deployed:
        return signals
    return signals | {"table": federation.table} | _proxy_distances(recording) | _centroid_distances(recording)


def _classes(recording: Recording) -> Int64:
    """Return the classes of the proxy rows: their labels, or without labels the classes of the last teacher.

    The server has the proxy samples and can label them.
    """
    labels = recording.federation.proxy_labels
    if labels is not None:
        return labels
    teacher = teacher_after(recording, recording.rounds[-1])
    classes = np.full(len(recording.federation.proxy), -1)
    classes[teacher.ids] = teacher.values.argmax(1)
    return classes


def _proxy_distances(recording: Recording) -> Arrays:
    """Return the distance of each private training row, and of fresh test rows, to the nearest proxy row.

    Also `copy_of` int64: for each private record, the public proxy row that is equal to it, bit for bit; -1 = none.
    """
    federation = recording.federation
    proxy = _flat(federation.proxy.x)
    private = [_distances(data.x, proxy) for data in federation.clients]
    public = {row.tobytes(): i for i, row in enumerate(federation.proxy.x) if recording.owner[i] == -1}
    copies = [[public.get(row.tobytes(), -1) for row in (*d.x, *d.x_heldout)] for d in federation.clients]
    order = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.DISCLOSURE_CONTROLS).permutation(
        len(federation.x_test)
    )[:_CONTROLS]
    return {
        "private_to_proxy": np.concatenate(private),
        "private_client": np.repeat(np.arange(len(private)), [len(d) for d in private]),
        "private_y": np.concatenate([data.y for data in federation.clients]),
        "fresh_y": federation.y_test[order],
        "fresh_to_proxy": _distances(federation.x_test[order], proxy),
        "copy_of": np.array([row for rows in copies for row in rows], np.int64),
        "copy_client": np.repeat(np.arange(len(copies)), [len(rows) for rows in copies]),
        "fresh_copies": np.array([row.tobytes() in public for row in federation.x_test[order]]),
    }


def _centroid_distances(recording: Recording) -> Arrays:
    """Return, for each centroid of each client's filter, its number of records and two distances.

    These are the distances to the nearest record that the filter was fitted on, and to the nearest held-out one.
    """
    rows = []
    for data in recording.federation.clients:
        if (dre := stored_filter(recording, data)) is None:
            continue
        fitted, held = (projected(recording, dre, x) for x in (data.x_filter, data.x_heldout))
        sizes = np.bincount(nearest(fitted, dre.centroids_, row_squares(fitted))[0], minlength=len(dre.centroids_))
        near = [_distances(dre.centroids_, x) for x in (fitted, held)]
        rows.append(np.stack([np.full(len(sizes), data.client), sizes, *near], axis=1))
    if not rows:
        return {}
    records = np.array([[len(data.x_filter), len(data.x_heldout)] for data in recording.federation.clients])
    return {"centroids": np.concatenate(rows), "records": records}


def _flat(x: Float32) -> Float32:
    return np.ascontiguousarray(x.reshape(len(x), -1))


def _distances(x: Float32, to: Float32) -> Float32:
    """Return the distance of each row to the nearest row of `to`."""
    x, to = _flat(x), _flat(to)
    return np.sqrt(np.maximum(nearest(x, to, row_squares(x))[1], 0))
