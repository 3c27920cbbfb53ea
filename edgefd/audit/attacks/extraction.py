"""Extraction: how well whoever reads a client's reports can copy its model, from the history of soft labels alone.

The copy is a model of the client's kind, trained on the proxy samples that the client answered for, with the mean of
its soft labels over the rounds. The control is trained on the same soft labels, dealt out to the wrong samples: what it
agrees with the client on, class frequencies alone give away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefd.audit.attacks.model_outputs import recorded_learner
from edgefd.audit.attacks.student_models import student
from edgefd.audit.measures.statistics import clopper_pearson
from edgefd.audit.recording.read import Recording, reports
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.report import Report
from edgefd.runs.record import FINAL


def extraction_signals(recording: Recording) -> Arrays:
    """Classes that models give the test set.

    Returns:
        `client`, `copy`, `control` int64 [clients, tests]: by the final model, the copy, and the control; `y` [tests];
        `rows` int64 [clients]: proxy samples that the copy learned from.
    """
    config, federation = recording.config, recording.federation
    every = [report for round in recording.rounds for report in reports(recording, round)]
    found: dict[str, list[Int64]] = {"client": [], "copy": [], "control": []}
    rows = []
    for data in federation.clients:
        sent = history([r for r in every if r.client == data.client], federation.n_classes)
        order = make_rng(config.seed, Purpose.AUDIT, AuditStream.EXTRACTION_CONTROL, data.client).permutation(len(sent))
        shuffled = Knowledge(sent.ids, sent.values[order], sent.weights)
        rows.append(len(sent))
        models = {
            "client": recorded_learner(recording, FINAL, data.client),
            "copy": student(config, federation, data.client, sent, config.seed, 200, data.client),
            "control": student(config, federation, data.client, shuffled, config.seed, 200, data.client),
        }
        for name, learner in models.items():
            found[name].append(learner.predict_logits(federation.x_test).argmax(1))
    return {name: np.stack(classes) for name, classes in found.items()} | {
        "y": federation.y_test,
        "rows": np.array(rows),
    }


def history(reports: Sequence[Report], n_classes: int) -> Knowledge:
    """One client's reports as one: of each proxy row that it ever answered for, the mean soft label and weight."""
    known = [report.knowledge for report in reports if len(report.knowledge)]
    if not known:
        return empty(n_classes)
    ids, at = np.unique(np.concatenate([k.ids for k in known]), return_inverse=True)
    values, weights = np.zeros((len(ids), n_classes)), np.zeros(len(ids))
    np.add.at(values, at, np.concatenate([k.values for k in known]))
    np.add.at(weights, at, np.concatenate([k.weights for k in known]))
    count = np.bincount(at)
    means = (values / count[:, None]).astype(np.float32), (weights / count).astype(np.float32)
    return Knowledge(ids, *means)


def extraction(s: Arrays) -> dict[str, Any]:
    """Fidelity (share of the test set that copy and model call the same) and accuracy, by client, best copied first.

    Beside them the control's, and whether the copy's fidelity is above it for certain: 95 % intervals lie apart.
    """
    rows = [_copied(s, client) for client in range(len(s["client"]))]
    names = ("control_fidelity", "accuracy", "control_accuracy", "client_accuracy")
    return {
        "tests": len(s["y"]),
        "fidelity": float(np.mean([c["fidelity"]["value"] for c in rows])),
        **{name: float(np.mean([c[name] for c in rows])) for name in names},
        "clients_above_control": sum(c["above_control"] for c in rows),
        "clients": sorted(rows, key=lambda c: -c["fidelity"]["value"]),
    }


def _copied(s: Arrays, client: int) -> dict[str, Any]:
    of_client, of_copy, of_control = (s[name][client] for name in ("client", "copy", "control"))
    tests, agree, by_chance = len(s["y"]), int((of_copy == of_client).sum()), int((of_control == of_client).sum())
    low, high = clopper_pearson(agree, tests)
    return {
        "client": client,
        "rows": int(s["rows"][client]),
        "fidelity": {"value": agree / tests, "low": low, "high": high},
        "control_fidelity": by_chance / tests,
        "accuracy": float((of_copy == s["y"]).mean()),
        "control_accuracy": float((of_control == s["y"]).mean()),
        "client_accuracy": float((of_client == s["y"]).mean()),
        "above_control": low > clopper_pearson(by_chance, tests)[1],
    }
