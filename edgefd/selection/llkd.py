"""LLKD: a client distils rows on which the teacher is confident and the client is not, with weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import Candidates
from edgefd.selection._subset import Subset, best, rows_of

_MIN_GAIN = 1e-6


@dataclass(frozen=True)
class Llkd(Subset):
    """Choose and weight rows on which the teacher is confident and the client is not (`llkd`)."""

    name: Literal["llkd"] = "llkd"
    """rows on which the teacher is confident and the client is not"""

    needs_budget: ClassVar[bool] = False

    def subset(self, candidates: Candidates) -> Knowledge:
        """See `Selection.subset`."""
        teacher = candidates.teacher
        weights = llkd(teacher.values, candidates.client_probs())
        return rows_of(teacher, best(weights, min(self.n_rows(len(teacher)), int((weights > 0).sum()))), weights)


def llkd(teacher_probs: Float32, client_probs: Float32) -> Float32:
    """Return weights float32 [n] in [0, 1] that are above 0 where the teacher is confident and the client is not.

    A row whose class by the teacher is c has a weight above 0 iff max p_t is at least the mean of max p_t over c, and
    1 - max p_s is at least its mean over c. The weight is the product of both, relative to the largest product.
    """
    confidence, uncertainty, c = teacher_probs.max(1), 1 - client_probs.max(1), teacher_probs.argmax(1)
    n_classes = teacher_probs.shape[1]
    count = np.maximum(np.bincount(c, minlength=n_classes), 1)
    passed = np.ones(len(teacher_probs), np.bool_)
    for x in (confidence, uncertainty):
        passed &= x >= (np.bincount(c, x, n_classes) / count)[c] - _MIN_GAIN  # a single row of a class equals its mean
    score = np.where(passed, np.maximum(confidence * uncertainty, _MIN_GAIN), 0)
    return np.asarray(score / max(score.max(initial=0), _MIN_GAIN), np.float32)


RULE = Llkd
