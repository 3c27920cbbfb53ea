"""TAID: temporally adaptive interpolation, gradually from the client's own soft labels to the teacher's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.losses._loss import Distillation, Schedule, StepLoss
from edgefd.learners.probabilities import divergence, logits_of, softmax64

_STEP, _DECAY = 5e-4, 0.99  # alpha and beta of the published code of TAID


@dataclass(frozen=True)
class Taid(Distillation):
    """Targets between the soft labels of client and teacher, which approach the teacher's during the run."""

    loss: Literal["taid"] = "taid"
    """gradually from the client's own soft labels to the teacher's"""
    start: float = 0.4
    """share of the teacher at the beginning of a run; at the end it is 1"""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise ValueError("start must be in [0, 1]")

    def step_loss(self, schedule: Schedule) -> StepLoss:
        """See `Distillation.step_loss`."""
        rounds = schedule.rounds
        return Interpolation(self.start, (schedule.round - 1) / rounds, 1 / (rounds * max(schedule.steps, 1)))


class Interpolation:
    """Temporally adaptive interpolation: t = softmax((1 - s) z + s log p), L = KL(t || q), for rising s.

    With the progress u in [0, 1] over the run, s is at least start + (1 - start) u. It rises by
    alpha sigmoid(m) (1 - s) per step, where m is the moving average of the relative decrease of the loss.

    Args:
        start: s at the beginning of the run.
        progress: u at the first step.
        progress_per_step: increase of u per step.
    """

    def __init__(self, start: float, progress: float, progress_per_step: float) -> None:
        self._start, self._progress, self._progress_per_step = start, progress, progress_per_step
        self._momentum, self._last_loss = 0.0, 0.0
        self.share = 0.0
        """s after the last step"""

    def __call__(self, z: Float32, p: Float32) -> tuple[Float64, Float64]:
        """Return the targets and losses of one step, and update s."""
        logits = z.astype(np.float64)
        self.share = max(self.share, self._start + (1 - self._start) * self._progress)
        targets = softmax64((1 - self.share) * logits + self.share * logits_of(p))
        losses = divergence(targets, softmax64(logits))
        self._rise(float(losses.mean()))
        return targets, losses

    def _rise(self, loss: float) -> None:
        if self._last_loss > 0:
            self._momentum = _DECAY * self._momentum + (1 - _DECAY) * (self._last_loss - loss) / self._last_loss
        self._last_loss = loss
        self._progress += self._progress_per_step
        sigmoid = (1 + math.tanh(self._momentum / 2)) / 2
        self.share = min(1.0, self.share + _STEP * sigmoid * (1 - self.share))


LOSS = Taid
