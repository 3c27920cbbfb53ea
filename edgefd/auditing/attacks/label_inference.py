"""Level 0: which classes a client has, and their shares, inferred from its reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.auditing.measures.statistics import auc
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float32, Float64, Int64

NO_PRIVATE_DATA = "a coordinator has no private data to compare with"


def label_inference(signals: Arrays) -> dict[str, Any]:
    """Estimate each client's class shares from masks alone, from weights, and from soft labels.

    Masks: the share of the proxy rows of class k for which the client sent soft labels, normalised over k.
    Weights: the same with the mean weight. Soft labels: their mean over the rows of a report, in the round in which
    this estimate is best. An adversary with the proxy samples can label them; without labels, the classes of the last
    teacher are used.
    """
    votes, classes, n_classes = signals["votes"], signals["classes"], signals["labels"].shape[2]
    weights = _by_class(signals["weights"], classes, n_classes)
    if "table" not in signals:
        return {"reason": NO_PRIVATE_DATA, "estimated_shares": _shares(weights).tolist()}
    last, table = votes[-1] if votes[-1].any() else votes.any(0), signals["table"]
    masks = _by_class(np.asarray(last, np.float32), classes, n_classes)
    results = {
        "masks": _compare(masks, table),
        "weights": _compare(weights, table),
    }
    by_round = [_compare(labels, table) for labels in signals["labels"]]
    best = int(np.argmin([row["total_variation"] for row in by_round]))
    results["soft_labels"] = by_round[best] | {"round": best}
    return results | {"soft_labels_by_round": [row["total_variation"] for row in by_round]}


def _shares(estimate: Float32) -> Float64:
    """Return the rows normalised to shares, float64 [clients, C]; equal shares where a row is empty."""
    total = estimate.sum(1, keepdims=True)
    uniform = np.full_like(estimate, 1 / estimate.shape[1])
    return np.where(total > 0, estimate / np.where(total > 0, total, 1), uniform).astype(np.float64)


def _by_class(weights: npt.NDArray[np.floating], classes: Int64, n_classes: int) -> Float32:
    """Return the mean weight (or mask) of each client on the rows of each class, float32 [clients, C]."""
    known = classes >= 0
    members = np.eye(n_classes, dtype=np.float32)[classes[known]]
    means: Float32 = (weights[:, known] @ members) / np.maximum(members.sum(0), 1)
    return means


def _compare(estimate: Float32, table: Int64) -> dict[str, Any]:
    """Compare estimated shares [clients, C] with the true ones, and measure how well they reveal present classes."""
    truth = table / table.sum(1, keepdims=True)
    shares = _shares(estimate)
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
