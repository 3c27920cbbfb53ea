"""Level 0: what is disclosed without any attack on a model. Signals are read off the recording."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.audit.measures.statistics import auc
from edgefd.audit.recording.read import Recording, reports, teacher_after
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.filters.kmeans import nearest, row_squares
from edgefd.filters.kmeans_dre import KMeansDRE

_FEW = 2  # voters of a row whose aggregate shows one of them to the other
_CONTROLS = 1000  # test rows that say how near a fresh record is
_LEAST_CLUSTER = 5  # a centroid of fewer records is near each of them


def exposure_signals(recording: Recording) -> Arrays:
    """Masks, weights and soft labels as they arrived, round by round, and distances.

    Returns:
        `weights` float32 [clients, P]: of each client's last report, 0 = not answered; `votes` bool [R, clients, P];
        `labels` float32 [R, clients, C]: the mean soft label of each report (0 where there was none); `classes` int64
        [P]: of each proxy row, -1 = unknown; `owner`; and of a simulation, which has the private data, `table` and
        distances by client, see below.
    """
    federation, rounds = recording.federation, recording.rounds
    n_clients, size, n_classes = len(federation.clients), len(federation.proxy), federation.n_classes
    weights = np.zeros((n_clients, size), np.float32)
    votes = np.zeros((len(rounds), n_clients, size), np.bool_)
    labels = np.zeros((len(rounds), n_clients, n_classes), np.float32)
    for round in rounds:
        for report in reports(recording, round):
            k = report.knowledge
            weights[report.client] = 0
            weights[report.client, k.ids] = k.weights
            votes[round, report.client, k.ids] = True
            if len(k):
                labels[round, report.client] = k.values.mean(0)
    out = {"weights": weights, "votes": votes, "labels": labels, "classes": _classes(recording)}
    out |= {"owner": federation.proxy.owner}
    if recording.deployed:
        return out
    return out | {"table": federation.table} | _proxy_distances(recording) | _centroid_distances(recording)


def _classes(recording: Recording) -> Int64:
    """Of the proxy rows: the server has the samples and can label them; else it takes the last teacher's word."""
    labels = recording.federation.proxy_labels
    if labels is not None:
        return labels
    teacher = teacher_after(recording, recording.rounds[-1])
    classes = np.full(len(recording.federation.proxy), -1)
    classes[teacher.ids] = teacher.values.argmax(1)
    return classes


def _proxy_distances(recording: Recording) -> Arrays:
    """Distance from each private training row, and from fresh test rows, to the nearest proxy row."""
    federation = recording.federation
    proxy = _flat(federation.proxy.x)
    own = [_distances(data.x, proxy) for data in federation.clients]
    order = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.DISCLOSURE_CONTROLS).permutation(
        len(federation.x_test)
    )[:_CONTROLS]
    return {
        "private_to_proxy": np.concatenate(own),
        "private_client": np.repeat(np.arange(len(own)), [len(d) for d in own]),
        "private_y": np.concatenate([data.y for data in federation.clients]),
        "fresh_y": federation.y_test[order],
        "fresh_to_proxy": _distances(federation.x_test[order], proxy),
    }


def _centroid_distances(recording: Recording) -> Arrays:
    """For each centroid of each client's filter: its records, its distance to the nearest one and to a held-out one.

    Only where the filter is KMeans: the centroids are fitted again as the client fitted them.
    """
    config = recording.config.method_config
    if recording.config.method_name != "edgefd" or getattr(config, "estimator", "kmeans") != "kmeans":
        return {}
    rows = []
    for data in recording.federation.clients:
        seed = int(make_rng(recording.config.seed, Purpose.FILTER, data.client).integers(2**31))
        dre = KMeansDRE(
            config.n_clusters, config.reference, config.features, config.n_components, random_state=seed
        ).fit(data.x, reference=recording.federation.proxy.x)
        project = dre._project
        own, held = project(_flat(data.x)), project(_flat(data.x_heldout))
        sizes = np.bincount(nearest(own, dre.centroids_, row_squares(own))[0], minlength=len(dre.centroids_))
        near = [_distances(dre.centroids_, x) for x in (own, held)]
        rows.append(np.stack([np.full(len(sizes), data.client), sizes, *near], axis=1))
    records = np.array([[len(data.x), len(data.x_heldout)] for data in recording.federation.clients])
    return {"centroids": np.concatenate(rows), "records": records}


def _flat(x: Float32) -> Float32:
    return np.ascontiguousarray(x.reshape(len(x), -1))


def _distances(x: Float32, to: Float32) -> Float32:
    """From each row to the nearest of `to`."""
    x, to = _flat(x), _flat(to)
    return np.sqrt(np.maximum(nearest(x, to, row_squares(x))[1], 0))


def ledger(recording: Recording, s: Arrays) -> dict[str, Any]:
    """Raw records that left a client, to whom and when; and private ones of which a near copy left.

    A private record has a near copy in the proxy set if it is less than half as far from it as the median fresh record
    of its class. The share of fresh records that are so near is the control.
    """
    sent = int((s["owner"] >= 0).sum())
    given = {
        "raw_records_sent": sent,
        "to": "the server, which hands them to every client" if sent else None,
        "when": "once, before round 0" if sent else None,
    }
    if recording.deployed:
        rows = [{"client": c, "raw_records_sent": int((s["owner"] == c).sum())} for c in range(len(s["weights"]))]
        return given | {"share": None, "clients": sorted(rows, key=lambda r: -r["raw_records_sent"])}
    return given | _near_copies(recording, s)


def _near_copies(recording: Recording, s: Arrays) -> dict[str, Any]:
    """By client also what share of its records left, and of how many that stayed a near copy is a proxy row."""
    federation = recording.federation
    by_class = _half_medians(s["fresh_to_proxy"], s["fresh_y"], federation.n_classes)
    near = s["private_to_proxy"] < by_class[s["private_y"]]
    rows = []
    for data in federation.clients:
        given = int((s["owner"] == data.client).sum())
        own = near[s["private_client"] == data.client]
        rows.append(
            {
                "client": data.client,
                "raw_records_sent": given,
                "share": given / int(federation.table[data.client].sum()),
                "by_class": np.bincount(
                    _labels(recording)[s["owner"] == data.client], minlength=federation.n_classes
                ).tolist()
                if federation.proxy_labels is not None
                else None,
                "private_with_near_copy": int(own.sum()),
                "private_records": len(own),
            }
        )
    return {
        "share": float((s["owner"] >= 0).sum() / max(1, int(federation.table.sum()))),
        "private_with_near_copy": sum(r["private_with_near_copy"] for r in rows),
        "fresh_share_as_near": float((s["fresh_to_proxy"] < by_class[s["fresh_y"]]).mean()),
        "clients": sorted(rows, key=lambda r: -r["raw_records_sent"]),
    }


def _half_medians(distances: Float32, y: Int64, n_classes: int) -> npt.NDArray[np.float64]:
    """Half of the median distance by class; 0, which nothing is below, for a class without a record."""
    mine = [distances[y == c] for c in range(n_classes)]
    return np.array([float(np.median(d)) / 2 if len(d) else 0.0 for d in mine])


def _labels(recording: Recording) -> Int64:
    labels = recording.federation.proxy_labels
    assert labels is not None
    return labels


def label_inference(s: Arrays) -> dict[str, Any]:
    """Each client's class shares, estimated from masks alone, from weights, and from soft labels.

    Masks: of the proxy rows of class k, the share that the client answered for, normalised over k.
    Weights: the same with the mean weight. Soft labels: their mean over the rows answered for, in the round of which it
    tells most. Whoever has the proxy samples can label them; without labels, the last teacher's classes serve.
    """
    if "table" not in s:
        return {"reason": NO_PRIVATE_DATA, "estimated_shares": _estimated(s)}
    votes, table = s["votes"], s["table"]
    last = votes[-1] if votes[-1].any() else votes.any(0)
    out = {
        "masks": _label_row(_by_class(np.asarray(last, np.float32), s["classes"], table.shape[1]), table),
        "weights": _label_row(_by_class(s["weights"], s["classes"], table.shape[1]), table),
    }
    by_round = [_label_row(labels, table) for labels in s["labels"]]
    best = int(np.argmin([row["total_variation"] for row in by_round]))
    out["soft_labels"] = by_round[best] | {"round": best}
    return out | {"soft_labels_by_round": [row["total_variation"] for row in by_round]}


NO_PRIVATE_DATA = "a coordinator has no private data to compare with"


def _estimated(s: Arrays) -> list[list[float]]:
    """Of each client, the class shares that its last weights suggest; even where it answered for nothing."""
    n_classes = s["labels"].shape[2]
    answers = _by_class(s["weights"], s["classes"], n_classes)
    total = answers.sum(1, keepdims=True)
    out: list[list[float]] = np.where(total > 0, answers / np.where(total > 0, total, 1), 1 / n_classes).tolist()
    return out


def _by_class(answers: npt.NDArray[np.floating], classes: Int64, n_classes: int) -> Float32:
    """Mean answer of each client on the rows of each class, float32 [clients, C]."""
    known = classes >= 0
    members = np.eye(n_classes, dtype=np.float32)[classes[known]]
    out: Float32 = (answers[:, known] @ members) / np.maximum(members.sum(0), 1)
    return out


def _label_row(estimate: Float32, table: Int64) -> dict[str, Any]:
    """How well estimated shares [clients, C] match the truth, and whether they tell which classes are there at all."""
    truth = table / table.sum(1, keepdims=True)
    total = estimate.sum(1, keepdims=True)
    even = np.full_like(estimate, 1 / estimate.shape[1])
    shares = np.where(total > 0, estimate / np.where(total > 0, total, 1), even).astype(np.float64)
    smooth = (shares + 1e-3) / (shares + 1e-3).sum(1, keepdims=True)
    log_ratio = np.log(np.where(truth > 0, truth, 1)) - np.log(smooth)
    per_client = np.abs(truth - shares).sum(1) / 2
    present, absent = shares[table > 0], shares[table == 0]
    presence = auc(present, absent) if len(present) and len(absent) else None
    return {
        "kl": float((truth * log_ratio).sum(1).mean()),
        "total_variation": float(per_client.mean()),
        "total_variation_of_even_guess": float(np.abs(truth - 1 / table.shape[1]).sum(1).mean() / 2),
        "total_variation_per_client": per_client.tolist(),
        "presence_auc": None if presence is None else vars(presence),
        "presence_reason": None if presence else "every client has every class",
    }


def attribution(s: Arrays, classes: Int64 | None) -> dict[str, Any]:
    """Who contributed a proxy row, told from the mask or the weights of one client's report, among rows of one class.

    The server knows it; an eavesdropper who missed the contributions learns it here.
    """
    if not (s["owner"] >= 0).any():
        return {"reason": "nothing was contributed: the proxy set is public"}
    if classes is None:
        return {"reason": "the proxy set has no labels, so contributors and others cannot be matched by class"}
    out: dict[str, Any] = {}
    for name, scores in (("mask", (s["weights"] > 0).astype(float)), ("weight", s["weights"].astype(float))):
        inside, outside = [], []
        for client, row in enumerate(scores):
            mine = s["owner"] == client
            for c in np.unique(classes[mine]):
                theirs = ~mine & (classes == c)
                if theirs.any():
                    inside.append(row[mine & (classes == c)])
                    outside.append(row[theirs])
        if not inside:
            return {"reason": "no class is contributed by two clients: a row's class alone tells whose it is"}
        out[name] = vars(auc(np.concatenate(inside), np.concatenate(outside)))
    return out


def singletons(votes: Bool) -> dict[str, Any]:
    """By round: the share of aggregated rows that come from one client, and from at most two.

    The aggregate of one voter *is* that client's soft label; of two, either can subtract its own.
    """
    voters = votes.sum(1)
    rows = np.maximum((voters > 0).sum(1), 1)
    return {
        "one_voter": ((voters == 1).sum(1) / rows).tolist(),
        "at_most_two": (((voters > 0) & (voters <= _FEW)).sum(1) / rows).tolist(),
    }


def centroid_exposure(s: Arrays) -> dict[str, Any]:
    """What a client's stored centroids say of single records: they never leave it, but a stolen device has them.

    `nearest_is_fitted`: share of centroids whose nearest record is one that they were fitted on, not one held out; for
    records that are exchangeable it would be `expected`, the share of fitted ones. `median_ratio`: distance to the
    nearest fitted record over that to the nearest held-out one.
    """
    if "table" not in s:
        return {"reason": NO_PRIVATE_DATA}
    if "centroids" not in s:
        return {"reason": "the filter of this run has no centroids"}
    client, size, own, held = s["centroids"].T
    fitted, out = s["records"][client.astype(int)].T
    return {
        "clusters": len(size),
        "smallest_cluster": int(size.min()),
        "clusters_below_5": int((size < _LEAST_CLUSTER).sum()),
        "centroids_that_are_records": int((own < 1e-3 * np.median(held)).sum()),
        "nearest_is_fitted": float((own < held).mean()),
        "expected": float((fitted / (fitted + out)).mean()),
        "median_ratio": float(np.median(own / np.maximum(held, 1e-9))),
        "per_client": [
            {"client": int(c), "smallest": int(size[client == c].min()), "below_5": int((size[client == c] < 5).sum())}
            for c in np.unique(client)
        ],
    }
