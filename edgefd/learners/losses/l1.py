"""L1: the absolute difference of the logits of client and teacher, up to a common shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.losses._loss import Distillation, Schedule, StepLoss
from edgefd.learners.probabilities import logits_of, softmax64


@dataclass(frozen=True)
class L1(Distillation):
    """Mean absolute difference of the logits of client and teacher, after the best common shift of a row."""

    loss: Literal["l1"] = "l1"
    """towards the teacher's logits, by their mean absolute difference"""

    def step_loss(self, schedule: Schedule) -> StepLoss | None:
        """See `Distillation.step_loss`."""
        return l1_up_to_shift


def l1_up_to_shift(z: Float32, p: Float32) -> tuple[Float64, Float64]:
    """Return targets and losses of min_s mean_c |z_c - log p_c - s|, with s = median_c (z_c - log p_c).

    Soft labels p determine the teacher's logits up to a common shift s of a row, and a shift of the client's logits
    changes no prediction of its own. The gradient g_c is sign(z_c - log p_c - s) / C. It sums to 0 over the classes,
    as a step with the targets q - g requires: as many logits lie above the median as below. Logits at the median share
    the rest, which keeps their part of the gradient between -1 / C and 1 / C, as a subgradient must be.
    """
    difference = z.astype(np.float64) - logits_of(p)
    difference -= np.median(difference, axis=1, keepdims=True)
    signs = np.sign(difference)
    at_median = difference == 0
    signs -= at_median * signs.sum(1, keepdims=True) / np.maximum(at_median.sum(1, keepdims=True), 1)
    return softmax64(z) - signs / z.shape[1], np.abs(difference).mean(1)


LOSS = L1
