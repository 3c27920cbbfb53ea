"""What a simulation measures of a client's model beyond what a device could: it has the test set, and the truth.

All numbers are floats by name, as a report's metrics are, so that they come by any transport of a simulation. Devices
never run this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import Federation, ProxySet
from edgefd.learners.batches import softmax
from edgefd.learners.learner import Learner
from edgefd.runs.calibration import ece, reliability

AGREEMENT_ROWS = 1000
"""of the teacher at most so many rows are asked about, evenly spaced: ids are in random order, and more tells little"""


def evaluate(learner: Learner, federation: Federation, teacher: Knowledge | None, closing: bool) -> dict[str, float]:
    """Its `accuracy` and `ece` on the test set; `agreement` with the teacher, if there is one of proxy samples.

    In the closing round also, for each class c and each bin b of `edgefd.runs.calibration`, how many test rows are right:
    correct/c, and bin_count/b, bin_confidence/b, bin_correct/b.
    """
    logits = learner.predict_logits(federation.x_test)
    right = logits.argmax(1) == federation.y_test
    bins = reliability(softmax(logits), federation.y_test)
    found = {"accuracy": float(right.mean()), "ece": ece(bins)}
    if teacher is not None and len(teacher):
        found["agreement"] = agreement(learner, teacher, federation.proxy)
    if closing:
        by_class = np.bincount(federation.y_test[right], minlength=federation.n_classes)
        found |= _numbered("correct", by_class.tolist())
        found |= _numbered("bin_count", bins.count)
        found |= _numbered("bin_confidence", bins.confidence)
        found |= _numbered("bin_correct", bins.correct)
    return found


def _numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}/{i}": float(value) for i, value in enumerate(values)}


def agreement(learner: Learner, teacher: Knowledge, proxy: ProxySet) -> float:
    """Fidelity: share of the teacher's rows for which the model's largest logit is the teacher's largest value."""
    rows = np.linspace(0, len(teacher) - 1, min(len(teacher), AGREEMENT_ROWS)).astype(np.int64)
    said = learner.predict_logits(proxy.x[teacher.ids[rows]]).argmax(1)
    return float((said == teacher.values[rows].argmax(1)).mean())
