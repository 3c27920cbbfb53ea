"""DDK: the server queries more rows of the classes in which the clients diverge most from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.learners.probabilities import divergence
from edgefd.selection._known_labels import KnownLabels
from edgefd.selection._rule import Metrics, SelectionState

CLASS_KL = "class_kl/"
"""Prefix of the metrics in which a client reports its divergence from the teacher, followed by the class."""
_MAX_DIVERGENCE = 20.0  # nats: a reported value above this is no divergence of soft labels
_REPORTED = (-1000.0, 1000.0)  # of rounded rows, which may sum to less or more than 1


@dataclass(frozen=True)
class Ddk(KnownLabels):
    """Query more rows of the classes in which clients report more divergence from the teacher."""

    name: Literal["ddk"] = "ddk"
    """more rows of the classes in which clients diverge most from the teacher"""
    uniform_share: float = 0.5
    """share of the budget that is divided equally among the classes, whatever their divergence"""

    reports_metrics: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.uniform_share <= 1:
            raise ValueError("uniform_share must be in [0, 1]")

    def choose(self, points: Float32, teacher: Knowledge | None, state: SelectionState, k: int) -> Int64:
        """See `KnownLabels.choose`."""
        return by_class(points, budget_shares(points, state.lag, self.uniform_share), k)

    def lag(self, metrics: Sequence[Metrics], n_classes: int) -> Float32:
        """See `KnownLabels.lag`."""
        return np.array([_mean_lag(metrics, c) for c in range(n_classes)], np.float32)

    def metric_ranges(self, n_classes: int) -> dict[str, tuple[float, float]]:
        """See `Selection.metric_ranges`."""
        return {f"{CLASS_KL}{c}": _REPORTED for c in range(n_classes)}

    def client_metrics(self, teacher: Knowledge, client_probs: Callable[[], Float32]) -> Metrics:
        """See `Selection.client_metrics`."""
        return class_divergence(teacher, client_probs()) if len(teacher) else {}


def groups(labels: Float32) -> Int64:
    """Return the most likely class of each row, or C for a uniform row, for which no client answered."""
    return np.asarray(np.where(labels.max(1) > labels.min(1), labels.argmax(1), labels.shape[1]))


def budget_shares(labels: Float32, lag: Float32, uniform_share: float) -> Float64:
    """Return the share of the budget of each class, float64 [C + 1]: (1 - u) lag_c / sum lag + u / N.

    u is `uniform_share`, and N the number of classes that have rows. The last class holds the rows for which no client
    answered; its lag is 0.

    >>> labels = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    >>> budget_shares(labels, np.array([3, 1], np.float32), 0.5)
    array([0.625, 0.375, 0.   ])
    """
    present = np.bincount(groups(labels), minlength=labels.shape[1] + 1) > 0
    divergences = np.append(lag, 0).astype(np.float64) * present
    uniform = present / max(present.sum(), 1)
    if not divergences.sum():
        return np.asarray(uniform)
    return np.asarray((1 - uniform_share) * divergences / divergences.sum() + uniform_share * uniform)


def by_class(labels: Float32, share: Float64, k: int) -> Int64:
    """Return the first rows of each class, as many as `apportion` assigns to it."""
    group = groups(labels)
    each = apportion(share, np.bincount(group, minlength=len(share)), k)
    return np.concatenate([np.flatnonzero(group == c)[:n] for c, n in enumerate(each)])


def apportion(share: Float64, available: Int64, k: int) -> Int64:
    """Assign k rows to the classes in proportion to `share`, at most `available` to each (D'Hondt's method).

    >>> apportion(np.array([0.625, 0.375]), np.array([9, 9]), 8), apportion(np.array([0.9, 0.1]), np.array([2, 9]), 5)
    (array([5, 3]), array([2, 3]))
    """
    assigned = np.zeros(len(share), np.int64)
    weight = np.maximum(share, 1e-12)  # a class of share 0 gets rows only if the others have none left
    for _ in range(k):
        assigned[np.where(assigned < available, weight / (assigned + 1), -1.0).argmax()] += 1
    return assigned


def _mean_lag(metrics: Sequence[dict[str, float]], c: int) -> float:
    divergences = [m[f"{CLASS_KL}{c}"] for m in metrics if f"{CLASS_KL}{c}" in m]
    return float(np.clip(divergences, 0, _MAX_DIVERGENCE).mean()) if divergences else 0.0


def class_divergence(teacher: Knowledge, client_probs: Float32) -> dict[str, float]:
    """Return the mean KL(teacher || client) for each class that the teacher predicts, as metrics."""
    kl, c = divergence(teacher.values, client_probs), teacher.values.argmax(1)
    return {f"{CLASS_KL}{k}": float(kl[c == k].mean()) for k in np.unique(c)}


RULE = Ddk
