"""KL: towards the teacher's soft labels, at a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.losses._loss import Distillation, Schedule, StepLoss
from edgefd.learners.probabilities import divergence, logits_of, softmax64


@dataclass(frozen=True)
class Kl(Distillation):
    """Cross-entropy of the teacher's soft labels, with both soft labels at the temperature T and the loss times T^2."""

    loss: Literal["kl"] = "kl"
    """towards the teacher's soft labels"""
    temperature: float = 1.0
    """temperature T of both soft labels; the loss is multiplied by T squared"""

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise ValueError("temperature must be above 0 and at most 100")

    def step_loss(self, schedule: Schedule) -> StepLoss | None:
        """See `Distillation.step_loss`. With T = 1, it is the loss of every training step."""
        return None if self.temperature == 1 else lambda z, p: kl_with_temperature(z, p, self.temperature)


def kl_with_temperature(z: Float32, p: Float32, temperature: float) -> tuple[Float64, Float64]:
    """Return targets and losses of T^2 KL(p_T || q_T), p_T = p^(1/T) normalised, q_T = softmax(z / T).

    Its gradient with respect to z is T (q_T - p_T).
    """
    p_t, q_t = softmax64(logits_of(p) / temperature), softmax64(z.astype(np.float64) / temperature)
    return softmax64(z) - temperature * (q_t - p_t), temperature**2 * divergence(p_t, q_t)


LOSS = Kl
