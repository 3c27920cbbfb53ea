"""Measurements of a client's model that only a simulation can make: they need the test set or the true labels.

All results are floats by name, like the metrics of a report, so every transport of a simulation can carry them.
Devices never run this code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import Federation, ProxySet
from edgefd.federation.metrics import SHARE, Range
from edgefd.learners.batches import softmax
from edgefd.learners.learner import Learner
from edgefd.runs.calibration import BINS, ece, reliability

AGREEMENT_ROWS = 1000
"""largest number of the teacher's rows that `agreement` compares, evenly spaced: ids are in random order, and more rows
add little precision"""


def evaluate(learner: Learner, federation: Federation, teacher: Knowledge | None, closing: bool) -> dict[str, float]:
    """Return a model's `accuracy` and `ece` on the test set, and its `agreement` with a teacher of proxy rows, if any.

    The result also holds the number of correct test rows of each class c as correct/c, and the number of test rows that
    are predicted as c as predicted/c; and in the closing round, for each bin b of `edgefd.runs.calibration`,
    bin_count/b, bin_confidence/b and bin_correct/b.
    """
    logits = learner.predict_logits(federation.x_test)
    predicted = logits.argmax(1)
    correct = predicted == federation.y_test
    bins = reliability(softmax(logits), federation.y_test)
    metrics = {"accuracy": float(correct.mean()), "ece": ece(bins)}
    if teacher is not None and len(teacher):
        metrics["agreement"] = agreement(learner, teacher, federation.proxy)
    for name, classes in (("correct", predicted[correct]), ("predicted", predicted)):
        metrics |= _numbered(name, np.bincount(classes, minlength=federation.n_classes).tolist())
    if closing:
        metrics |= _numbered("bin_count", bins.count)
        metrics |= _numbered("bin_confidence", bins.confidence)
        metrics |= _numbered("bin_correct", bins.correct)
    return metrics


def evaluation_ranges(n_classes: int, n_test: int) -> dict[str, Range]:
    """Return the smallest and largest value of each metric of `evaluate`, by name."""
    counts = [f"{name}/{c}" for name in ("correct", "predicted") for c in range(n_classes)]
    counts += [f"{name}/{b}" for name in ("bin_count", "bin_confidence", "bin_correct") for b in range(BINS)]
    return dict.fromkeys(("accuracy", "ece", "agreement"), SHARE) | dict.fromkeys(counts, (0.0, float(n_test)))


def _numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}/{i}": float(value) for i, value in enumerate(values)}


def agreement(learner: Learner, teacher: Knowledge, proxy: ProxySet) -> float:
    """Return the fidelity: the fraction of the teacher's rows for which model and teacher predict the same class."""
    rows = np.linspace(0, len(teacher) - 1, min(len(teacher), AGREEMENT_ROWS)).astype(np.int64)
    predicted = learner.predict_logits(proxy.x[teacher.ids[rows]]).argmax(1)
    return float((predicted == teacher.values[rows].argmax(1)).mean())
