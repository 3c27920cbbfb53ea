"""Model extraction: an adversary trains an extracted model of a client from the history of its soft labels alone.

The extracted model has the architecture of the client's model. It is trained on the proxy samples for which the client
sent soft labels, with the mean of the soft labels over the rounds. The control is trained on the same soft labels,
assigned to the wrong samples: its agreement with the client is disclosed by class frequencies alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefd.auditing.attacks.model_outputs import recorded_learner
from edgefd.auditing.attacks.student_models import student
from edgefd.auditing.measures.statistics import clopper_pearson
from edgefd.auditing.recording.read import Recording, reports
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.report import Report
from edgefd.runs.record import FINAL


def extraction_signals(recording: Recording) -> Arrays:
    """Return the classes that the models give to the test set.

    Returns:
        `client`, `copy`, `control` int64 [clients, tests]: by the final model, the extracted model
        and the control; `y` [tests]; `rows` int64 [clients]: number of proxy samples in the training data.
    """
    config, federation = recording.config, recording.federation
    all_reports = [report for round in recording.rounds for report in reports(recording, round)]
    classes: dict[str, list[Int64]] = {"client": [], "copy": [], "control": []}
    rows = []
    for data in federation.clients:
        sent = history([r for r in all_reports if r.client == data.client], federation.n_classes)
        order = make_rng(config.seed, Purpose.AUDIT, AuditStream.EXTRACTION_CONTROL, data.client).permutation(len(sent))
        shuffled = Knowledge(sent.ids, sent.values[order], sent.weights)
        rows.append(len(sent))
        models = {
            "client": recorded_learner(recording, FINAL, data.client),
            "copy": student(config, federation, data.client, sent, config.seed, 200, data.client),
            "control": student(config, federation, data.client, shuffled, config.seed, 200, data.client),
        }
        for name, learner in models.items():
            classes[name].append(learner.predict_logits(federation.x_test).argmax(1))
    return {name: np.stack(values) for name, values in classes.items()} | {
        "y": federation.y_test,
        "rows": np.array(rows),
    }


def history(reports: Sequence[Report], n_classes: int) -> Knowledge:
    """Merge one client's reports: for each proxy row in any of them, the mean soft label and the mean weight."""
    sent = [report.knowledge for report in reports if len(report.knowledge)]
    if not sent:
        return empty(n_classes)
    ids, index = np.unique(np.concatenate([k.ids for k in sent]), return_inverse=True)
    values, weights = np.zeros((len(ids), n_classes)), np.zeros(len(ids))
    np.add.at(values, index, np.concatenate([k.values for k in sent]))
    np.add.at(weights, index, np.concatenate([k.weights for k in sent]))
    count = np.bincount(index)
    means = (values / count[:, None]).astype(np.float32), (weights / count).astype(np.float32)
    return Knowledge(ids, *means)


def extraction(signals: Arrays) -> dict[str, Any]:
    """Return fidelity and accuracy of the extracted models and of their controls, by client, highest fidelity first.

    Fidelity is the share of the test set to which the extracted model and the client's model give the same class. It is
    above the control's if their 95 % intervals do not overlap.
    """
    rows = [_client_row(signals, client) for client in range(len(signals["client"]))]
    names = ("control_fidelity", "accuracy", "control_accuracy", "client_accuracy")
    return {
        "tests": len(signals["y"]),
        "fidelity": float(np.mean([row["fidelity"]["value"] for row in rows])),
        **{name: float(np.mean([row[name] for row in rows])) for name in names},
        "clients_above_control": sum(row["above_control"] for row in rows),
        "clients": sorted(rows, key=lambda row: -row["fidelity"]["value"]),
    }


def _client_row(s: Arrays, client: int) -> dict[str, Any]:
    of_client, of_extracted, of_control = (s[name][client] for name in ("client", "copy", "control"))
    tests, agree, by_chance = len(s["y"]), int((of_extracted == of_client).sum()), int((of_control == of_client).sum())
    low, high = clopper_pearson(agree, tests)
    return {
        "client": client,
        "rows": int(s["rows"][client]),
        "fidelity": {"value": agree / tests, "low": low, "high": high},
        "control_fidelity": by_chance / tests,
        "accuracy": float((of_extracted == s["y"]).mean()),
        "control_accuracy": float((of_control == s["y"]).mean()),
        "client_accuracy": float((of_client == s["y"]).mean()),
        "above_control": low > clopper_pearson(by_chance, tests)[1],
    }
